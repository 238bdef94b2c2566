#!/usr/bin/env bash
# datasets 5.2.0: a picture that has a file's name is stored as that file: what was drawn on it in place is gone, and bytes give way to a file in the folder.
#
# Expected: what a map returns, and the bytes that from_dict, from_list and from_generator are given, is what the data set holds. Blacking out a face or a number
# plate with picture.paste, ImageDraw or picture.thumbnail changes the picture that the function returns.
# Seen, the same function on the same picture:
#     loaded from                               after data.map(black_out)
#     imagefolder (or any column of paths)      the picture of before, face and all, also in what is written of it; thumbnail leaves its size too
#     parquet with the files' bytes             blacked out
# Pillow keeps `filename` on a picture that it opened and datasets stores that name; resize, convert and crop make a new picture without one and are kept. No
# warning; inside of the function the picture is blacked out. (to_parquet of such a data set holds no picture at all, but the absolute path on this machine.)
# So it is with bytes: {"bytes": ..., "path": "0.png"}, as rows of a parquet file are (path is the bare name there), becomes the file 0.png of the folder that
# the script was started in, if there is one: another resolution, another data set, another split. Elsewhere the same line gives the bytes.
# What to do: return picture.copy() (done below: it has no filename); path None beside bytes.
set -euo pipefail
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
python3 -m venv "$room/venv"
"$room/venv/bin/pip" install --quiet --no-cache-dir datasets==5.2.0 pillow==12.3.0 numpy==2.4.6
cd "$room"
HF_HOME="$room/cache" HF_HUB_OFFLINE=1 "$room/venv/bin/python" -I - <<'PYTHON'
import io
import os
from pathlib import Path

from datasets import Dataset, Features, Image, disable_caching, disable_progress_bars, load_dataset
from PIL import Image as Pillow
from PIL import ImageDraw

disable_progress_bars()
disable_caching()
FACE, PICTURES = (200, 150, 100), Features({"image": Image()})


def of_one_colour(colour: tuple[int, int, int]) -> bytes:
    buffer = io.BytesIO()
    Pillow.new("RGB", (32, 32), colour).save(buffer, format="PNG")
    return buffer.getvalue()


def black_out(row: dict) -> dict:
    row["image"].paste((0, 0, 0), (8, 8, 24, 24))
    ImageDraw.Draw(row["image"]).rectangle((8, 8, 23, 23), fill=(0, 0, 0))
    assert row["image"].getpixel((16, 16)) == (0, 0, 0)
    return row


def black_out_a_copy(row: dict) -> dict:
    return black_out({"image": row["image"].copy()})


def shrink(row: dict) -> dict:
    row["image"].thumbnail((16, 16))
    return row


def centre(data: Dataset) -> tuple[int, int, int]:
    return data[0]["image"].getpixel((16, 16))


Path("pictures").mkdir()
Path("pictures/0.png").write_bytes(of_one_colour(FACE))
by_path = load_dataset("imagefolder", data_dir="pictures", split="train")
Dataset.from_dict({"image": [{"bytes": of_one_colour(FACE), "path": "0.png"}]}, features=PICTURES).to_parquet("pictures.parquet")
by_bytes = Dataset.from_parquet("pictures.parquet")
for name, data in (("imagefolder", by_path), ("parquet", by_bytes)):
    made = data.map(black_out)
    made.to_parquet(f"{name}, blacked out.parquet")
    written = Dataset.from_parquet(f"{name}, blacked out.parquet")
    size = data.map(shrink)[0]["image"].size
    print(f"{name}: blacked out in place {centre(made)}, written {centre(written)}, in a copy {centre(data.map(black_out_a_copy))}, thumbnail {size}")
    assert centre(data.map(black_out_a_copy)) == (0, 0, 0)
    kept = (FACE, (32, 32)) if name == "imagefolder" else ((0, 0, 0), (16, 16))
    assert (centre(made), size) == kept and centre(written) == centre(made), "changed"

rows = [{"image": row["image"]} for row in by_bytes.cast_column("image", Image(decode=False))]
print("a row of the parquet file:", {"bytes": len(rows[0]["image"]["bytes"]), "path": rows[0]["image"]["path"]})


def given(rows: list[dict]) -> dict[str, tuple[int, int, int]]:
    """The colour of the first picture by each way in."""
    return {
        "from_list": centre(Dataset.from_list(rows, features=PICTURES)),
        "from_dict": centre(Dataset.from_dict({"image": [row["image"] for row in rows]}, features=PICTURES)),
        "from_generator": centre(Dataset.from_generator(lambda: iter(rows), features=PICTURES, cache_dir=str(Path.cwd() / "made"))),
    }


Path("elsewhere").mkdir()
Path("elsewhere/0.png").write_bytes(of_one_colour((1, 2, 3)))
here = given(rows)
os.chdir("elsewhere")
there = given(rows)
nameless = given([{"image": {"bytes": row["image"]["bytes"], "path": None}} for row in rows])
print("without a 0.png in the folder:", here)
print("with another 0.png in it:     ", there)
print("there, path None:             ", nameless)
assert set(here.values()) == set(nameless.values()) == {FACE}
assert set(there.values()) == {(1, 2, 3)}, "changed: bytes are taken"
PYTHON
