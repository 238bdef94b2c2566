"""Make a data set ready from files already here; say what is missing and where to get it. Never touches the network.

    python scripts/prepare.py ade20k --root data/ADEChallengeData2016
    python scripts/prepare.py --list

Archives are looked for in the root and beside it, checked against their published digests, and unpacked, nothing outside their
folder; files that are there in full are left alone, so a run that was stopped goes on. Exit status 0 when all is there.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from prepare_recipes import RECIPES, Archive, Recipe

Member = tuple[str, int, IO[bytes]]


class Refused(Exception):
    """Something that the user has to mend, in one line."""


def main() -> None:
    asks = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    asks.add_argument("dataset", nargs="?", help=", ".join(RECIPES))
    asks.add_argument("--root", type=Path)
    asks.add_argument("--list", action="store_true", help="all data sets with their terms")
    args = asks.parse_args()
    if args.list:
        print("\n".join(f"{name:16} {recipe.terms}" for name, recipe in RECIPES.items()))
        return
    try:
        if args.dataset is None:
            raise Refused(f"say which data set: {', '.join(RECIPES)}; --list tells their terms.")
        if args.dataset not in RECIPES:
            raise Refused(f"{args.dataset}: no recipe; there is {', '.join(RECIPES)}.")
        if args.root is None:
            raise Refused("say where the data are or shall be: --root DIR")
        prepare(RECIPES[args.dataset], args.root)
    except Refused as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("interrupted: files that are whole are kept, the same command goes on", file=sys.stderr)
        sys.exit(130)


def prepare(recipe: Recipe, root: Path) -> None:
    """Unpack what is here, make what the recipe makes of it, and check the counts. Raises `Refused` for what is missing."""
    print(f"terms: {recipe.terms}")
    for note in recipe.notes:
        print(f"note: {note}")
    if missing_files(recipe, root):
        for archive in recipe.archives:
            found = find(archive, root)
            if found is not None:
                check_digest(archive, found)
                unpack(archive, found, root)
    if recipe.step == "karpathy" and (root / "dataset_coco.json").is_file():
        print(karpathy_5k(root))
    missing = missing_files(recipe, root)
    if missing:
        needed = [f"{archive.file} from {archive.url}" for archive in recipe.archives if find(archive, root) is None]
        fetch = f"; put into {root}: {', '.join(needed)}" if needed else "; the archives do not hold more: fetch them again"
        raise Refused(f"missing: {', '.join(missing)}{fetch}")
    print(f"{root}: complete, {', '.join(f'{count} {pattern}' for pattern, count in recipe.counts.items())}")


def missing_files(recipe: Recipe, root: Path) -> list[str]:
    """Which of the recipe's patterns have fewer files than they should."""
    there = {pattern: sum(1 for _ in root.glob(pattern)) for pattern in recipe.counts}
    return [f"{recipe.counts[pattern] - count} of {recipe.counts[pattern]} {pattern}"
            for pattern, count in there.items() if count < recipe.counts[pattern]]  # fmt: skip


def find(archive: Archive, root: Path) -> Path | None:
    """The archive in the root or beside it."""
    places = (root / archive.file, root.parent / archive.file, (root / archive.into).resolve() / archive.file)
    return next((place for place in places if place.is_file()), None)


def check_digest(archive: Archive, file: Path) -> None:
    """Raise `Refused` for a file that is not the published one. A digest once checked is remembered beside the file."""
    if archive.digest is None:
        return print(f"{file.name}: no digest is published; its counts are checked")
    kind, expected = archive.digest.split(":")
    seen, stamp = file.with_name(f".{file.name}.checked"), f"{archive.digest} {file.stat().st_size} {file.stat().st_mtime_ns}"
    if seen.is_file() and seen.read_text() == stamp:
        return None
    print(f"{file.name}: checking {kind}")
    with file.open("rb") as opened:
        found = hashlib.file_digest(opened, kind).hexdigest()
    if found != expected:
        raise Refused(f"{file}: {kind} is {found}, published is {expected}: fetch it again.")
    seen.write_text(stamp)


def unpack(archive: Archive, file: Path, root: Path) -> None:
    """Write the members that are not there yet; raise `Refused` for one that would lie outside the folder."""
    folder = (root / archive.into).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    written = 0
    for name, size, content in members(file):
        if archive.nested and name.endswith(".tar"):
            inner = folder / Path(name).stem
            with tarfile.open(fileobj=content, mode="r|") as tar:
                written += sum(write(inner, member.name, member.size, tar.extractfile(member)) for member in tar if member.isfile())
        else:
            written += write(folder, name, size, content)
    print(f"{file.name}: {written} files written to {folder}")


def members(file: Path) -> Iterator[Member]:
    """(name, size, content) of the plain files in a zip or tar; links and devices are left out."""
    try:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as packed:
                for info in packed.infolist():
                    if not info.is_dir():
                        with packed.open(info) as content:
                            yield info.filename, info.file_size, content
            return
        with tarfile.open(file, "r|*") as tar:
            for member in tar:
                content_of = tar.extractfile(member) if member.isfile() else None
                if content_of is not None:
                    yield member.name, member.size, content_of
    except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        raise Refused(f"{file}: cannot be unpacked ({error}); it is truncated: fetch it again.") from error


def write(folder: Path, name: str, size: int, content: IO[bytes] | None) -> bool:
    """Write one member below ``folder`` by a rename; False where it is there in full."""
    target = (folder / name).resolve()
    if not target.is_relative_to(folder.resolve()):
        raise Refused(f"{name}: would lie outside {folder}; this archive is not to be trusted.")
    if content is None or (target.is_file() and target.stat().st_size == size):
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    with partial.open("wb") as opened:
        shutil.copyfileobj(content, opened, 1 << 20)
    partial.replace(target)
    return True


def karpathy_5k(root: Path) -> str:
    """Write Karpathy's test split as an official-format captions file; says what was written."""
    content = json.loads((root / "dataset_coco.json").read_text(encoding="utf-8"))
    chosen = [image for image in content["images"] if image["split"] == "test"]
    images = [{"id": image["cocoid"], "file_name": f"{image['filepath']}/{image['filename']}"} for image in chosen]
    captions = [
        {"id": sentence["sentid"], "image_id": image["cocoid"], "caption": sentence["raw"].strip()}
        for image in chosen
        for sentence in image["sentences"]
    ]
    file = root / "annotations/captions_karpathy_test.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"images": images, "annotations": captions}), encoding="utf-8")
    return f"{file}: {len(images)} images, {len(captions)} captions"


if __name__ == "__main__":
    main()
