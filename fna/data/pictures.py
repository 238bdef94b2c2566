"""Which files are pictures, and a picture as 8-bit RGB: nothing is lost without a word, and none takes all memory."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from fna.data.files import UNREADABLE, is_packed
from fna.errors import UserError
from fna.values import counted

# what torchvision's ImageFolder reads, and the other names of JPEG
SUFFIXES = frozenset({".jpg", ".jpeg", ".jfif", ".jpe", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"})
# pictures that are not read
OTHER_SUFFIXES = frozenset(
    {
        ".arw",
        ".avif",
        ".cr2",
        ".dng",
        ".exr",
        ".gif",
        ".hdr",
        ".heic",
        ".heif",
        ".ico",
        ".jp2",
        ".jxl",
        ".nef",
        ".pbm",
    }
    | {
        ".pnm",
        ".psd",
        ".raw",
        ".svg",
        ".tga",
        ".apng",
        ".dds",
        ".dib",
        ".hif",
        ".icns",
        ".im",
        ".j2c",
        ".j2k",
        ".jls",
        ".jpf",
        ".jpx",
    }
    | {".orf", ".pcx", ".pfm", ".qoi", ".rw2", ".sgi", ".xbm", ".xpm", ".dcm", ".fit", ".fits", ".ndpi", ".nii", ".svs"}
)
# Folders and files that systems put among pictures, in small letters: thumbnails and bins of network drives, Windows and macOS
SYSTEMS = frozenset(
    {"@eadir", "@recycle", "@recently-snapshot", "@sharebin", "@tmp", "#recycle", "#snapshot", "$recycle.bin", "lost+found"}
    | {
        "system volume information",
        "__macosx",
        "network trash folder",
        "temporary items",
        "thumbs.db",
        "ehthumbs.db",
        "desktop.ini",
    }
)
DOTTED = (".trash", ".recycle", ".thumb", ".@__thumb", ".appledouble")  # those that are hidden besides
BEGINNINGS = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"II*\0", b"MM\0*")  # of JPEG, PNG, GIF, TIFF
PAGED = frozenset({".tif", ".tiff", ".webp"})  # formats in which several pictures are one file
PIXELS = 89_478_485  # of a picture at most: where Pillow begins to warn of decompression bombs; 360 MB as RGB
TOO_MANY = f"more than the {PIXELS:,} that are read of a picture; scale it down, or leave it out"
ELONGATION = 100  # times that a picture may be longer than high: a resized short side of 1,000 then gives 100 million pixels
BITS_PER_SAMPLE, PHOTOMETRIC, WHITE_IS_ZERO = 258, 262, 0  # tags of TIFF, and what the second may say
PLANES, APART = 284, 2  # another tag, and what it says of channels that lie one behind the other
PNM_AND_PNG = ("PNG", "PPM")  # mode "I" of these is 16 bits wide; elsewhere it may mean anything


def open_image(path: Path) -> Image.Image:
    """The picture as RGB of 8 bits, decoded here and now; 16-bit grey is scaled, transparency and EXIF orientation are ignored.

    As in torchvision, timm and open_clip, from which published figures come, nothing is turned upright. Raises one of
    `files.UNREADABLE` for a file that is missing or damaged, for numbers that declare no range (float or 32-bit pixels), and for
    pictures of more than `PIXELS` or `ELONGATION`.
    """
    if not path.is_file():  # a pipe would be waited for
        raise FileNotFoundError("there is no such file")
    try:
        with Image.open(path) as image:
            _check_size(*image.size)
            return _eight_bits(image).convert("RGB")
    except Image.DecompressionBombError as error:
        raise ValueError(reason(error)) from error
    except UNREADABLE:
        raise
    except Exception as error:  # Pillow's decoders raise many things on damaged files: struct.error, KeyError, TypeError, ...
        raise ValueError(f"damaged: {type(error).__name__} {error}") from error


def reason(error: BaseException) -> str:
    """Why a picture cannot be read: Pillow's words, but for its guess at what a large picture is for."""
    declared = re.search(r"(\d+) pixels", str(error)) if isinstance(error, Image.DecompressionBombError) else None
    return f"declares {int(declared[1]):,} pixels, {TOO_MANY}" if declared else str(error)


