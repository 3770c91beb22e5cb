import numpy as np
import pytest

from preprocessing.derive_bodies import body_of, with_bodies
from preprocessing.detect_people import DETECTORS, LabelledBox, detector_class

skimage = pytest.importorskip("skimage", reason="the photographs of scikit-image are not installed")


@pytest.fixture(scope="module")
def face_body():
    return detector_class("face_body")()


def test_an_unknown_detector_lists_the_known_ones():
    with pytest.raises(ValueError, match="face_body, mtcnn, hog") as error:
        detector_class("yolo")
    assert "package.module:Class" in str(error.value)


@pytest.mark.parametrize("name", ["no.such.module:Class", "preprocessing.detect_faces:Nothing", "pathlib:Path"])
def test_a_detector_that_cannot_be_used_is_named(name):
    with pytest.raises(ValueError, match=name):
        detector_class(name)


@pytest.mark.parametrize("source", ["def (", "1 / 0", "raise SystemExit(3)"])
def test_a_detector_whose_module_fails_is_one_sentence(tmp_path, monkeypatch, source):
    (tmp_path / "failing_module.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="'failing_module:Class' cannot be imported.*; mend its module") as error:
        detector_class("failing_module:Class")
    assert "\n" not in str(error.value)


def test_a_detector_of_ones_own_is_found():
    assert detector_class("bright_square:BrightSquare").__name__ == "BrightSquare"


def test_the_astronaut_has_one_face_with_a_body_around_it(face_body):
    photograph = skimage.data.astronaut()
    face, body = face_body.boxes([photograph])[0]
    assert (face.part, body.part) == ("face", "body") and (face.source, body.source) == ("detected", "derived")
    assert face.person == body.person and face.label == body.label == "person"
    assert 150 < (face.x0 + face.x1) / 2 < 300 and 60 < (face.y0 + face.y1) / 2 < 180
    assert body.y0 < face.y0 and body.y1 == 512 and body.x0 < face.x0 < face.x1 < body.x1


def test_photographs_without_people_have_no_face(face_body):
    assert face_body.boxes([skimage.data.coffee()]) == [[]]


def test_frames_too_small_for_the_network_hold_nobody(face_body):
    for side in (1, 12, 20, 29, 31, 40):
        assert face_body.boxes([np.zeros((side, 64, 3), np.uint8)]) == [[]]


def test_batches_find_what_single_frames_find(face_body):
    photograph, empty = skimage.data.astronaut(), np.zeros((512, 512, 3), np.uint8)
    one_by_one = [face_body.boxes([frame])[0] for frame in (photograph, empty, photograph)]
    together = face_body.boxes([photograph, empty, photograph])
    assert [len(boxes) for boxes in together] == [2, 0, 2]
    for a, b in zip(one_by_one, together, strict=True):
        np.testing.assert_allclose([box.y0 for box in a], [box.y0 for box in b], atol=0.01)


def test_a_derived_body_is_cut_at_the_frame():
    face = LabelledBox(-5.0, 90.0, 25.0, 110.0, "person", "face", 1.0)
    body = body_of(face, 0, 100, 105)
    assert (body.y0, body.y1, body.x1) == (0, 100, 105)
    assert [box.person for box in with_bodies([face, face], 100, 105)] == [0, 0, 1, 1]


def test_hog_runs_without_torch_and_passes_over_small_frames():
    hog = detector_class("hog")()
    assert hog.boxes([np.zeros((60, 60, 3), np.uint8)]) == [[]]
    boxes = hog.boxes([skimage.data.astronaut()])[0]
    assert all(box.part == "body" and 0 <= box.score <= 1 for box in boxes)


def test_the_registry_names_classes_that_exist():
    assert all(hasattr(detector_class(name), "boxes") for name in DETECTORS)


def test_real_clips_show_the_people_who_are_in_them(videos, face_body):
    from preprocessing.decode_video import SampledFrames

    signer = [len(boxes) for boxes in face_body.boxes([f for _, f in SampledFrames(videos / "asl_walk.mkv", 1.0)])]
    assert signer == [2, 2, 2]
    hamilton = face_body.boxes([frame for _, frame in SampledFrames(videos / "hamilton_short.mp4", 1.0)])
    assert sum(len(boxes) >= 2 for boxes in hamilton) >= 7  # of 10
    # The worker's face is hidden by a hood and turned away: MTCNN cannot find it, and says so by finding nothing.
    nasa = face_body.boxes([frame for _, frame in SampledFrames(videos / "nasa_13013.mp4", 0.5)])
    assert sum(map(len, nasa)) == 0
