"""Windows around spans are the original's (rowanz/merlot_reserve, finetune/tvqa/prep_data.py); grids share frames."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocessing.plan_windows import (
    SEGMENT,
    THIRDS,
    around_spans,
    clipped,
    is_outside,
    last_picture,
    on_grid,
    tiles,
    window,
)


def by_the_original(start: float, end: float, images: int) -> list[float]:
    """The rule in seconds, as the original writes it: starts of the segments."""
    size, last = 4.6666667, (images - 1) / 3
    start, end = max(start, 0), min(end, last)
    middle = round((start + end) / 2 * 3) / 3
    chosen = [(middle - size / 2, middle + size / 2)]
    for distance in range(1, 7):
        for shift in (-size * distance, size * distance):
            a, b = (round((t + shift) * 3) / 3 for t in chosen[0])
            if b >= 0 and a <= last and len(chosen) < 7:
                chosen.append((a, b))
    return sorted(a for a, _ in chosen)


@given(st.integers(1, 300), st.floats(-20, 60), st.floats(0, 40))
def test_windows_around_spans_are_the_originals(images, start, length):
    if start > (images - 1) / 3 or start + length < 0:
        return  # Of a time that the clip has not: the original keeps such questions, we do not.
    span = clipped((start, start + length), last_picture(images / THIRDS))
    assert span == (min(max(start, 0), (images - 1) / 3), max(min(start + length, (images - 1) / 3), 0))
    ours = [third / THIRDS for third in window(span, images / THIRDS, 7, on_grid=False)]
    assert ours == pytest.approx(by_the_original(start, start + length, images), abs=1e-5)


def test_a_window_in_the_middle_has_seven_segments_and_fewer_in_a_short_clip():
    assert window((28.0, 32.0), 60.0, 7, on_grid=False) == tuple(90 - 7 + 14 * i for i in range(-3, 4))
    assert len(window((0.0, 60.0), 9.0, 7, on_grid=False)) == 3
    assert window((0.0, 0.0), 60.0, 7, on_grid=False)[0] == -7


def test_windows_of_a_plan_are_runs_of_its_segments_and_no_segment_stands_twice():
    spans = [(0.0, 5.0), (20.0, 30.0), (1.0, 4.0), (41.0, 49.0), (20.0, 30.0)]
    for lay, on in ((around_spans, False), (on_grid, True)):
        (plan,) = lay(60.0, spans, 7)
        assert len(set(plan.segments)) == len(plan.segments)
        laid = {plan.segments[first : first + count] for first, count in plan.windows}
        assert laid == {window(span, 60.0, 7, on) for span in spans}
        assert all(b - a == SEGMENT for starts in laid for a, b in itertools.pairwise(starts))


def test_a_grid_has_no_more_segments_than_the_clip():
    (plan,) = on_grid(60.0, [(float(i), float(i + 3)) for i in range(57)], 7)
    assert plan.segments == tuple(range(0, 180, SEGMENT)) and len(plan.windows) == 7
    (apart,) = around_spans(60.0, [(float(i), float(i + 3)) for i in range(57)], 7)
    assert len(apart.segments) > 7 * len(plan.segments)


def test_tiles_are_records_of_their_own():
    plans = tiles(60.0, [], 7)
    assert [plan.windows for plan in plans] == [((0, 7),), ((0, 6),)] and all(plan.tile for plan in plans)


def test_spans_are_cut_at_the_clip_and_put_the_right_way_round():
    assert clipped((-3.0, 90.0), 60.0) == (0, 60) and clipped(None, 60.0) == (0, 60)
    assert clipped((30.0, 20.0), 60.0) == (20, 30)
    assert is_outside((60.0, 70.0), 60.0) and is_outside((-5.0, -1.0), 60.0)
    assert not is_outside(None, 60.0) and not is_outside((70.0, 50.0), 60.0) and not is_outside((0.0, 0.0), 60.0)
