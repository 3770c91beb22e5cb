"""Boxes become patches."""

import numpy as np

from mmdiff.data.patch_boxes import coverage, patches_in_boxes

GRID, SIDE = (4, 6), 16


def held(boxes, track=None, weight=None, min_coverage=0.25):
    boxes = np.array(boxes, float).reshape(-1, 4)
    track = np.arange(1, len(boxes) + 1) if track is None else np.array(track)
    weight = np.ones(len(boxes)) if weight is None else np.array(weight)
    found, weights = patches_in_boxes(boxes, track, weight, GRID, SIDE, min_coverage)
    return found.reshape(GRID), weights.reshape(GRID)


def test_coverage_is_the_share_of_each_patch():
    share = coverage(np.array([[8.0, 16, 32, 40]]), GRID, SIDE)[0].reshape(GRID)
    expected = np.zeros(GRID)
    expected[0, 1:3], expected[1, 1:3] = (0.5, 0.25), (1.0, 0.5)
    np.testing.assert_allclose(share, expected)


def test_a_patch_belongs_to_a_box_that_covers_enough_of_it():
    box = [[8, 16, 32, 40]]
    assert (held(box, min_coverage=0.5)[0] > 0).sum() == 3
    assert (held(box, min_coverage=0.25)[0] > 0).sum() == 4
    # With 0 any pixel counts, and nothing but pixels.
    assert (held([[0, 0, 16.5, 16]], min_coverage=0.0)[0] > 0).sum() == 2


def test_where_boxes_overlap_the_heaviest_wins_and_then_the_one_that_covers_more():
    boxes = [[0, 0, 32, 32], [0, 0, 16, 16]]
    assert held(boxes, weight=[0.5, 0.9])[0][0, 0] == 2
    assert held(boxes, weight=[0.9, 0.5])[0][0, 0] == 1
    assert held([[0, 0, 16, 12], [0, 0, 16, 16]])[0][0, 0] == 2


def test_a_box_too_small_for_any_patch_keeps_the_one_it_covers_most():
    for offset in range(16):
        track, _ = held([[8 + offset, 8 + offset, 14 + offset, 14 + offset]], min_coverage=0.5)
        assert (track > 0).sum() >= 1


def test_boxes_that_match_no_anchor_hold_nothing():
    track, weight = held([[0, 0, 64, 96]], weight=[0.0])
    assert not track.any() and not weight.any()


def test_a_box_without_area_holds_nothing():
    """As a crop leaves it of a box that lay outside: a line, or a point, on the border."""
    track, weight = held([[0, 0, 0, 96], [64, 96, 64, 96], [16, 16, 48, 16]], min_coverage=0.0)
    assert not track.any() and not weight.any()


def test_a_box_of_the_whole_frame_holds_every_patch_and_no_smaller_one_of_equal_weight_wins():
    track, weight = held([[0, 0, 64, 96], [0, 0, 32, 24]], min_coverage=0.5)
    assert (track > 0).all() and (weight == 1).all()
    assert (track == 1).all()  # among equals that cover all of a patch the first wins


def test_no_boxes_is_no_error():
    track, weight = held([])
    assert not track.any() and not weight.any()
