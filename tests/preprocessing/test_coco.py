"""Boxes in, a COCO json out that is what its documentation says, and that gives the same boxes back."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from some_boxes import CHOICES, imported_again, some_boxes

from preprocessing.coco import write_coco
from preprocessing.import_boxes import open_boxes


@pytest.fixture(scope="module")
def clips():
    return [some_boxes("a.mp4", 1), some_boxes("b/c.mkv", 2, pictures=5, size=(1920, 1080)), some_boxes("d", 3, most=0)]


@pytest.fixture(scope="module")
def written(tmp_path_factory, clips) -> dict:
    path = tmp_path_factory.mktemp("coco") / "boxes.json"
    write_coco(path, clips)
    return json.loads(path.read_text())


def test_every_sampled_picture_is_an_image_also_where_nobody_is_in_it(written, clips):
    images = written["images"]
    assert [image["file_name"] for image in images] == [
        f"{clip.video}/{index + 1:05d}.jpg" for clip in clips for index in range(clip.pictures)
    ]
    assert [(image["frame_index"], image["frame_id"], image["time"]) for image in images[12:17]] == [
        (i, i, i / 3) for i in range(5)
    ]
    assert {(image["width"], image["height"]) for image in images[12:17]} == {(1920, 1080)}
    assert [video["name"] for video in written["videos"]] == ["a.mp4", "b/c.mkv", "d"]


def test_numbers_are_unique_and_lead_to_what_is_there(written):
    for name in ("images", "annotations", "categories", "videos", "tracks"):
        ids = [item["id"] for item in written[name]]
        assert len(ids) == len(set(ids)) and all(type(number) is int and number > 0 for number in ids)
    by_id = {name: {item["id"]: item for item in written[name]} for name in ("images", "tracks", "categories")}
    for annotation in written["annotations"]:
        image, track = by_id["images"][annotation["image_id"]], by_id["tracks"][annotation["track_id"]]
        assert image["video_id"] == track["video_id"] == annotation["video_id"]
        assert annotation["category_id"] in by_id["categories"] and annotation["instance_id"] == annotation["track_id"]
    assert len({category["name"] for category in written["categories"]}) == len(written["categories"])


def test_a_bbox_is_left_top_width_and_height_within_the_image(written, clips):
    images = {image["id"]: image for image in written["images"]}
    assert len(written["annotations"]) == sum(len(clip.frame) for clip in clips) > 20
    for annotation in written["annotations"]:
        (x, y, width, height), image = annotation["bbox"], images[annotation["image_id"]]
        assert 0 <= x < x + width <= image["width"] and 0 <= y < y + height <= image["height"]
        assert annotation["area"] == width * height and annotation["iscrowd"] == 0 and 0 <= annotation["score"] <= 1
    boxes = np.array([annotation["bbox"] for annotation in written["annotations"]])
    boxes[:, 2:] += boxes[:, :2]
    np.testing.assert_array_equal(boxes.astype(np.float32), np.concatenate([clip.box for clip in clips]))


def test_a_body_is_a_person_and_a_face_a_face(written):
    names = {(category["label"], category["part"]): category for category in written["categories"]}
    assert names["person", "body"]["name"] == "person" and names["person", "face"]["name"] == "face"
    assert names["person", "object"]["name"] == "person (object)" and names["laptop", "object"]["name"] == "laptop"
    assert {names["Sheldon", "body"]["supercategory"], names["person", "face"]["supercategory"]} == {"person"}


def test_the_same_boxes_give_the_same_bytes_and_no_file_is_left_behind(tmp_path, clips):
    for name in ("one", "other"):
        write_coco(tmp_path / name, iter(clips))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "other"]


def test_no_clips_at_all_are_a_json_without_images(tmp_path):
    write_coco(tmp_path / "boxes.json", [])
    written = json.loads((tmp_path / "boxes.json").read_text())
    assert not any(written[name] for name in ("images", "annotations", "categories", "videos", "tracks"))


@settings(max_examples=30, deadline=None)
@given(st.lists(CHOICES, min_size=1, max_size=3, unique_by=lambda choice: choice["video"]))
def test_what_was_exported_comes_back(tmp_path_factory, choices):
    clips = [some_boxes(**choice) for choice in choices]
    path = tmp_path_factory.mktemp("coco") / "boxes.json"
    write_coco(path, clips)
    if not any(clip.pictures for clip in clips):
        return
    imported = open_boxes(path)
    assert imported.problems == []
    for clip in clips:
        again = imported_again(clip, imported)
        for name, value in vars(clip).items():
            np.testing.assert_array_equal(getattr(again, name), value)
