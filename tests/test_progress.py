"""What a run tells while it works."""

import io
import re

import pytest
from rich.console import Console

from fna import progress


def test_the_time_left_is_told_where_a_batch_takes_longer_than_half_a_minute(monkeypatch):
    now, written = [0.0], io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=written, width=100, force_terminal=True, get_time=lambda: now[0]))
    with progress.bar("full", 500) as advance:
        for _ in range(2):
            now[0] += 60
            advance(100)
    assert "0:03:00" in written.getvalue()
    assert "-:--:--" not in written.getvalue().splitlines()[-1]


def test_each_time_of_a_bar_says_what_it_is(monkeypatch):
    now, written = [0.0], io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=written, width=120, force_terminal=True, get_time=lambda: now[0]))
    with progress.bar("full", 500) as advance:
        for _ in range(2):
            now[0] += 60
            advance(100)
    assert re.search(r"0:02:00\S* passed, \S*0:03:00\S* left", written.getvalue())


def test_a_bar_of_an_unknown_number_tells_no_time_left(monkeypatch):
    written = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=written, width=120))
    with progress.bar("full", None) as advance:
        advance(3)
    assert re.search(r" 3 .* passed\s*$", written.getvalue())
    assert "left" not in written.getvalue()


def test_a_bar_of_the_tasks_says_what_its_times_are_too(monkeypatch):
    now, written = [0.0], io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=written, width=120, force_terminal=True, get_time=lambda: now[0]))
    for _ in progress.through(range(5), "images to learn from, in batches", 5):
        now[0] += 60
    assert re.search(r"images to learn from, in batches .*5/5.* \S*0:05:00\S* passed, \S*0:00:00\S* left", written.getvalue())


def test_a_bar_names_no_speed_since_variants_share_work(monkeypatch):
    written = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=written, width=120, force_terminal=True))
    with progress.bar("fna", 500) as advance:
        advance(500)
    assert "500/500" in written.getvalue()
    assert "/s" not in written.getvalue()


def test_a_label_with_brackets_is_told_whole(monkeypatch):
    written = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=written, width=160, force_terminal=True))
    with progress.bar("fna layers={auto:[fna_local,fna_plus]}", 1) as advance:
        advance(1)
    assert "fna layers={auto:[fna_local,fna_plus]}" in written.getvalue()


def test_a_bar_goes_with_what_stopped_it(monkeypatch):
    """A dead bar stood above the line that said why a metric was refused."""
    written = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=written, width=120))

    def refused():
        with progress.bar("full", 5) as advance:
            advance(1)
            raise ValueError("refused")

    with pytest.raises(ValueError, match="refused"):
        refused()
    assert "full" not in written.getvalue()
