"""How far a run has come, told on a terminal and elsewhere."""

import io
import sys
import types

import pytest

from preprocessing import progress
from preprocessing.progress import Done, Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def shown(monkeypatch, stream, steps, total=10, already=4, seconds=2.0) -> str:
    clock = iter([0.0, *(seconds * (i + 1) for i in range(len(steps)))])
    monkeypatch.setattr(progress, "time", types.SimpleNamespace(monotonic=lambda: next(clock)))  # nobody else's clock
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(progress, "PLAIN_EVERY", seconds)
    left = iter(steps)
    shows = Progress()
    with shows.over(total, already, lambda: next(left)):
        for _ in steps[:-1]:
            shows.show()
    return stream.getvalue()


def test_elsewhere_it_is_a_line_with_speeds_problems_and_the_time_left(monkeypatch):
    said = shown(monkeypatch, io.StringIO(), [Done(2.0, 60, 1), Done(6.0, 180, 2)]).splitlines()
    assert said == [
        "finding people: 6.0 of 10 videos (60.0%), 1.00 videos/s, 30 frames/s, 1 problems, 00:04 left",
        "finding people: 10.0 of 10 videos (100.0%), 1.50 videos/s, 45 frames/s, 2 problems",
    ]


def test_on_a_terminal_it_is_a_bar(monkeypatch):
    said = shown(monkeypatch, Terminal(), [Done(3.0, 90, 0), Done(6.0, 180, 2)])
    assert "7.0/10 videos" in said and "1.50 videos/s, 45 frames/s, 2 problems" in said and "|" in said


def test_an_engine_that_counts_no_pictures_tells_none(monkeypatch):
    (said,) = shown(monkeypatch, io.StringIO(), [Done(6, None, 0)]).splitlines()
    assert "frames/s" not in said and "3.00 videos/s" in said


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_who_wants_none_sees_none(monkeypatch, stream):
    monkeypatch.setattr(sys, "stderr", stream)
    with Progress(shown=False).over(3, 0, lambda: Done(0, 0, 0)):
        pass
    assert stream.getvalue() == ""