def is_hidden(name: str) -> bool:
    """Files and folders of the system: .DS_Store, ._0001.jpg beside 0001.jpg, what else `SYSTEMS` names."""
    return name.startswith(".") or name.lower() in SYSTEMS


def files_below(folder: Path) -> list[Path]:
    """All files below ``folder`` that are not hidden, sorted; links to folders are followed, each folder once.

    Raises `UserError` for a link to what is not there, which may be a folder of pictures where it is called as none is, and for a
    folder that cannot be looked into.
    """
    found: list[Path] = []
    for parent, _, names in _walked(folder):
        here = [Path(parent, name) for name in names if not is_hidden(name)]
        for path in here:
            if not is_picture(path) and path.is_symlink() and not path.exists():
                raise UserError(
                    f"{path}: a link to {path.readlink()}, which is not there; bring back what it links to, or remove it."
                )
        found += here
    return sorted(found)


def files_in(folder: Path) -> list[Path]:
    """The files in ``folder`` itself that are not hidden, sorted."""
    return sorted(path for path in folder.iterdir() if not is_hidden(path.name) and path.is_file())


def stray_note(folder: Path) -> list[str]:
    """A note that counts the pictures which lie beside class folders, in none of them; none where there is none."""
    stray = sum(map(is_picture, files_in(folder)))
    return [f"{counted(stray, 'picture')} left out: in {folder} itself, in no class folder"] * bool(stray)


def system_note(folder: Path) -> list[str]:
    """A note that counts the pictures below ``folder`` in folders of the system, thumbnails and what was deleted, by those
    folders' names; none where there is none."""
    left: Counter[str] = Counter()
    for parent, service, _ in _walked(folder):
        for name in service:
            inside = (file for _, _, files in os.walk(Path(parent, name)) for file in files)
            left[name] += sum(is_picture(Path(file)) and not file.startswith(".") for file in inside)
    if not (found := +left):
        return []
    return [f"{counted(found.total(), 'picture')} left out: in folders of the system ({', '.join(sorted(found))})"]


