"""What pictures hold that no figure shows and no suffix says: tags that turn them, 16 bits of which few are used, transparency."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from fna.data.pictures import PAGED, is_deep, pages_note, upper_halves, white
from fna.values import counted

LOOKED_AT = 1000  # pictures, from all over the set, whose headers are read: a fraction of a second
DECODED = 64  # of those of 16 bits, and of those with an alpha channel: to know what it hides is to decode them
WHITE = 2**16 - 1
DARK = 2**14  # what stays below comes out at a quarter of its brightness at most
ANIMATED = frozenset({"PNG", "GIF", "WEBP"})  # whatever the suffix; a JPEG of a phone may hold a thumbnail as a second one
ORIENTATION, UPRIGHT = 274, 1  # a tag of EXIF, and what it says of a picture that is stored as it is to be seen


def image_notes(paths: Iterable[Path]) -> list[str]:
    """What to note of these pictures, a sentence a kind; nothing of usual ones."""
    paths = list(paths)
    looked_at = _spread(paths, LOOKED_AT)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Pillow, which says it again when the picture is read
        headers = {path: _header(path) for path in looked_at}
        turned, clear = ([path for path in looked_at if headers[path][kind]] for kind in (0, 2))
        dark = [
            note
            for kind in ("grey", "colour")
            for note in _dark_note(kind, [path for path in looked_at if headers[path][1] == kind], len(looked_at))
        ]
        moving = [path for path in looked_at if headers[path][3] and path.suffix.lower() not in PAGED]
        return [
            *pages_note(paths),
            *_moving_note(moving, len(looked_at)),
            *_turned_note(turned, len(looked_at)),
            *dark,
            *_clear_note(clear),
        ]


def _spread(paths: Sequence[Path], most: int) -> Sequence[Path]:
    return paths[:: -(-len(paths) // most)] if paths else paths


def _header(path: Path) -> tuple[bool, str, bool, bool]:
    """Whether a tag turns or mirrors the picture, what of it may use all 16 bits ("grey", "colour" or nothing), whether it may be
    transparent, whether it is an animation; nothing of it if unreadable."""
    if not path.is_file():  # a pipe would be waited for
        return False, "", False, False
    try:
        with Image.open(path) as image:
            # this first: to know the tags of a PNG, Pillow reads all of it
            deep = "grey" if is_deep(image) and white(image) == WHITE else upper_halves(image)
            turned = image.getexif().get(ORIENTATION, UPRIGHT) in range(2, 9)
            moves = image.format in ANIMATED and getattr(image, "n_frames", 1) > 1
            return turned, deep, image.has_transparency_data, moves
    except Exception:  # as in `open_image`, which will say what is wrong with it
        return False, "", False, False


def _moving_note(moving: Sequence[Path], looked_at: int) -> list[str]:
    if not moving:
        return []
    are = "is an animation, of which" if len(moving) == 1 else "are animations, of which"
    return [f"{len(moving)} of {counted(looked_at, 'picture')} looked at {are} the first frame is read (first: {moving[0].name})"]


def _turned_note(turned: Sequence[Path], looked_at: int) -> list[str]:
    if not turned:
        return []
    return [
        f"{len(turned)} of {counted(looked_at, 'picture')} looked at carry an EXIF tag that turns or mirrors them (first: "
        f"{turned[0].name}): all are read as they are stored, as torchvision, timm and open_clip do, the same for full attention "
        "and every contender; to have them upright, save them turned (PIL.ImageOps.exif_transpose)"
    ]


def _dark_note(kind: str, deep: Sequence[Path], looked_at: int) -> list[str]:
    highest = max((_highest(path) for path in _spread(deep, DECODED)), default=0)
    if not 0 < highest < DARK:
        return []
    bits = max(8, highest.bit_length())
    return [
        f"{len(deep)} of {counted(looked_at, 'picture')} looked at hold 16-bit {kind} that goes up to {highest:,} of {WHITE:,} "
        f"(first: {deep[0].name}): they come out dark; if the camera gave {bits} bits, save them as 16 (values times "
        f"{2 ** (16 - bits)}) or scaled to 8"
    ]


def _highest(path: Path) -> int:
    """The highest value that a picture of 16 bits holds; at most may hold, where Pillow hands over its upper 8 bits."""
    try:
        with Image.open(path) as image:
            if not upper_halves(image):
                return int(np.asarray(image).max(initial=0))
            upper, rounded = int(np.asarray(image.convert("RGB")).max(initial=0)), image.format == "PPM"
            return 256 * (upper + (not rounded)) - 1
    except Exception:  # as above
        return 0


def _clear_note(clear: Sequence[Path]) -> list[str]:
    decoded = _spread(clear, DECODED)
    hiding = [path for path in decoded if _hides(path)]
    if not hiding:
        return []
    return [
        f"{len(hiding)} of {counted(len(decoded), 'picture')} with an alpha channel looked at have transparent parts (first: "
        f"{hiding[0].name}): what lies beneath is read, often black, as torchvision, timm and open_clip do, and black drawings are "
        "lost in it; to have them on white, save them so (PIL.Image.alpha_composite)"
    ]


def _hides(path: Path) -> bool:
    """Whether any pixel is transparent, be it in part."""
    try:
        with Image.open(path) as image:
            return int(np.asarray(image.convert("RGBA"))[..., 3].min(initial=255)) < 255
    except Exception:  # as above
        return False
