import numpy as np

from preprocessing.derive_bodies import with_bodies
from preprocessing.detect_people import LabelledBox
from preprocessing.shot_cuts import ShotCuts
from preprocessing.track_boxes import clean, track


def box(x, y=20, size=20, part="face"):
    return LabelledBox(float(y), float(x), float(y + size), float(x + size), "person", part, 0.9)


def test_a_person_who_moves_keeps_the_number():
    assert track([[box(10 + 10 * i)] for i in range(5)], (), 3) == [[0]] * 5


def test_two_people_keep_theirs_in_any_order():
    assert track([[box(10), box(100)], [box(105), box(15)]], (), 3) == [[0, 1], [1, 0]]


def test_a_short_absence_is_bridged_and_a_long_one_is_not():
    frames = [[box(10)], [], [], [box(10)], [], [], [], [box(10)]]
    assert track(frames, (), 3) == [[0], [], [], [0], [], [], [], [1]]


def test_a_cut_ends_every_track():
    assert track([[box(10)], [box(10)]], {1}, 3) == [[0], [1]]


def test_face_and_derived_body_share_their_number():
    frames = [with_bodies([box(10), box(150)], 300, 300), with_bodies([box(150), box(10)], 300, 300)]
    assert track(frames, (), 3) == [[0, 0, 1, 1], [1, 1, 0, 0]]


def test_a_face_does_not_continue_a_body():
    assert track([[box(10)], [box(10, part="body")]], (), 3) == [[0], [1]]


def test_nobody_at_all_has_no_tracks():
    assert track([[], []], (), 3) == [[], []]


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
