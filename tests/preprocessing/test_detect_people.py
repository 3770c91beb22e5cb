import numpy as np
import pytest

from preprocessing.derive_bodies import body_of, with_bodies
from preprocessing.detect_people import (
    DETECTORS,
    Detector,
    LabelledBox,
    build_detector,
    check_detector,
    detector_class,
    digest_of_weights,
)
from preprocessing.options import Options
from preprocessing.problems import PreprocessError

skimage = pytest.importorskip("skimage", reason="the photographs of scikit-image are not installed")


@pytest.fixture(scope="module")
def face_body():
    return build_detector(Options(detector="face_body"))


def corners(boxes) -> np.ndarray:
    return np.array([(box.x0, box.y0, box.x1, box.y1) for box in boxes], float).reshape(-1, 4)


def test_an_unknown_detector_lists_the_known_ones():
    with pytest.raises(PreprocessError, match="face_body, mtcnn, hog, haar, transformers:.*import:") as error:
        check_detector("yolo")
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


def test_boxes_from_elsewhere_need_no_detector(tmp_path):
    assert build_detector(Options(detector="human")) is None
    assert build_detector(Options(detector=f"import:{tmp_path}")) is None


def test_a_file_of_boxes_that_is_missing_is_named_before_any_work(tmp_path):
    check_detector("human")
    check_detector(f"import:{tmp_path}")
    with pytest.raises(PreprocessError, match="there is no .*boxes.txt; give a file") as error:
        check_detector(f"import:{tmp_path / 'boxes.txt'}")
    assert "\n" not in str(error.value)


def test_all_boxes_of_ones_own_detector_are_sure_unless_a_threshold_is_given():
    assert build_detector(Options(detector="bright_square:BrightSquare")).threshold == 0.0
    assert build_detector(Options(detector="bright_square:BrightSquare", threshold=0.4)).threshold == 0.4


@pytest.mark.parametrize("name", DETECTORS)
def test_detectors_say_where_sure_begins(name):
    detector = build_detector(Options(detector=name))
    assert isinstance(detector, Detector) and 0 < detector.threshold < 1
    assert build_detector(Options(detector=name, threshold=0.3)).threshold == 0.3
    check_detector(name)
    assert digest_of_weights(name) == ""  # they come with their packages


def test_the_cascade_finds_what_facenet_finds(videos):
    from facenet_pytorch import MTCNN

    from preprocessing.decode_video import SampledFrames

    frames = [frame for _, frame in SampledFrames(videos / "hamilton_short.mp4", 0.3)]
    facenet = MTCNN(keep_all=True, min_face_size=30)
    detector = build_detector(Options(detector="mtcnn", smallest_face=30))
    count = 0
    # Sides even and odd, with faces at the border, and a picture in which nothing is even proposed.
    for pictures in (frames, [skimage.data.astronaut()[40:361, 170:307]], [np.full((131, 90, 3), 127, np.uint8)]):
        for picture, found in zip(pictures, detector.boxes(pictures), strict=True):
            boxes, scores = facenet.detect(picture) if picture.std() else (None, [])
            assert len(found) == (0 if boxes is None else len(boxes))
            if found:
                # Pixels; sums of floats that come in another order, times the width of a face.
                np.testing.assert_allclose(corners(found), np.array(boxes, float), atol=1e-3)
                np.testing.assert_allclose([box.score for box in found], np.array(scores, float), atol=1e-5)
            count += len(found)
    assert count >= 5


def test_less_sure_faces_are_told_from_sure_ones(videos):
    from preprocessing.decode_video import SampledFrames

    detector = build_detector(Options(detector="mtcnn"))
    frames = [frame for _, frame in SampledFrames(videos / "hamilton_short.mp4", 0.5)]
    scores = [box.score for boxes in detector.boxes(frames) for box in boxes]
    assert 0.7 <= min(scores) < detector.threshold < max(scores)
    patient = build_detector(Options(detector="mtcnn", threshold=0.5))
    assert sum(map(len, patient.boxes(frames))) > len(scores)


def test_faces_smaller_than_asked_for_are_not_looked_for():
    photograph = skimage.data.astronaut()  # a face of about 100 pixels
    assert len(build_detector(Options(detector="mtcnn", smallest_face=60)).boxes([photograph])[0]) == 1
    assert build_detector(Options(detector="mtcnn", smallest_face=400)).boxes([photograph]) == [[]]


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


def test_haar_finds_the_astronaut_where_mtcnn_does(face_body):
    photograph = skimage.data.astronaut()
    haar = build_detector(Options(detector="haar"))
    surest = max(haar.boxes([photograph])[0], key=lambda box: box.score)
    face = face_body.boxes([photograph])[0][0]
    assert surest.part == "face" and surest.score >= haar.threshold
    # Its squares are wider than MTCNN's boxes, about the same middle.
    np.testing.assert_allclose(
        corners([surest])[0, :2] + corners([surest])[0, 2:],
        corners([face])[0, :2] + corners([face])[0, 2:],
        atol=0.3 * (face.y1 - face.y0),
    )
    assert haar.boxes([np.zeros((10, 10, 3), np.uint8)]) == [[]]


def test_hog_runs_without_torch_and_passes_over_small_frames():
    hog = build_detector(Options(detector="hog"))
    assert hog.boxes([np.zeros((60, 60, 3), np.uint8)]) == [[]]
    boxes = hog.boxes([skimage.data.astronaut()])[0]
    assert all(box.part == "body" and 0 <= box.score <= 1 for box in boxes)


def test_the_registry_names_classes_that_exist():
    assert all(hasattr(detector_class(name), "boxes") for name in DETECTORS)


def test_real_clips_show_the_people_who_are_in_them(videos, face_body):
    from preprocessing.decode_video import SampledFrames

    def sure(name, fps):
        found = face_body.boxes([frame for _, frame in SampledFrames(videos / name, fps)])
        return [sum(box.score >= face_body.threshold for box in boxes) for boxes in found]

    assert sure("asl_walk.mkv", 1.0) == [2, 2, 2]
    assert sum(count >= 2 for count in sure("hamilton_short.mp4", 1.0)) >= 7  # of 10
    # The worker's face is hidden by a hood and turned away: MTCNN cannot find it, and says so by finding nothing.
    assert sum(sure("nasa_13013.mp4", 0.5)) == 0
