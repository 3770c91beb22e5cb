import cv2
import numpy as np
import pytest
from trees import write_images

from preprocessing.decode_images import ImageFrames
from preprocessing.problems import VideoError


def test_image_number_n_stands_at_its_third_of_a_second(tmp_path):
    frames = ImageFrames(write_images(tmp_path / "a", 4))
    found = [(time, frames.original) for time, _ in frames]
    assert [time for time, _ in found] == pytest.approx([i / 3 for i in range(12)]) and frames.seconds == 4.0
    assert frames.problem is None and [path.name for _, path in found] == [f"{i:05d}.jpg" for i in range(1, 13)]


def test_missing_and_broken_images_are_filled_and_later_ones_keep_their_time(tmp_path):
    folder = write_images(tmp_path / "-x", 4, "-x_{:03d}.jpg")
    whole = [image for _, image in ImageFrames(folder)]
    for number in (1, 5):
        (folder / f"-x_{number:03d}.jpg").unlink()
    (folder / "-x_006.jpg").write_bytes(b"not an image")
    (folder / "notes.txt").touch()
    (folder / "other_900.jpg").write_bytes((folder / "-x_002.jpg").read_bytes())
    frames = ImageFrames(folder)
    found = [image for _, image in frames]
    assert len(found) == 12 and frames.problem == "3 of 12 images are missing or cannot be read"
    np.testing.assert_array_equal(found[0], whole[1])
    np.testing.assert_array_equal(found[5], whole[3])
    np.testing.assert_array_equal(found[11], whole[11])


def test_an_image_that_is_too_large_is_stored_smaller(tmp_path):
    cv2.imwrite(str(tmp_path / "00001.jpg"), np.zeros((900, 1600, 3), np.uint8))
    frames = ImageFrames(tmp_path)
    assert next(iter(frames))[1].shape == (450, 800, 3) and frames.original is None


def test_a_folder_without_images_is_a_problem_of_its_clip(tmp_path):
    (tmp_path / "00001.jpg").touch()
    with pytest.raises(VideoError, match="holds no numbered JPEG"):
        list(ImageFrames(tmp_path))


def test_links_to_nothing_and_folders_are_missing_images(tmp_path):
    folder = write_images(tmp_path / "a", 4)
    for number in (3, 7):
        (folder / f"{number:05d}.jpg").unlink()
    (folder / "00003.jpg").symlink_to(tmp_path / "nothing")
    (folder / "00007.jpg").mkdir()
    frames = ImageFrames(folder)
    assert len(list(frames)) == 12 and frames.problem == "2 of 12 images are missing or cannot be read"


def test_a_number_far_from_the_others_is_refused(tmp_path):
    folder = write_images(tmp_path / "a", 4)
    (folder / "1500000.jpg").write_bytes((folder / "00001.jpg").read_bytes())
    with pytest.raises(VideoError, match="holds 13 images up to number 1500000"):
        ImageFrames(folder)


def test_number_0_and_numbers_that_stand_twice_are_told_of(tmp_path):
    folder = write_images(tmp_path / "a", 4)
    for name in ("00000.jpg", "1.jpg"):
        (folder / name).write_bytes((folder / "00005.jpg").read_bytes())
    frames = ImageFrames(folder)
    assert len(list(frames)) == 12 and frames.problem == "2 images have number 0 or a number that stands twice"
