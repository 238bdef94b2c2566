"""Values of label maps: read as they are stored, held against what is declared, turned into classes."""

from __future__ import annotations

from collections.abc import Sequence, Set
from pathlib import Path

import numpy as np
from PIL import Image

from fna.data.base import Segmented
from fna.data.pictures import exchanged, reason, upper_halves
from fna.data.variants import refuse_colours
from fna.errors import UserError
from fna.mistaken import refuse_mistaken
from fna.values import counted

Array = np.ndarray
IGNORE = 255
UNKNOWN = -1
VALUES = 65536  # 16-bit label maps
LOSSY = ("JPEG", "MPO")  # formats that change pixel values
WIDENED = ("RGB", "RGBA", "LA")  # modes that grey of 8 bits may have been saved in


def lookup(classes: int, ignored: Sequence[int], absent: Sequence[int] = ()) -> Array:
    """int64 ``[65536]``: label value -> class, 255 (ignored) or -1 (must not occur)."""
    table = np.full(VALUES, UNKNOWN)
    skipped = {*ignored, *absent}
    values = [value for value in range(classes + len(skipped)) if value not in skipped][:classes]
    table[values] = np.arange(classes)
    table[list(ignored)] = IGNORE
    return table


def read_values(file: Path) -> Array:
    """The values of a label PNG ``[H, W]`` as stored: palette indices or grey levels, those of grey saved as colours included."""
    try:
        with Image.open(file) as image:
            if image.format in LOSSY:
                raise UserError(f"{file}: a {image.format} keeps class values about right only; give label maps as PNG.")
            if (pages := getattr(image, "n_frames", 1)) > 1:
                raise UserError(f"{file}: has {pages} pages; give label maps of one.")
            if (grey := _grey(image)) is not None:
                return np.asarray(grey).astype(np.int64)
            refuse_colours(image, str(file))
            _refuse_stretched(image, file)
            return np.asarray(image).astype(np.int64)
    except UserError:
        raise
    except Exception as error:  # Pillow's decoders raise many things on damaged files, see `pictures.open_image`
        refuse_mistaken(file)
        raise UserError(f"{file}: cannot be read as a label map ({reason(error)}); give a PNG of class values.") from error


def _grey(image: Image.Image) -> Image.Image | None:
    """The one channel of grey that a program saved as colours (R = G = B, with nothing transparent); None of all else.

    Of 16 bits a channel Pillow hands over the upper ones, which are not the values.
    """
    if image.mode not in WIDENED or upper_halves(image):
        return None
    *colours, last = image.split()
    if not image.mode.endswith("A"):
        colours = [*colours, last]
    elif last.getextrema() != (255, 255):
        return None
    first, *others = colours
    return first if all(other.tobytes() == first.tobytes() for other in others) else None


def grey_note(files: Sequence[Path]) -> list[str]:
    """A note of the label maps among ``files``, all of which are read, that are grey saved as colours; none where there is none."""
    widened = [file for file in files if _mode(file) in WIDENED]
    if not widened:
        return []
    return [
        f"{len(widened)} of {counted(len(files), 'label map')} looked at are grey saved as colours (first: {widened[0].name}): "
        "R, G and B are the same everywhere and are read as one class value"
    ]


def binary_note(values: Set[int], ignored: Sequence[int]) -> list[str]:
    """A note where label maps are black and white, and white (255) is ignored: it usually is what was drawn."""
    if values != {0, IGNORE} or IGNORE not in ignored:
        return []
    return [
        "the label maps looked at hold 0 and 255 alone, and 255 is ignored: if white is what was drawn, save it as 1, for these "
        "scores are of what is black alone"
    ]


def _mode(file: Path) -> str:
    with Image.open(file) as image:
        return image.mode


def unlike(example: Segmented, size: tuple[int, int], own: tuple[int, int]) -> UserError:
    """The error for a label map of ``own`` (width, height) beside an image of another ``size``."""
    (width, height), (wide, high) = size, own
    alike = abs(width * high - height * wide) <= max(size)  # but for a side rounded by half a pixel of the label map
    mend = (
        f"; enlarge or reduce the label map to {width}x{height} with nearest neighbours, which make no new values "
        f"(PIL: label.resize(({width}, {height}), 0)), or give the image at {wide}x{high}"
        if alike
        else "; they do not show the same part of the scene: give the label map that was drawn on this image, uncropped"
    )
    return UserError(
        f"{example.labels}: {wide}x{high}, but its image {example.image} is {width}x{height}{exchanged(size, own) or mend}."
    )


def _refuse_stretched(image: Image.Image, file: Path) -> None:
    """Raise `UserError` for grey values that Pillow (12.3) does not hand over as they are stored.

    Those of 2 or 4 bits it stretches to 8, and a PGM's to 255 or 65535 where its maximum is neither: class 1 of 20 would be read
    as 13.
    """
    tiles = getattr(image, "tile", None)
    if not tiles:
        return
    codec, arguments = tiles[0][0], tiles[0][-1]
    raw = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    if isinstance(raw, str) and raw.startswith(("L;2", "L;4")):
        raise UserError(f"{file}: grey of {raw[2]} bits, which Pillow stretches to 8 when it is read; save it with 8 bits.")
    if image.format != "PPM":
        return
    most = arguments[-1] if isinstance(arguments, tuple) and isinstance(arguments[-1], int) else None
    if codec != "raw" and most not in (255, 65535):
        raise UserError(f"{file}: a PGM with values up to {most}, which Pillow stretches when it is read; save it as PNG.")


def to_classes(values: Array, table: Array, file: Path, name: str) -> Array:
    """Label values through a `lookup` table; raises `UserError` naming the file and the first value that is unknown."""
    inside = (values >= 0) & (values < VALUES)
    classes = np.where(inside, table[np.where(inside, values, 0)], UNKNOWN)
    if (classes == UNKNOWN).any():
        value = values[classes == UNKNOWN][0]
        raise UserError(
            f"{file}: label value {value}, which no class of {name} has: {_declared_values(table)}; name all classes "
            "(dataset.classes), or the values that are none (dataset.ignored=[...]), or is this another data set's label map?"
        )
    return classes


def _declared_values(table: Array) -> str:
    """What a `lookup` table takes, in words: the classes' values and the ignored ones."""
    ignored = np.flatnonzero(table == IGNORE).tolist()
    taken = np.flatnonzero((table != IGNORE) & (table != UNKNOWN)).tolist()
    besides = f", {', '.join(map(str, ignored))} {'is' if len(ignored) == 1 else 'are'} ignored" * bool(ignored)
    gaps = " with gaps" * (taken[-1] - taken[0] >= len(taken))
    values = f"{len(taken)} classes have the values {taken[0]} to" if len(taken) > 1 else "only class has the value"
    return f"its {values} {taken[-1]}{gaps}{besides}"
