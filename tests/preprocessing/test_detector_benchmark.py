import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from bright_square import BrightSquare
from clips import make_clip, walking_square

from mmdiff.errors import UserError
from preprocessing.options import Options

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
PERSON, OTHER = [10, 10, 30, 50], [60, 20, 80, 60]


@pytest.fixture
def detectors(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import detectors

    yield detectors
    sys.modules.pop("detectors")


@pytest.fixture
def count(detectors):
    """Counts boxes against labels and ignored regions on a picture of 100 x 80 pixels."""

    def count(labels, boxes, ignored=(), iou=0.5):
        of_part = {"body": np.array(ignored, float).reshape(-1, 4)}
        picture = detectors.Picture(100, 80, {"body": np.array(labels, float).reshape(-1, 4)}, of_part)
        return detectors.score(picture, "body", np.array(boxes, float).reshape(-1, 4), iou)

    return count


def test_perfect_boxes_score_one_everywhere(count):
    assert set(count([PERSON, OTHER], [OTHER, PERSON]).shares().values()) == {1.0}


def test_boxes_elsewhere_score_nothing(count):
    shifted = np.array([PERSON, OTHER]) + [20, 0, 20, 0]
    assert set(count([PERSON, OTHER], shifted).shares().values()) == {0.0}


def test_a_missed_person_lowers_recall_alone(count):
    shares = count([PERSON, OTHER], [PERSON]).shares()
    assert [shares[name] for name in ("recall", "recall .3", "centre", "covered")] == [0.5] * 4
    assert shares["precision"] == shares["spent"] == 1


def test_a_false_box_lowers_precision_alone(count):
    shares = count([PERSON], [PERSON, OTHER]).shares()
    assert shares["precision"] == shares["spent"] == 0.5
    assert [shares[name] for name in ("recall", "recall .3", "centre", "covered")] == [1] * 4


def test_boxes_on_ignored_people_neither_help_nor_harm(count):
    assert count([PERSON], [PERSON, [62, 22, 70, 40]], ignored=[OTHER]) == count([PERSON], [PERSON])


def test_a_box_mostly_outside_what_is_ignored_harms(count):
    assert count([], [[40, 20, 70, 60]], ignored=[OTHER]).shares()["precision"] == 0


def test_a_labelled_person_inside_an_ignored_region_still_counts(count):
    assert set(count([PERSON], [PERSON], ignored=[[0, 0, 100, 80]]).shares().values()) == {1.0}


def test_a_second_box_of_one_person_is_false(count):
    counts = count([PERSON], [PERSON, PERSON])
    assert (counts.matched, counts.boxes) == (1, 2)


def test_as_many_as_can_be_are_matched(count):
    """The first box overlaps most with the label that the second one needs."""
    labels, boxes = [[0, 0, 20, 20], [0, 8, 20, 28]], [[0, 7, 20, 27], [0, 12, 20, 32]]
    assert count(labels, boxes, iou=0.45).matched == 2


def test_a_body_twice_too_long_counts_at_the_looser_overlap(count):
    shares = count([[10, 10, 30, 30]], [[10, 10, 30, 54]]).shares()
    assert (shares["recall"], shares["recall .3"], shares["centre"], shares["covered"]) == (0, 1, 1, 1)
    assert shares["spent"] == pytest.approx(20 / 44)


def test_two_boxes_together_cover_what_neither_covers_alone(count):
    assert count([[10, 10, 30, 50]], [[10, 10, 20, 50], [15, 10, 25, 50]]).shares()["covered"] == 0.75


def test_shares_of_several_pictures_are_those_of_their_sum(count):
    shares = (count([PERSON], [PERSON]) + count([OTHER], []) + count([], [PERSON])).shares()
    assert shares["recall"] == shares["precision"] == shares["covered"] == shares["spent"] == 0.5


def test_nothing_to_find_and_nothing_found_has_no_share(count, detectors):
    assert set(count([], []).shares().values()) == {None}


class Blinking(BrightSquare):
    """Sees nothing in the second picture of every three."""

    threshold = 0.5
    looked_at = 0

    def _frame(self, frame):
        self.looked_at += 1
        return [] if self.looked_at % 3 == 2 else super()._frame(frame)


def test_filled_gaps_find_a_person_whom_the_detector_loses_for_a_moment(detectors, tmp_path):
    clip = make_clip(tmp_path / "walks.mp4", walking_square(3))
    none, pictures = np.zeros((0, 4)), {}
    for index in range(9):
        left = 10 + index * 10 // 3
        labels = {"body": np.array([[left, 30, left + 24, 54]]), "face": none}
        pictures[index] = detectors.Picture(160, 90, labels, {"body": none, "face": none})
    measured = detectors.measure(clip, pictures, Blinking(), Options(batch=4), 0.9)
    recall = {way: measured["counts"][way, "body"].shares()["recall"] for way in detectors.WAYS}
    assert recall == {"as it is": 6 / 9, "tracks": 6 / 9, "tracks, gaps filled": 1}
    assert all(measured["counts"][way, "face"] == detectors.Counts() for way in detectors.WAYS)
    assert (measured["pictures"], measured["parts"]) == (9, {"body"})


def test_the_labels_lie_on_their_pictures_and_are_as_many_as_are_said(detectors):
    videos = detectors.read_labels(detectors.LABELS)
    assert {name: len(pictures) for name, pictures in videos.items()} == {
        "asl_walk": 9,
        "hamilton_short": 14,
        "nasa_13013": 14,
        "one_by_one_person": 35,
    }
    found = Counter()
    for picture in (picture for pictures in videos.values() for picture in pictures.values()):
        for part, boxes in picture.labels.items():
            found[part] += len(boxes)
            assert (boxes[:, :2] >= 0).all() and (boxes[:, :2] < boxes[:, 2:]).all()
            assert (boxes[:, 2:] <= [picture.width, picture.height]).all()
    assert found == {"body": 93, "face": 44}


def test_every_image_of_the_labels_is_named_by_its_place_on_the_grid(detectors):
    for image in json.loads(detectors.LABELS.read_text())["images"]:
        assert image["file_name"] == f"{image['video']}/{image['frame_index'] + 1:05d}.jpg"
        assert image["time"] == pytest.approx(image["frame_index"] / detectors.FPS, abs=1e-4)


def test_a_folder_without_the_clips_is_told(detectors, tmp_path):
    with pytest.raises(UserError, match="holds no video called asl_walk"):
        detectors.find(tmp_path, ["asl_walk"])
