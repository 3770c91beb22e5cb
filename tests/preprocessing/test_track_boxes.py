import numpy as np
import pytest

from preprocessing.derive_bodies import with_bodies
from preprocessing.detect_people import LabelledBox
from preprocessing.shot_cuts import ShotCuts
from preprocessing.track_boxes import clean, fill, follow

SURE = 0.9


def box(x, y=20, size=20, part="face", score=0.95, label="person"):
    return LabelledBox(float(y), float(x), float(y + size), float(x + size), label, part, score)


def numbers(pictures, cuts=(), fps=3.0, **options):
    """The track numbers of what was seen, without what was filled."""
    boxes, tracks = follow(pictures, cuts, fps, **{"sure": SURE, "longest_gap": 1.0} | options)
    return [
        [number for box, number in zip(*picture, strict=True) if box.source != "filled"]
        for picture in zip(boxes, tracks, strict=True)
    ]


def test_a_person_who_moves_by_half_a_width_keeps_the_number():
    assert numbers([[box(10 + 10 * i)] for i in range(5)]) == [[0]] * 5


def test_a_person_who_moves_by_more_than_a_width_keeps_the_number():
    assert numbers([[box(10 + 25 * i)] for i in range(5)]) == [[0]] * 5


def test_two_people_keep_theirs_in_any_order():
    assert numbers([[box(10), box(100)], [box(105), box(15)]]) == [[0, 1], [1, 0]]


def test_whoever_comes_nearest_a_track_continues_it():
    assert numbers([[box(10), box(40)], [box(38), box(12)], [box(14), box(36)]]) == [[0, 1], [1, 0], [0, 1]]


def test_numbers_follow_the_order_of_appearance_over_all_kinds():
    first = [box(200, part="object", label="cup"), box(10), box(100, part="body")]
    assert numbers([first, [box(300), box(100, part="body"), box(10)]]) == [[0, 1, 2], [3, 2, 1]]


def test_a_box_that_is_seen_once_is_a_track():
    assert numbers([[], [box(10)], []]) == [[], [0], []]


def test_a_track_that_was_seen_once_is_waited_for_as_long_as_any():
    assert numbers([[box(10)], [], [], [box(10)]]) == [[0], [], [], [0]]


def test_a_short_absence_is_bridged_and_a_long_one_is_not():
    pictures = [[box(10)], [box(10)], [], [], [box(10)], [], [], [], [box(10)]]
    assert numbers(pictures) == [[0], [0], [], [], [0], [], [], [], [1]]
    assert numbers(pictures, longest_gap=4 / 3) == [[0], [0], [], [], [0], [], [], [], [0]]
    assert numbers([[box(10)], [], [box(10)]], longest_gap=0.0) == [[0], [], [1]]


def test_the_longest_gap_counts_seconds_at_any_rate():
    for fps in (0.5, 1.0, 3.0, 7.0, 30.0):
        for missing in range(8):
            pictures = [[box(10)], *[[]] * missing, [box(10)]]
            gap = (missing + 1) / fps
            assert numbers(pictures, fps=fps, longest_gap=gap)[-1] == [0]
            assert numbers(pictures, fps=fps, longest_gap=0.99 * gap)[-1] == [int(missing > 0)]


def test_a_cut_ends_every_track():
    assert numbers([[box(10)], [box(10)]], {1}) == [[0], [1]]
    boxes, _ = follow([[box(10)], [], [box(10)]], {1}, 3.0, SURE, 1.0)
    assert boxes == [[box(10)], [], [box(10)]]


def test_face_and_derived_body_share_their_number():
    pictures = [with_bodies([box(10), box(150)], 300, 300), with_bodies([box(150), box(10)], 300, 300)]
    assert numbers(pictures) == [[0, 0, 1, 1], [1, 1, 0, 0]]


def test_a_face_does_not_continue_a_body_nor_a_dog_a_cat():
    assert numbers([[box(10)], [box(10, part="body")]]) == [[0], [1]]
    assert numbers([[box(10, label="cat")], [box(10, label="dog")]]) == [[0], [1]]


def test_nobody_at_all_has_no_tracks():
    assert follow([[], []], (), 3.0, SURE, 1.0) == ([[], []], [[], []]) and follow([], (), 3.0, SURE, 1.0) == ([], [])


def test_a_less_sure_box_carries_a_track_on_but_begins_none():
    pictures = [[box(10, score=0.6)], [box(10)], [box(10, score=0.6), box(200, score=0.8)], [box(10)]]
    boxes, tracks = follow(pictures, (), 3.0, SURE, 1.0)
    assert boxes == [[], [box(10)], [box(10, score=0.6)], [box(10)]] and tracks == [[], [0], [0], [0]]


def test_a_sure_box_goes_before_a_less_sure_one_that_fits_better():
    boxes, tracks = follow([[box(10)], [box(10, score=0.8), box(20)]], (), 3.0, SURE, 1.0)
    assert boxes == [[box(10)], [box(20)]] and tracks == [[0], [0]]


def test_a_body_goes_and_stays_with_its_less_sure_face():
    with_body = [with_bodies([box(10, score=score)], 300, 300) for score in (0.6, 0.95, 0.6)]
    boxes, _ = follow(with_body, (), 3.0, SURE, 1.0)
    assert boxes == [[], with_body[1], with_body[2]]


