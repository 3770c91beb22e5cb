"""Boxes in, the same boxes out: of staging, of records, and of a table that other programs open."""

import importlib.util

import msgpack
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from some_boxes import CHOICES, some_boxes

from preprocessing import boxes_table
from preprocessing.boxes_table import COLUMNS, ClipBoxes, write_boxes
from preprocessing.detect_people import LabelledBox

PERSON = LabelledBox(10.0, 20.0, 30.0, 40.0, "person", "body", 0.5)
FACE = LabelledBox(0.0, 0.0, 180.0, 320.0, "person", "face", 0.25, "derived")
CAT = LabelledBox(-1.0, 300.0, 90.0, 321.0, "cat", "object", 1.0, "filled")


@pytest.fixture
def clip() -> ClipBoxes:
    """Four pictures of 320x180, of a video that is twice as wide and twice as high."""
    return ClipBoxes.of("x.mp4", 3.0, 640, 360, [[PERSON], [], [CAT, FACE], []], [[0], [], [1, 0], []], 2.0, 2.0)


def test_boxes_are_kept_in_pixels_of_the_video_and_end_at_its_borders(clip):
    assert clip.pictures == 4 and clip.frame.tolist() == [0, 2, 2] and clip.track.tolist() == [0, 1, 0]
    assert clip.box.tolist() == [[40, 20, 80, 60], [600, 0, 640, 180], [0, 0, 640, 360]]
    assert (clip.label, clip.part) == (["person", "cat", "person"], ["body", "object", "face"])
    assert (clip.source, clip.score.tolist()) == (["detected", "filled", "derived"], [0.5, 1.0, 0.25])


def test_a_picture_may_be_reduced_by_another_share_across_than_down():
    clip = ClipBoxes.of("x", 3.0, 960, 180, [[PERSON]], [[0]], scale_x=3.0)
    assert clip.box.tolist() == [[60, 10, 120, 30]]


def test_records_get_the_boxes_of_chosen_pictures_as_shares_with_the_place_of_the_picture(clip):
    boxes = clip.at([2, 3, 0])
    assert boxes.frame.tolist() == [0, 0, 2] and boxes.track.tolist() == [1, 0, 0]
    assert boxes.label == ["cat", "person", "person"] and boxes.source == ["filled", "derived", "detected"]
    assert boxes.part == ["object", "face", "body"] and boxes.score.tolist() == [1.0, 0.25, 0.5]
    shares = [[0, 600 / 640, 0.5, 1], [0, 0, 1, 1], [20 / 360, 40 / 640, 60 / 360, 80 / 640]]
    np.testing.assert_allclose(boxes.box, shares, rtol=1e-6)
    assert boxes.box.dtype == np.float32 and boxes.frame.dtype == np.int32
    assert clip.at([2, 2]).frame.tolist() == [0, 0, 1, 1]


def test_pictures_without_boxes_give_none(clip):
    empty = clip.at([1, 3])
    assert len(empty.frame) == len(empty.label) == len(clip.at([]).frame) == 0 and empty.box.shape == (0, 4)


@settings(max_examples=30, deadline=None)
@given(CHOICES)
def test_what_is_staged_comes_back(choice):
    clip = some_boxes(**choice)
    again = ClipBoxes.from_dict(msgpack.unpackb(msgpack.packb(clip.to_dict())))
    for name, value in vars(clip).items():
        np.testing.assert_array_equal(getattr(again, name), value, strict=isinstance(value, np.ndarray))


def test_staged_boxes_take_few_bytes():
    clip = some_boxes("x.mp4", 1, pictures=1000)
    assert len(msgpack.packb(clip.to_dict())) < 41 * len(clip.frame) + 300  # 10 numbers of four bytes


def test_the_table_has_the_documented_columns_and_types(tmp_path, clip):
    write_boxes(tmp_path / "boxes.parquet", [clip])
    table = pq.read_table(tmp_path / "boxes.parquet")
    types = {name: {"float64": "double", "float32": "float"}.get(kind, kind) for name, kind in COLUMNS.items()}
    assert {field.name: str(field.type) for field in table.schema} == types and table.column_names == list(COLUMNS)
    assert table.to_pylist()[1] == {
        "video": "x.mp4", "frame": 2, "time": 2 / 3, "track": 1, "label": "cat", "part": "object", "score": 1.0,
        "x0": 600.0, "y0": 0.0, "x1": 640.0, "y1": 180.0, "width": 640, "height": 360, "source": "filled",
    }  # fmt: skip
    assert all(column.null_count == 0 for column in table.columns)


@pytest.mark.skipif(not importlib.util.find_spec("pandas"), reason="pandas is not installed")
def test_pandas_opens_the_table(tmp_path, clip):
    import pandas as pd

    write_boxes(tmp_path / "boxes.parquet", [clip])
    table = pd.read_parquet(tmp_path / "boxes.parquet")
    assert table["x1"].tolist() == [80, 640, 640] and table.dtypes["track"] == "int32"


@pytest.mark.skipif(not importlib.util.find_spec("duckdb"), reason="DuckDB is not installed")
def test_duckdb_opens_the_table(tmp_path, clip):
    import duckdb

    write_boxes(tmp_path / "boxes.parquet", [clip])
    found = duckdb.sql(f"select label, x1 - x0 from '{tmp_path / 'boxes.parquet'}' where part = 'object'").fetchall()
    assert found == [("cat", 40.0)]


def test_the_same_boxes_give_the_same_bytes(tmp_path):
    for name in ("one", "other"):
        write_boxes(tmp_path / name, (some_boxes(f"{seed}.mp4", seed) for seed in range(20)))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


def test_a_clip_lies_in_one_row_group_and_a_group_ends_once_it_is_full(tmp_path, monkeypatch):
    monkeypatch.setattr(boxes_table, "ROWS", 40)
    clips = [some_boxes(f"{seed}.mp4", seed) for seed in range(9)] + [some_boxes("none.mp4", 9, pictures=0)]
    write_boxes(tmp_path / "boxes.parquet", clips)
    with pq.ParquetFile(tmp_path / "boxes.parquet") as file:
        groups = [set(file.read_row_group(i)["video"].to_pylist()) for i in range(file.num_row_groups)]
        sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        rows = file.read()
    assert len(groups) > 2 and sum(map(len, groups)) == len(set().union(*groups)) == 9
    assert all(40 <= size < 40 + 12 * 4 for size in sizes[:-1])
    assert rows["x0"].to_numpy().tolist() == np.concatenate([clip.box[:, 0] for clip in clips]).tolist()


def test_no_boxes_at_all_are_a_table_without_rows(tmp_path):
    write_boxes(tmp_path / "boxes.parquet", [some_boxes("x", 0, most=0)])
    assert pq.read_table(tmp_path / "boxes.parquet").num_rows == 0


def test_writing_that_fails_leaves_the_table_that_was_there(tmp_path, clip):
    write_boxes(tmp_path / "boxes.parquet", [clip])
    before = (tmp_path / "boxes.parquet").read_bytes()

    def clips():
        yield some_boxes("y", 1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_boxes(tmp_path / "boxes.parquet", clips())
    assert (tmp_path / "boxes.parquet").read_bytes() == before
