"""What the last fresh readers found: tables that a spreadsheet divides in its own way."""

from __future__ import annotations

from pathlib import Path

import pytest

from fna.data.entries import table
from fna.data.tsv import TsvCaptions
from fna.errors import UserError

ROWS = [["image", "question", "answers"], ["a.jpg", "What is it, a cat?", "cat"], ["b.jpg", "Red; or blue?", '["red", "blue"]']]


def written(path: Path, divider: str, rows: list[list[str]]) -> Path:
    quoted = [
        [f'"{cell.replace(chr(34), 2 * chr(34))}"' if divider in cell or '"' in cell else cell for cell in row] for row in rows
    ]
    path.write_text("\n".join(divider.join(row) for row in quoted), encoding="utf-8-sig")
    return path


@pytest.mark.parametrize("divider", [",", ";", "\t"])
@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_a_table_of_questions_is_read_whatever_divides_it(divider: str, suffix: str, tmp_path: Path) -> None:
    """A German spreadsheet writes semicolons into a CSV: it was told to put text with commas in quotes, which did not help."""
    found = table(written(tmp_path / f"asked{suffix}", divider, ROWS))
    assert [entry.fields["question"] for entry in found] == ["What is it, a cat?", "Red; or blue?"]
    assert found[1].fields["answers"] == ["red", "blue"]


def test_a_cell_too_many_is_told_by_what_divides_the_table(tmp_path: Path) -> None:
    (tmp_path / "asked.csv").write_text("image;question;answers\na.jpg;Red; or blue?;red\n")
    with pytest.raises(UserError, match="line 2: has more cells than columns; put text with semicolons in quotes"):
        table(tmp_path / "asked.csv")


@pytest.mark.parametrize("divider", [",", ";", "\t"])
def test_a_table_of_captions_is_read_whatever_divides_it(divider: str, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    written(tmp_path / "said.csv", divider, [["filepath", "captions"], ["a.jpg", "['a cat, black', 'a; b']"]])
    (example,) = TsvCaptions(str(tmp_path), "said.csv").load(None).examples
    assert list(example.captions) == ["a cat, black", "a; b"]


@pytest.mark.parametrize("cell", ["['a cat' 'a dog']", "['a cat'\n 'a dog']", "['a cat', 'a dog' 'a cow']"])
def test_texts_without_a_comma_between_them_are_not_made_one(cell: str, tmp_path: Path) -> None:
    """numpy prints arrays so, and pandas writes what numpy prints: Python's literals join such texts to one that nobody said."""
    (tmp_path / "a.jpg").touch()
    (tmp_path / "said.tsv").write_text(f'filepath\tcaptions\na.jpg\t"{cell}"\n')
    with pytest.raises(UserError, match="has texts without a comma between them, as numpy prints an array; write lists"):
        TsvCaptions(str(tmp_path), "said.tsv").load(None)
    (tmp_path / "asked.csv").write_text(f'image,question,answers\na.jpg,What?,"{cell}"\n')
    with pytest.raises(UserError, match=r"asked.csv, line .: .* has texts without a comma between them"):
        table(tmp_path / "asked.csv")
