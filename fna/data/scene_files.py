"""Scenes on disk in COCO's formats: written once, found again by their name, checked by a digest.

<root>/<kind>_<split>_<count>_<size>px_v1/
    <split>/000000000007.png              images
    annotations/captions_<split>.json     five captions an image, each with its level; of a twin what differs from the image before
    annotations/instances_<split>.json    RLE masks of what is visible; categories are the eight shapes
    annotations/swapped_<split>.json      {image id: nine captions made false by exchanged attributes}
    annotations/questions_<split>.json    {image id: questions with their answers}
    manifest.json                         sha256 of every file, and of all of them
"""

import hashlib
import json
import shutil
import tempfile
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from PIL import Image

from fna.data.pictures import is_picture
from fna.data.scene_captions import LEVELS, captions, full_caption, swapped_captions
from fna.data.scene_drawing import draw
from fna.data.scene_questions import ask
from fna.data.scene_twins import difference, twin
from fna.data.scenes import SHAPES, Scene, make_scene

FORMAT = 1  # raise when the same seeds give other files
SEEDS = {"test": range(0, 1_000_000), "val": range(1_000_000, 2_000_000), "train": range(10_000_000, 2**40)}
KINDS = {"scenes": (3, 5), "twins": (3, 5), "single": (1, 1)}  # least and most things
SWAPPED = 9
LOOKED_AT = 50_000  # entries of a folder, at whatever depth, among which somebody's own pictures are looked for


def scenes_of(split: str, count: int, kind: str = "scenes") -> list[Scene]:
    """The first `count` scenes of a split, of "twins" every second one the twin of the one before; no full caption twice.

    Single things have fewer descriptions than a split has images, so there captions may repeat.
    """
    found: list[Scene] = []
    told: set[str] = set()
    for seed in SEEDS[split]:
        if len(found) >= count:
            break
        scene = make_scene(seed, *KINDS[kind])
        drawn = [scene, twin(scene)] if kind == "twins" else [scene]
        captions = {full_caption(one) for one in drawn}
        if kind == "single" or told.isdisjoint(captions):
            told |= captions
            found += drawn
    return found[:count]


def write_split(root: Path, split: str, count: int, size: int, kind: str = "scenes") -> Path:
    """The folder of a split, drawn first where it is not there yet or not what it was.

    Safe with several processes at once: one draws under a lock into a folder of its own, which is then renamed.
    """
    folder = root / f"{kind}_{split}_{count}_{size}px_v{FORMAT}"
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if folder.exists() and not _whole(folder):
            shutil.rmtree(folder)
        if not folder.exists():
            part = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=root))
            try:
                _write(part, split, scenes_of(split, count, kind), size, kind)
                part.chmod(0o755)
                part.rename(folder)
            finally:
                shutil.rmtree(part, ignore_errors=True)
    return folder


def foreign_picture(root: Path) -> Path | None:
    """A picture below ``root`` that no drawn split holds, the nearest first; None where the first `LOOKED_AT` entries have none."""
    waiting, left = deque([root]), LOOKED_AT
    while waiting and left > 0:
        folder = waiting.popleft()
        entries = sorted(islice(_entries(folder), left))
        left -= len(entries)
        annotated = (folder.parent / "annotations").is_dir()  # scenes have these beside
        picture = next((path for path in entries if is_picture(path) and path.is_file()), None)
        if picture and not annotated:
            return picture
        if not (folder / "manifest.json").is_file():  # of a drawn split
            waiting += [path for path in entries if path.is_dir()]
    return None


def _entries(folder: Path) -> Iterator[Path]:
    with suppress(OSError):  # a folder that cannot be looked into is not drawn in either
        yield from folder.iterdir()


def digest_of(folder: Path) -> str:
    """The digest that the manifest of a written split records."""
    return str(json.loads((folder / "manifest.json").read_text())["digest"])


def _whole(folder: Path) -> bool:
    """Whether every file is there and has the digest of the manifest."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        return bool(manifest == _manifest(folder, list(manifest["files"])))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _manifest(folder: Path, names: list[str]) -> dict[str, Any]:
    files = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    return {"files": files, "digest": hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()}


def _write(folder: Path, split: str, scenes: list[Scene], size: int, kind: str) -> None:
    (folder / split).mkdir()
    (folder / "annotations").mkdir()
    images: list[dict[str, Any]] = []
    told: list[dict[str, Any]] = []
    instances: list[dict[str, Any]] = []
    for number, scene in enumerate(scenes):
        pixels, owners = draw(scene, size)
        name = f"{number:012d}.png"
        Image.fromarray(pixels).save(folder / split / name, compress_level=1)
        changed = {"changed": difference(scenes[number - 1], scene)} if kind == "twins" and number % 2 else {}
        images.append({"id": number, "file_name": name, "width": size, "height": size, "seed": scene.seed, **changed})
        for level, caption in zip(LEVELS, captions(scene), strict=True):
            told.append({"id": len(told), "image_id": number, "caption": caption, "level": level})
        instances += [
            {"id": len(instances) + i + 1, "image_id": number, **found} for i, found in enumerate(_instances(scene, owners))
        ]
    categories = [{"id": i + 1, "name": shape, "supercategory": "shape"} for i, shape in enumerate(SHAPES)]
    tables: dict[str, Any] = {
        "captions": {"images": images, "annotations": told},
        "instances": {"images": images, "annotations": instances, "categories": categories},
        "questions": {
            number: [{"kind": q.kind, "question": q.text, "answer": q.answer} for q in questions]
            for number, questions in enumerate(ask(scenes))
        },
    }
    if kind != "single":
        tables["swapped"] = {number: swapped_captions(scene, SWAPPED) for number, scene in enumerate(scenes)}
    for table, content in tables.items():
        (folder / f"annotations/{table}_{split}.json").write_text(json.dumps(content))
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    (folder / "manifest.json").write_text(json.dumps(_manifest(folder, names), indent=1))


def _instances(scene: Scene, owners: np.ndarray) -> list[dict[str, Any]]:
    """COCO instances of a scene from its owners `[size, size]`: what is visible of each thing, from back to front."""
    from pycocotools import mask as rle

    found = []
    for index, thing in enumerate(scene.things):
        mask = np.asfortranarray(owners == index + 1, dtype=np.uint8)
        coded = rle.encode(mask)
        found.append(
            {
                "category_id": SHAPES.index(thing.shape) + 1,
                "segmentation": {"size": list(coded["size"]), "counts": coded["counts"].decode()},
                "area": int(mask.sum()),
                "bbox": [float(side) for side in rle.toBbox(coded)],
                "iscrowd": 0,
                "attributes": {"colour": thing.colour, "size": thing.size, "texture": thing.texture, "place": thing.place},
            }
        )
    return found