def _walked(folder: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """Each folder from ``folder`` on that is not hidden: its path, the names of systems' folders in it, those of files."""
    seen: set[str] = set()
    for parent, inner, names in os.walk(folder, followlinks=True, onerror=_refuse):
        service = [name for name in inner if name.lower() in SYSTEMS or name.lower().startswith(DOTTED)]
        again = (real := os.path.realpath(parent)) in seen
        inner[:] = [] if again else [name for name in inner if not is_hidden(name)]
        if not again:
            seen.add(real)
            yield parent, service, names


def _refuse(error: OSError) -> None:
    raise UserError(f"{error.filename}: cannot be looked into ({error.strerror}); give yourself the right to it, or remove it.")


def is_picture(path: Path) -> bool:
    """Whether the suffix is one that is read, in whatever case."""
    return path.suffix.lower() in SUFFIXES


def unread_note(paths: Iterable[Path]) -> list[str]:
    """A note that counts the pictures among ``paths`` whose names end in no suffix that is read; none where there is none."""
    endings = Counter(path.suffix.lower() or "no suffix" for path in paths if not is_picture(path) and _unread(path))
    if not endings:
        return []
    left = counted(sum(endings.values()), "picture")
    return [f"{left} left out: {', '.join(sorted(endings))} is not read ({', '.join(sorted(SUFFIXES))} are)"]


def packed_note(paths: Iterable[Path]) -> list[str]:
    """A note of archives among ``paths``, whose pictures are not read; none of one that was unpacked into a folder beside it."""
    packed = [path for path in paths if is_packed(path) and not path.with_name(path.stem.removesuffix(".tar")).is_dir()]
    if not packed:
        return []
    kinds = ", ".join(sorted({path.suffix.lower() for path in packed}))
    return [f"{counted(len(packed), 'archive')} ({kinds}; first: {packed[0].name}) left out: unpack what holds pictures"]


def _unread(path: Path) -> bool:
    """Whether this is a picture all the same: by its suffix, else by its first bytes."""
    if path.suffix.lower() in OTHER_SUFFIXES or not path.is_file():  # a pipe would be waited for
        return path.suffix.lower() in OTHER_SUFFIXES
    try:
        with path.open("rb") as file:
            start = file.read(12)
    except OSError:
        return False
    return start.startswith(BEGINNINGS) or (start[:4], start[8:]) == (b"RIFF", b"WEBP")


def pages_note(paths: Iterable[Path]) -> list[str]:
    """A note that counts the pictures of several pages, of which the first is read; none where there is none."""
    several = [path for path in paths if path.suffix.lower() in PAGED and _pages(path) > 1]
    if not several:
        return []
    return [f"of {counted(len(several), 'picture')} with several pages or frames the first page is read (first: {several[0].name})"]


def _pages(path: Path) -> int:
    if not path.is_file():  # a pipe would be waited for
        return 1
    try:
        with Image.open(path) as image:
            return int(getattr(image, "n_frames", 1))
    except Exception:  # as in `open_image`, which will say what is wrong with it
        return 1


def exchanged(size: tuple[int, int], other: tuple[int, int]) -> str:
    """What to say of two sizes that differ in which side is which; empty for others."""
    return "; if the image is turned by an EXIF tag, save it turned (PIL.ImageOps.exif_transpose)" if size == other[::-1] else ""


def _check_size(width: int, height: int) -> None:
    if width * height > PIXELS:
        raise ValueError(f"{width}x{height}: {width * height:,} pixels, {TOO_MANY}")
    if max(width, height) > ELONGATION * min(width, height):
        raise ValueError(f"{width}x{height}: one side more than {ELONGATION} times the other")


def is_deep(image: Image.Image) -> bool:
    """Whether this is 16-bit grey, by its header alone."""
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format in PNM_AND_PNG)


def white(image: Image.Image) -> int:
    """The highest value that 16-bit grey may have by its header: 65,535, less where a TIFF says so."""
    return int(2 ** getattr(image, "tag_v2", {}).get(BITS_PER_SAMPLE, (16,))[0] - 1)


def upper_halves(image: Image.Image) -> str:
    """ "grey" (with an alpha channel) or "colour" where Pillow hands over the upper 8 of 16 bits a channel, by the header alone.

    Empty for all others. In mode RGB it does, whatever the format; what a PPM with another maximum gives is scaled to 8 bits.
    """
    tiles = getattr(image, "tile", None)
    if is_deep(image) or image.mode not in ("RGB", "RGBA", "LA") or not tiles:
        return ""
    arguments = tiles[0][-1]
    raw, *most = arguments if isinstance(arguments, tuple) else (arguments,)
    deep = ";16" in str(raw) or (image.format == "PPM" and most == [65_535])
    return ("grey" if str(raw).startswith("L") else "colour") * deep


def _apart(image: Image.Image) -> bool:
    """Whether this is an uncompressed TIFF of 16 bits that holds each channel for itself: Pillow (12.3) takes it for one of 8."""
    tags = getattr(image, "tag_v2", {})
    tiles = getattr(image, "tile", None) or [("", ())]
    return tiles[0][0] == "raw" and tags.get(PLANES) == APART and white(image) > 255


def _eight_bits(image: Image.Image) -> Image.Image:
    """A picture of 16-bit grey with its range brought to 0..255 (Pillow's own conversion cuts off at 255); others as they are."""
    if _apart(image):
        raise ValueError("a TIFF of 16 bits with each channel for itself, which Pillow misreads; save it with interleaved channels")
    if is_deep(image):
        grey = np.rint(np.asarray(image).astype(np.float64) * (255 / white(image))).clip(0, 255).astype(np.uint8)
        return Image.fromarray(255 - grey if getattr(image, "tag_v2", {}).get(PHOTOMETRIC) == WHITE_IS_ZERO else grey)
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode}, whose range is not declared; save it with 8 or 16 bits")
    return image
