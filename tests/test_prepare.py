"""scripts/prepare.py on small archives: digests, safety, resuming, and one line for what is missing."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"
sys.path.insert(0, str(SCRIPTS))

from prepare import Refused, karpathy_5k, prepare  # noqa: E402
from prepare_recipes import RECIPES, Archive, Recipe  # noqa: E402


def tar(file: Path, content: dict[str, bytes]) -> Path:
    with tarfile.open(file, "w:gz") as packed:
        for name, data in content.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            packed.addfile(info, io.BytesIO(data))
    return file


def recipe(file: Path, counts: dict[str, int], **changes: str | bool) -> Recipe:
    digest = f"md5:{hashlib.md5(file.read_bytes()).hexdigest()}"
    return Recipe((Archive(**{"file": file.name, "url": "https://example.org/x", "digest": digest, **changes}),), counts, "free")  # type: ignore[arg-type]


def test_unpacks_checks_and_goes_on(tmp_path: Path) -> None:
    made = recipe(tar(tmp_path / "a.tgz", {"val/1.png": b"one", "val/2.png": b"two"}), {"val/*.png": 2})
    prepare(made, tmp_path)
    first = (tmp_path / "val/1.png").stat().st_mtime_ns
    (tmp_path / "val/2.png").write_bytes(b"t")  # as if stopped in the middle
    (tmp_path / "val/2.png").rename(tmp_path / "val/.2.png.partial")
    prepare(made, tmp_path)
    assert (tmp_path / "val/2.png").read_bytes() == b"two"
    assert (tmp_path / "val/1.png").stat().st_mtime_ns == first


def test_zip_and_a_tar_a_class(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        packed.writestr("x/1.jpg", b"one")
    prepare(recipe(tmp_path / "a.zip", {"in/x/*.jpg": 1}, into="in"), tmp_path)
    inner = tar(tmp_path / "inner.tar", {"n01_1.JPEG": b"fish"}).read_bytes()
    plain = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(inner)) as old, tarfile.open(fileobj=plain, mode="w") as new:
        for member in old:
            new.addfile(member, old.extractfile(member))
    outer = tar(tmp_path / "train.tgz", {"n01.tar": plain.getvalue()})
    prepare(recipe(outer, {"train/n01/*.JPEG": 1}, into="train", nested=True), tmp_path)


@pytest.mark.parametrize("name", ["../outside.txt", "/tmp/fna-outside.txt"])
def test_nothing_lands_outside(tmp_path: Path, name: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    with pytest.raises(Refused, match="outside"):
        prepare(recipe(tar(root / "a.tgz", {name: b"x"}), {"x": 1}), root)
    assert not (tmp_path / "outside.txt").exists()


def test_a_wrong_digest_a_truncated_archive_and_missing_files_are_one_line(tmp_path: Path) -> None:
    file = tar(tmp_path / "a.tgz", {"1.png": b"one" * 5000})
    with pytest.raises(Refused, match=r"md5 is .*, published is 0: fetch it again"):
        prepare(recipe(file, {"*.png": 1}, digest="md5:0"), tmp_path)
    (tmp_path / "b").mkdir()
    short = tmp_path / "b/a.tgz"
    short.write_bytes(file.read_bytes()[:40])
    with pytest.raises(Refused, match="truncated"):
        prepare(recipe(short, {"*.png": 1}), tmp_path / "b")
    gone = Recipe((Archive("gone.zip", "https://example.org/gone.zip"),), {"val/*.png": 30}, "free")
    with pytest.raises(Refused, match=r"missing: 30 of 30 val/\*\.png; put into .*: gone\.zip from https://example\.org/gone\.zip"):
        prepare(gone, tmp_path)


def test_karpathy(tmp_path: Path) -> None:
    sentence = {"sentid": 3, "raw": "a dog \n", "tokens": []}
    image = {"filepath": "val2014", "filename": "COCO_val2014_000000000042.jpg", "cocoid": 42, "sentences": [sentence]}
    content = {"images": [{**image, "split": "test"}, {**image, "cocoid": 43, "split": "val"}]}
    (tmp_path / "dataset_coco.json").write_text(json.dumps(content))
    assert "1 images, 1 captions" in karpathy_5k(tmp_path)
    written = json.loads((tmp_path / "annotations/captions_karpathy_test.json").read_text())
    assert written["images"] == [{"id": 42, "file_name": "val2014/COCO_val2014_000000000042.jpg"}]
    assert written["annotations"] == [{"id": 3, "image_id": 42, "caption": "a dog"}]


def test_every_data_set_that_needs_fetching_has_a_recipe_and_its_terms() -> None:
    assert {"ade20k", "pascal_voc", "cityscapes", "camvid", "coco_stuff", "coco_panoptic", "imagenet", "imagenet_a"} <= set(RECIPES)
    assert all(recipe.terms and recipe.counts for recipe in RECIPES.values())


def test_the_command_line(tmp_path: Path) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, str(SCRIPTS / "prepare.py"), *words], capture_output=True, text=True, timeout=60)

    assert "ade20k" in run("--list").stdout
    for words in ([], ["nonsense", "--root", "."], ["ade20k"], ["ade20k", "--root", str(tmp_path / "x")]):
        done = run(*words)
        assert done.returncode == 1
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1
        assert "None" not in done.stderr