def test_the_score_that_is_asked_for_is_sure():
    assert numbers([[box(10, score=score)] for score in (0.9, 0.3)], sure=0.3) == [[0], [0]]
    assert numbers([[box(10, score=0.0)]], sure=0.0) == [[0]]


def test_a_gap_is_filled_in_a_line_for_the_face_and_its_body():
    ends = [with_bodies([box(10, y=100)], 300, 300), with_bodies([box(16, y=100, score=0.92)], 300, 300)]
    boxes, tracks = follow([ends[0], [], [], ends[1]], (), 3.0, SURE, 1.0)
    assert tracks == [[0, 0]] * 4 and boxes[0] == ends[0] and boxes[3] == ends[1]
    for i in (1, 2):
        for left, right, found in zip(*ends, sorted(boxes[i], key=lambda box: box.part != "face"), strict=True):
            assert (found.source, found.score, found.part) == ("filled", 0.92, left.part)
            for edge in ("y0", "x0", "y1", "x1"):
                line = np.interp(i, [0, 3], [getattr(left, edge), getattr(right, edge)])
                assert abs(getattr(found, edge) - line) < 1e-9


def test_boxes_of_known_tracks_are_filled_each_part_by_itself():
    face, body = box(10), box(0, part="body", size=60)
    boxes, tracks = fill([[face, body], [body], [face]], [[5, 5], [5], [5]], (), 2.0)
    assert [[(b.part, b.source) for b in picture] for picture in boxes] == [
        [("face", "detected"), ("body", "detected")],
        [("body", "detected"), ("face", "filled")],
        [("face", "detected")],
    ]
    assert tracks == [[5, 5], [5, 5], [5]]


def test_filling_stops_at_its_length_and_at_cuts():
    pictures, tracks = [[box(10)], [], [], [box(40)]], [[0], [], [], [0]]
    assert [len(picture) for picture in fill(pictures, tracks, (), 3.0)[0]] == [1, 1, 1, 1]
    assert fill(pictures, tracks, (), 2.9) == (pictures, tracks)
    for cut in (1, 2, 3):
        assert fill(pictures, tracks, {cut}, 3.0) == (pictures, tracks)
    assert [len(picture) for picture in fill(pictures, tracks, {0}, 3.0)[0]] == [1, 1, 1, 1]


def test_without_a_tracker_every_sure_person_is_a_track_and_nothing_is_filled():
    person = with_bodies([box(10)], 300, 300)
    pictures = [person, [], [*person, box(200, score=0.8)]]
    boxes, tracks = follow(pictures, (), 3.0, SURE, 1.0, tracker="none")
    assert boxes == [person, [], person] and tracks == [[0, 0], [], [1, 1]]


def test_an_unknown_tracker_is_named_beside_those_there_are():
    with pytest.raises(ValueError, match=r"'sort' is unknown; known: bytetrack, none"):
        follow([], (), 3.0, SURE, 1.0, tracker="sort")


def test_numbers_do_not_depend_on_what_was_followed_before():
    random = np.random.default_rng(0)
    crowd = [
        [
            box(float(x), float(y), score=float(score))
            for x, y, score in random.uniform((0, 0, 0.5), (300, 300, 1), (6, 3))
        ]
        for _ in range(30)
    ]
    first, again = (follow(crowd, {10, 20}, 3.0, SURE, 1.0) for _ in range(2))
    assert first == again
    seen = list(dict.fromkeys(number for picture in first[1] for number in picture))
    assert seen == list(range(len(seen))) and len(seen) > 6
    sure = [{b for b in picture if b.score >= SURE} for picture in crowd]
    assert all(those <= set(picture) for those, picture in zip(sure, first[0], strict=True))  # none is lost


def test_cleaning_cuts_boxes_and_drops_those_outside():
    kept, dropped = clean([box(-10), box(500), box(30, size=0), box(float("nan")), box(90)], 50, 100)
    assert [(b.x0, b.x1) for b in kept] == [(0, 10), (90, 100)] and dropped == 3


def test_cuts_are_seen_and_walking_is_not():
    random = np.random.default_rng(0)
    scenes = [random.integers(0, 255, (9, 16, 3), np.uint8).repeat(20, 0).repeat(20, 1) for _ in range(2)]
    walking = scenes[0].copy()
    walking[60:120, 100:150] = 200
    cuts = ShotCuts()
    assert [cuts(frame) for frame in (scenes[0], walking, scenes[1], scenes[1])] == [False, False, True, False]
    flat = ShotCuts()
    assert [flat(np.full((90, 160, 3), level, np.uint8)) for level in (60, 60, 200)] == [False, False, False]


def test_the_cuts_of_a_real_clip_are_found(videos):
    from preprocessing.decode_video import SampledFrames

    cuts = ShotCuts()
    found = {i for i, (_, frame) in enumerate(SampledFrames(videos / "hamilton_short.mp4", 3.0)) if cuts(frame)}
    assert {3, 9, 22} <= found <= {3, 5, 6, 7, 9, 22}  # 5 to 7 are a fast pan past a blurred head
