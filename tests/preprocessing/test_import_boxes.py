"""Files of boxes made elsewhere, good and bad: what each gives to the sampled pictures of a clip, and what is told."""

import json
import math
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from some_boxes import CHOICES, imported_again, some_boxes

from preprocessing.boxes_table import write_boxes
from preprocessing.coco import write_coco
from preprocessing.datasets import open_dataset
from preprocessing.detect_people import LabelledBox
from preprocessing.human_boxes import boxes_at, in_pixels, tracks_by_label
from preprocessing.import_boxes import ImportedBoxes, Sampled, open_boxes
from preprocessing.imports import table
from preprocessing.options import Options
from preprocessing.problems import PreprocessError

NTSC = 30_000 / 1001


def sampled(video: str = "x.mp4", pictures: int = 4, **changes) -> Sampled:
    values = {"fps": 3.0, "width": 640, "height": 360, "native_fps": 25.0}
    return Sampled(video=video, pictures=pictures, **values | changes)


def mot(tmp_path, text: str | bytes, rate: float | None = None) -> ImportedBoxes:
    path = tmp_path / "x.txt"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return open_boxes(path, rate)


def edges(boxes: list[LabelledBox]) -> list[tuple]:
    return [(box.x0, box.y0, box.x1, box.y1) for box in boxes]


def only(imported: ImportedBoxes) -> LabelledBox:
    """The one box of the first picture."""
    (box,) = imported.boxes_of(sampled())[0][0]
    return box


# MOT text


@pytest.mark.parametrize(
    "line",
    [
        "1,-1,10,20,30,40,0.5",
        "1,-1,10,20,30,40,0.5,-1,-1,-1\n",
        "1.0, -1.0, 10.00, 20.00, 30.00, 40.00, 0.50\r\n",
        "1 -1 10 20 30 40 0.5",
        "1\t-1\t10\t20\t30\t40\t0.5\n\n",
        "\ufeffframe,id,x,y,w,h,conf\r\n1,-1,10,20,30,40,0.5,\r\n",
        "# made by hand\n1,-1,10,20,30,40,0.5,-1",
    ],
)
def test_a_line_of_mot_text_is_a_box_however_it_is_written(tmp_path, line):
    imported = mot(tmp_path, line)
    assert only(imported) == LabelledBox(20.0, 10.0, 60.0, 40.0, "person", "body", 0.5, "imported")
    assert imported.boxes_of(sampled())[1] is None and imported.problems == []


def test_boxes_of_unitrack_keep_their_ids_and_are_sure(tmp_path):
    text = "1,7,1,2,30,40,1,-1,-1,-1\n1,3,100,2,30,40,1,-1,-1,-1\n9,3,110,2,30,40,1,-1,-1,-1\n"
    boxes, tracks = mot(tmp_path, text).boxes_of(sampled())
    assert edges(boxes[1]) == [(110, 2, 140, 42)] and boxes[1][0].score == 1.0
    assert tracks == [[0, 1], [1], [], []]


def test_a_box_without_an_id_among_others_is_a_track_of_its_own(tmp_path):
    _, tracks = mot(tmp_path, "1,7,1,2,30,40\n1,-1,50,2,30,40\n9,-1,50,2,30,40\n9,7,1,2,30,40").boxes_of(sampled())
    assert tracks == [[0, 1], [2, 0], [], []]


def test_ground_truth_says_what_a_box_is_and_which_are_not_to_be_counted(tmp_path):
    lines = [(1, 0), (1, 1), (7, 1), (3, 1), (12, 1), (99, 1)]  # class, and whether it counts
    text = "\n".join(f"1,{id},{50 * id},0,40,80,{counts},{thing},1.0" for id, (thing, counts) in enumerate(lines, 1))
    imported = mot(tmp_path, text)
    (picture, *_), _ = imported.boxes_of(sampled())
    assert [(box.x0, box.label, box.part) for box in picture] == [
        (100, "person", "body"), (150, "person", "body"), (200, "car", "object"), (300, "class 99", "object"),
    ]  # fmt: skip
    assert imported.problems == []


def test_confidences_without_an_upper_end_end_at_one_and_minus_one_says_nothing(tmp_path):
    text = "1,-1,0,0,40,80,37.5\n1,-1,50,0,40,80,-1\n1,-1,100,0,40,80,-0.25"
    imported = mot(tmp_path, text)
    assert [box.score for box in imported.boxes_of(sampled())[0][0]] == [1.0, 1.0]
    (problem,) = imported.problems
    assert problem.problem == "the box at line 3: its score is not within 0 and 1 (-0.25) and is left out"


def test_an_empty_file_is_a_video_in_which_nobody_is(tmp_path):
    imported = mot(tmp_path, "")
    assert imported.videos == {"x"} and imported.problems == []
    assert imported.boxes_of(sampled()) == ([[], [], [], []], [[], [], [], []])


@pytest.mark.parametrize(
    "line, says",
    [
        ("1,2,3,4,5", "line 2: it is not frame,id,x,y,width,height,confidence ('1,2,3,4,5')"),
        ("1,,3,4,5,6,1", "line 2: it is not frame,id,x,y,width,height,confidence"),
        ("1,a,3,4,5,6,1", "line 2: it is not frame,id,x,y,width,height,confidence"),
        ("0,1,3,4,5,6,1", "line 2: frames count from 1 (0)"),
        ("-4,1,3,4,5,6,1", "line 2: frames count from 1 (-4)"),
        ("1.5,1,3,4,5,6,1", "line 2: the number of its frame is no whole number"),
        ("nan,1,3,4,5,6,1", "line 2: its frame or time is none of a video"),
        ("1e30,1,3,4,5,6,1", "line 2: its frame or time is none of a video"),
        ("1,1,3,4,0,6,1", "line 2: it has no area (3 to 3 across, 4 to 10 down)"),
        ("1,1,3,4,-5,6,1", "line 2: it has no area"),
        ("1,1,3,nan,5,6,1", "line 2: it has no area"),
        ("1,1,inf,4,5,6,1", "line 2: it has no area"),
        ("1,1.5,3,4,5,6,1", "line 2: its track is no whole number, or too large a one (1.5)"),
        ("1,nan,3,4,5,6,1", "line 2: its track is no whole number, or too large a one (nan)"),
        ("1,1,3,4,5,6,nan", "line 2: its score is not within 0 and 1 (nan)"),
    ],
)
def test_a_bad_line_of_mot_text_is_left_out_and_told(tmp_path, line, says):
    imported = mot(tmp_path, f"1,1,10,20,30,40,1\n{line}\n{line}\n")
    assert edges(imported.boxes_of(sampled())[0][0]) == [(10, 20, 40, 60)]
    (problem,) = imported.problems
    assert problem.file == "x.txt" and problem.problem.startswith("2 boxes are left out, the first at ")
    assert says in problem.problem


def test_a_folder_has_a_file_for_each_video_also_as_motchallenge_lays_them(tmp_path):
    for name in ("a.txt", "below/b.txt", "MOT16-02/gt/gt.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"1,1,{len(name)},0,40,80,1\n")
    (tmp_path / "below" / "read me.txt").write_text("These are boxes.\n")
    imported = open_boxes(tmp_path)
    videos = ["a.mp4", "below/b.mkv", "MOT16-02.mp4"]
    assert [imported.boxes_of(sampled(video))[0][0][0].x0 for video in videos] == [5, 11, 18]
    assert imported.unknown(videos) == ["below/read me"]
    assert [(problem.file, problem.problem[:17]) for problem in imported.problems] == [
        ("below/read me.txt", "the box at line 1")
    ]


# Which picture a frame belongs to


@pytest.mark.parametrize("native_fps", [25.0, NTSC, 29.97, 24_000 / 1001, 50.0, 3.0, 4.0])
def test_a_picture_takes_the_boxes_of_the_very_frame_that_it_shows(tmp_path, native_fps):
    frames, pictures = int(60 * native_fps), 179
    text = "".join(f"{number + 1},1,{number % 500},{number // 500},40,80,1\n" for number in range(frames))
    boxes, _ = mot(tmp_path, text).boxes_of(sampled(pictures=pictures, native_fps=native_fps))
    shown = [int(box.x0 + 500 * box.y0) for (box,) in boxes]
    # The last frame whose time has come; decode_video allows a timestamp half a millisecond.
    assert shown == [math.floor((i / 3 + 5e-4) * native_fps) for i in range(pictures)]


def test_where_the_frame_shown_has_no_boxes_a_file_of_every_frame_gives_none(tmp_path):
    frames = [number for number in range(75) if number != 8]  # picture 1 shows frame 8 of 25 a second
    boxes, _ = mot(tmp_path, "".join(f"{number + 1},1,5,5,40,80,1\n" for number in frames)).boxes_of(sampled())
    assert [len(picture) for picture in boxes] == [1, 0, 1, 1]


def test_where_every_other_frame_has_boxes_the_nearest_of_them_counts(tmp_path):
    text = "".join(f"{number + 1},1,{number},5,40,80,1\n" for number in range(1, 75, 2))
    boxes, _ = mot(tmp_path, text).boxes_of(sampled(pictures=7))
    assert [int(box.x0) for (box,) in boxes] == [1, 7, 15, 25, 33, 41, 49]  # of 0, 8, 16, 25, 33, 41, 50


def test_where_few_frames_have_boxes_each_goes_to_the_picture_nearest_in_time(tmp_path):
    text = "".join(f"{number + 1},1,{number},5,40,80,1\n" for number in (0, 20, 42, 60))  # 0, 0.8, 1.68 and 2.4 s
    boxes, _ = mot(tmp_path, text).boxes_of(sampled(pictures=8))
    assert [[int(box.x0) for box in picture] for picture in boxes] == [[0], [], [20], [], [], [42], [], [60]]


def test_of_two_frames_that_go_to_one_picture_the_nearer_stays(tmp_path):
    text = "".join(f"{number + 1},1,{number},5,40,80,1\n" for number in (0, 23, 26, 50, 54, 75, 100))
    boxes, _ = mot(tmp_path, text).boxes_of(sampled(pictures=13))
    assert {i: int(box.x0) for i, picture in enumerate(boxes) for box in picture} == {
        0: 0,
        3: 26,
        6: 50,
        9: 75,
        12: 100,
    }


def test_a_rate_says_how_many_pictures_a_second_a_file_counts(tmp_path):
    text = "".join(f"{number + 1},1,{number},5,40,80,1\n" for number in range(4))
    boxes, _ = mot(tmp_path, text, rate=1.0).boxes_of(sampled(pictures=10, native_fps=NTSC))
    assert [[int(box.x0) for box in picture] for picture in boxes] == [[0], [], [], [1], [], [], [2], [], [], [3]]


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(0, 300), min_size=1, max_size=20, unique=True),
    st.sampled_from([1.0, 10.0, 25.0, NTSC]),
    st.sampled_from([1.0, 3.0, 30.0]),
)
def test_no_box_is_further_from_its_picture_than_half_a_period_of_frames_or_pictures(
    tmp_path_factory, frames, native, fps
):
    text = "".join(f"{number + 1},1,{number},5,40,80,1\n" for number in sorted(frames))
    around = sampled(pictures=int(300 / native * fps) + 1, fps=fps, native_fps=native)
    boxes, _ = mot(tmp_path_factory.mktemp("mot"), text).boxes_of(around)
    period = max(1 / native, 1 / fps, np.median(np.diff(sorted(frames))) / native if len(frames) > 1 else 0)
    for index, picture in enumerate(boxes):
        assert len(picture) <= 1
        assert all(abs(box.x0 / native - index / fps) <= period + 1e-3 for box in picture)


# Pixels


def test_boxes_are_cut_at_the_borders_and_what_does_not_fit_is_told(tmp_path):
    text = "1,1,-10,-10,30,40,1\n1,2,630,350,90,90,1\n1,3,700,0,50,50,1\n1,4,639.5,0,50,50,1\n9999,1,0,0,9,9,1"
    imported = mot(tmp_path, text)
    boxes, tracks = imported.boxes_of(sampled())
    assert edges(boxes[0]) == [(0, 0, 20, 30), (630, 350, 640, 360)] and tracks[0] == [0, 1]
    assert imported.clip("x.mp4").on(sampled()).problem == (
        "has 5 imported boxes, 1 of them after its end and 2 of them outside of its picture; these are left out"
    )


def test_boxes_of_a_picture_of_another_size_are_brought_to_ours(tmp_path):
    clip = some_boxes("x.mp4", 1, size=(1920, 1440))
    write_boxes(tmp_path / "boxes.parquet", [clip])
    boxes, _ = open_boxes(tmp_path / "boxes.parquet").boxes_of(sampled(pictures=12))
    ours = np.array([edge for picture in boxes for edge in edges(picture)])
    wanted = clip.box / np.array([3, 4, 3, 4])
    wanted = wanted[(wanted[:, 2:] - wanted[:, :2] >= 1).all(1)]  # less than a pixel is nothing
    assert len(ours) > 10
    np.testing.assert_allclose(ours, wanted, rtol=1e-12)


# Our own table


@settings(max_examples=30, deadline=None)
@given(st.lists(CHOICES, min_size=1, max_size=3, unique_by=lambda choice: choice["video"]))
def test_a_table_that_is_imported_and_written_again_is_the_same_file(tmp_path_factory, choices):
    folder, clips = tmp_path_factory.mktemp("table"), [some_boxes(**choice) for choice in choices]
    write_boxes(folder / "one.parquet", clips)
    imported = open_boxes(folder / "one.parquet")
    write_boxes(folder / "other.parquet", [imported_again(clip, imported) for clip in clips])
    assert (folder / "one.parquet").read_bytes() == (folder / "other.parquet").read_bytes()


def edited(tmp_path, **columns) -> ImportedBoxes:
    pq.write_table(pa.table(columns), tmp_path / "edited.parquet")
    return open_boxes(tmp_path / "edited.parquet")


PLAIN = {"video": ["x.mp4"], "frame": [0], "x0": [10], "y0": [20], "x1": [40], "y1": [60]}


def test_a_table_needs_no_more_than_videos_frames_and_edges(tmp_path):
    imported = edited(tmp_path, **PLAIN)
    assert only(imported) == LabelledBox(20.0, 10.0, 60.0, 40.0, "person", "body", 1.0, "imported")
    assert imported.boxes_of(sampled())[1] is None


def test_columns_may_stand_in_any_order_and_have_any_type_that_holds_the_values(tmp_path):
    clip = some_boxes("x.mp4", 5)
    write_boxes(tmp_path / "boxes.parquet", [clip])
    read = pq.read_table(tmp_path / "boxes.parquet")
    columns = {
        name: column.cast(pa.large_string()).dictionary_encode()
        if column.type == pa.string()
        else column.cast(pa.float64() if name in ("frame", "width", "score") else column.type)
        for name, column in reversed(list(zip(read.column_names, read.columns, strict=True)))
    }
    again = imported_again(clip, edited(tmp_path, **columns, __index_level_0__=list(range(len(read)))))
    assert again.to_dict() == clip.to_dict()


def test_rows_may_stand_in_any_order(tmp_path):
    clip = some_boxes("x.mp4", 5, most=1)  # one box a picture
    write_boxes(tmp_path / "boxes.parquet", [clip, some_boxes("y.mp4", 6)])
    read = pq.read_table(tmp_path / "boxes.parquet")
    shuffled = read.take(np.random.default_rng(0).permutation(len(read)))
    pq.write_table(shuffled, tmp_path / "edited.parquet")
    assert imported_again(clip, open_boxes(tmp_path / "edited.parquet")).to_dict() == clip.to_dict()


@pytest.mark.parametrize(
    "said, label, part",
    [
        ({"label": "Person"}, "person", "body"),
        ({"label": "face"}, "person", "face"),
        ({"label": " laptop "}, "laptop", "object"),
        ({"part": "face"}, "person", "face"),
        ({"part": "object"}, "object", "object"),
        ({"label": "Sheldon", "part": "body"}, "Sheldon", "body"),
        ({"label": None, "part": None}, "person", "body"),
    ],
)
def test_label_and_part_follow_from_each_other_where_one_is_missing(tmp_path, said, label, part):
    found = only(edited(tmp_path, **PLAIN, **{name: pa.array([text], pa.string()) for name, text in said.items()}))
    assert (found.label, found.part) == (label, part)


def test_a_source_that_records_know_is_kept_and_any_other_is_imported(tmp_path):
    rows = {name: values * 4 for name, values in PLAIN.items()}
    imported = edited(tmp_path, **rows, source=["filled", "by hand", None, "annotated"])
    assert [box.source for box in imported.boxes_of(sampled())[0][0]] == ["filled", "imported", "imported", "annotated"]


def test_a_missing_number_is_as_a_missing_column(tmp_path):
    rows = {name: values * 2 for name, values in PLAIN.items()}
    imported = edited(tmp_path, **rows, time=[math.nan, 1 / 3], track=[None, 4], score=[None, 0.5])
    boxes, tracks = imported.boxes_of(sampled())
    assert [[box.score for box in picture] for picture in boxes] == [[1.0], [0.5], [], []]
    assert tracks == [[0], [1], [], []]


def test_time_decides_where_a_box_belongs_so_that_another_rate_of_sampling_finds_it(tmp_path):
    write_boxes(tmp_path / "boxes.parquet", [some_boxes("x.mp4", 2, pictures=12, fps=2.0, most=1)])
    read = pq.read_table(tmp_path / "boxes.parquet")
    boxes, _ = open_boxes(tmp_path / "boxes.parquet").boxes_of(sampled(fps=4.0, pictures=24))
    assert [i / 4 for i, picture in enumerate(boxes) if picture] == read["time"].to_pylist()


def test_a_row_added_by_hand_joins_those_of_its_picture(tmp_path):
    rows = {name: values * 4 for name, values in PLAIN.items()}
    imported = edited(tmp_path, **{**rows, "frame": [10, 0, 10, 11]}, time=[10 / 3, 3.33, None, 11 / 3])
    boxes, _ = imported.boxes_of(sampled(pictures=12))
    assert [len(picture) for picture in boxes] == [0] * 10 + [3, 1]


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"x1": [10]}, "row 1: it has no area (10 to 10 across, 20 to 60 down)"),
        ({"y0": [None]}, "row 1: it has no area"),
        ({"frame": [-1]}, "row 1: its frame or time is none of a video"),
        ({"frame": [0.5]}, "row 1: the number of its frame is no whole number"),
        ({"frame": [None]}, "row 1: its frame or time is none of a video"),
        ({"video": [None]}, "row 1: no video is named"),
        ({"score": [37.0]}, "row 1: its score is not within 0 and 1 (37)"),
        ({"part": ["torso"]}, "row 1: its part is none of body, face, object ('torso')"),
        ({"track": [0.25]}, "row 1: its track is no whole number, or too large a one (0.25)"),
        ({"width": [0], "height": [360]}, "row 1: the width and height of its picture are not two sizes"),
        ({"width": [640]}, "row 1: the width and height of its picture are not two sizes"),
    ],
)
def test_a_bad_row_of_a_table_is_left_out_and_told(tmp_path, changes, says):
    good = {**PLAIN, **{name: [None] for name in changes if name not in PLAIN}}
    imported = edited(tmp_path, **{name: [*good[name], *({**good, **changes})[name]] for name in good})
    assert len(imported.boxes_of(sampled())[0][0]) == 1
    (problem,) = imported.problems
    assert problem.file == "edited.parquet" and says in problem.problem


def test_rows_are_numbered_over_the_whole_table(tmp_path, monkeypatch):
    monkeypatch.setattr(table, "BATCH", 2)
    rows = {name: values * 7 for name, values in PLAIN.items()} | {"x1": [40, 40, 40, 40, 40, 0, 40]}
    pq.write_table(pa.table(rows), tmp_path / "edited.parquet", row_group_size=3)
    imported = open_boxes(tmp_path / "edited.parquet")
    assert len(imported.boxes_of(sampled())[0][0]) == 6
    assert imported.problems[0].problem.startswith("the box at row 5: it has no area (10 to 0 across")


@pytest.mark.parametrize(
    "columns, says",
    [
        ({"video": ["x"], "frame": [0]}, "has no column x0, y0, x1, y1; name its columns as boxes.parquet does"),
        ({name: PLAIN[name] for name in PLAIN if name != "frame"}, "has no column time or frame; name"),
        ({**PLAIN, "x0": ["left"]}, "column x0 holds string, not numbers; store it as boxes.parquet does"),
        ({**PLAIN, "label": [[1, 2]]}, "column label holds list<element: int64>, not texts"),
        ({**PLAIN, "x1": [1]}, "holds no box that can be used: the box at row 0: it has no area"),
    ],
)
def test_a_table_of_something_else_is_refused_in_a_sentence(tmp_path, columns, says):
    with pytest.raises(PreprocessError) as error:
        edited(tmp_path, **columns)
    assert says in str(error.value) and "\n" not in str(error.value)


# COCO


PERSON, FACE, DOG = {"id": 1, "name": "person"}, {"id": 2, "name": "Face"}, {"id": 18, "name": "dog"}


def coco(tmp_path, images: list, annotations: list, rate: float | None = None, **more) -> ImportedBoxes:
    path = tmp_path / "some.json"
    path.write_text(
        json.dumps({"annotations": annotations, "images": images, "categories": [PERSON, FACE, DOG]} | more)
    )
    return open_boxes(path, rate)


def annotation(image_id=1, category_id=1, bbox=(10, 20, 30, 40), **more) -> dict:
    return {"id": 5, "image_id": image_id, "category_id": category_id, "bbox": list(bbox)} | more


def test_plain_coco_has_its_images_numbered_in_a_folder_for_each_video(tmp_path):
    images = [{"id": 9, "file_name": "x/00002.jpg"}, {"id": "b", "file_name": "val/y/frame_0004.png"}]
    rle = {"counts": [1, 2, 3], "size": [360, 640]}
    imported = coco(
        tmp_path,
        images,
        [
            annotation(9, segmentation=rle, score=0.75),
            annotation(9, 2, iscrowd=1, segmentation=rle),
            annotation(9, 2, track_id=None),
            annotation("b", 18, instance_id=4, iscrowd=0),
        ],
    )
    boxes, tracks = imported.boxes_of(sampled("x.mp4"))
    assert boxes[1] == [
        LabelledBox(20.0, 10.0, 60.0, 40.0, "person", "body", 0.75, "imported"),
        LabelledBox(20.0, 10.0, 60.0, 40.0, "person", "face", 1.0, "imported"),
    ]
    assert tracks is None and [len(picture) for picture in boxes] == [0, 2, 0, 0]
    boxes, tracks = imported.boxes_of(sampled("y.mp4"))
    assert [(box.label, box.part) for box in boxes[3]] == [("dog", "object")] and tracks == [[], [], [], [0]]
    assert imported.problems == [] and imported.videos == {"x", "val/y"}


def test_images_of_coco_stand_where_their_time_their_frame_or_their_number_says(tmp_path):
    videos = [{"id": 1, "name": "x.mp4"}, {"id": 2, "name": "slow.mp4", "fps": 1}]
    images = [
        {"id": 1, "video_id": 1, "time": 1 / 3, "frame_index": 99},
        {"id": 2, "video_id": 1, "frame_index": 25},
        {"id": 3, "video_id": 2, "frame_id": 2},
        {"id": 4, "file_name": "far\\0007.jpg"},
    ]
    annotations = [annotation(id) for id in (1, 2, 3, 4)]
    for rate, found in ((None, [[1, 3], [6], [6]]), (12.5, [[1, 6], [0], [1]])):
        imported = coco(tmp_path, images, annotations, rate, videos=videos)
        for video, pictures in zip(("x.mp4", "slow.mp4", "far.mp4"), found, strict=True):
            boxes, _ = imported.boxes_of(sampled(video, pictures=9))
            assert [i for i, picture in enumerate(boxes) if picture] == pictures, (rate, video)


def test_boxes_of_coco_are_in_pixels_of_their_image(tmp_path):
    images = [{"id": 1, "file_name": "x/1.jpg", "width": 320, "height": 720}]
    assert edges([only(coco(tmp_path, images, [annotation()]))]) == [(20, 10, 80, 30)]


@pytest.mark.parametrize(
    "bad, says",
    [
        (annotation(2), "its image is not in the file, or names no video (image_id 2)"),
        (annotation(3), "two images have its image_id (3)"),
        (annotation(4), "its image is not in the file, or names no video"),
        (annotation(6), "its frame or time is none of a video"),
        (annotation([1]), "its image_id is none ([1])"),
        (annotation(1, 7), "its category is not in the file (7)"),
        (annotation(1, [7]), "its category is not in the file"),
        (annotation(bbox=(1, 2, 3)), "its bbox is not x, y, width, height ([1, 2, 3])"),
        (annotation(bbox=(1, 2, "w", 3)), "its bbox is not x, y, width, height"),
        (annotation(bbox=(1, 2, 0, 3)), "it has no area"),
        ({"id": 5, "image_id": 1, "category_id": 1}, "its bbox is not x, y, width, height (None)"),
        (annotation(score="high"), "its score is no number ('high')"),
        (annotation(score=1.5), "its score is not within 0 and 1 (1.5)"),
        (annotation(track_id="a"), "its track_id is no number ('a')"),
        (annotation(track_id=2**62), "its track is no whole number, or too large a one (4.61169e+18)"),
    ],
)
def test_a_bad_annotation_of_coco_is_left_out_and_told(tmp_path, bad, says):
    images = [{"id": 1, "file_name": "x/1.jpg"}, {"id": 3, "file_name": "x/1.jpg"}, {"id": 3, "file_name": "x/2.jpg"}]
    images += [{"id": 4, "file_name": "1.jpg"}, {"id": 6, "file_name": "x/first.jpg"}, "no image", {"id": [1]}]
    imported = coco(tmp_path, images, [annotation(), bad, bad, "no annotation"])
    assert edges([only(imported)]) == [(10, 20, 40, 60)]
    (problem,) = imported.problems
    assert f"2 boxes are left out, the first at annotation 5: {says}" in problem.problem


def test_coco_may_begin_with_a_mark_and_have_no_annotations(tmp_path):
    (tmp_path / "some.json").write_bytes(b'\xef\xbb\xbf \n{"images": [{"id": 1, "file_name": "x/1.jpg"}]}')
    imported = open_boxes(tmp_path / "some.json")
    assert imported.videos == {"x"} and imported.boxes_of(sampled()) == ([[]] * 4, [[]] * 4)


# TVQA+


def test_the_real_tvqa_plus_gives_the_boxes_that_its_dataset_gives(tmp_path, shared_data):
    rows = json.loads((shared_data / "tvqa" / "tvqa_plus_val.json").read_bytes())
    (tmp_path / "tvqa_plus_val.json").write_text(json.dumps(rows[:300]))
    annotations = open_dataset(tmp_path, Options(dataset="tvqa_plus")).read().annotations
    imported = open_boxes(tmp_path / "tvqa_plus_val.json")
    clips = list(annotations.clips())
    assert imported.unknown(clips) == [] and len(imported.videos) > 40
    for clip in clips[::10]:
        drawn = annotations.boxes(clip)
        wanted = [[in_pixels(box, 360, 640) for box in boxes_at(i, drawn)] for i in range(180)]
        boxes, tracks = imported.boxes_of(sampled(clip, pictures=180, native_fps=3.0))
        assert boxes == wanted and tracks == tracks_by_label(wanted) and sum(map(len, boxes)) > 20


def test_boxes_of_tvqa_plus_move_to_the_pictures_of_another_rate(tmp_path):
    def row(number: int, left: int) -> dict:
        drawn = {"img_id": number, "top": 36, "left": left, "width": 64, "height": 36, "label": "Sheldon"}
        answers = {f"a{i}": f"answer {i}" for i in range(5)}
        asked = {"qid": number, "q": "Who?", "answer_idx": "1", "ts": [0, 9], "vid_name": "s01e01_seg01_clip_00"}
        return {**asked, **answers, "bbox": {str(number): [drawn]}}

    (tmp_path / "plus.json").write_text(json.dumps([row(1, 0), row(7, 64), {"qid": 3}]))
    imported = open_boxes(tmp_path / "plus.json")
    boxes, tracks = imported.boxes_of(sampled("s01e01_seg01_clip_00.mp4", 4, fps=1.0, width=1280, height=720))
    assert [box.x0 for (box,) in boxes[:3]] == [0, 64, 128] and tracks[:3] == [[0], [0], [0]]
    assert boxes[0][0].source == "annotated" and boxes[1][0].source == "filled" and boxes[0][0].y1 == 144
    assert [problem.file for problem in imported.problems] == ["plus.json: item 3"]
    short = imported.clip("s01e01_seg01_clip_00").on(sampled("s01e01_seg01_clip_00", 3))
    assert short.problem == "has 2 imported boxes, 1 of them after its end; these are left out"


# Names, and what is no such file


def no_boxes(name: str | None):
    raise AssertionError("nobody asked for boxes")


@pytest.mark.parametrize(
    "known, video, found",
    [
        (["x"], "x.mp4", "x"),
        (["x.mp4"], "x", "x.mp4"),
        (["x"], "below/x.mp4", "x"),
        (["below/x"], "below/x.mp4", "below/x"),
        (["val/below/x.mp4"], "below/x.mp4", "val/below/x.mp4"),
        (["x", "below/x"], "below/x.mp4", "below/x"),
        (["x", "val/x"], "x.mp4", "x"),
        (["a.b"], "a.b.mp4", "a.b"),
        (["x.mkv"], "x.mp4", None),
        (["other/x"], "below/x.mp4", None),
        (["train/x", "val/x"], "x.mp4", None),
        (["y"], "x.mp4", None),
    ],
)
def test_videos_are_found_by_name_with_or_without_folder_and_suffix(known, video, found):
    assert ImportedBoxes(known, no_boxes, [], False).name_of(video) == found


def test_names_that_are_nobodys_and_names_that_several_share_are_told():
    imported = ImportedBoxes(["x", "y", "z"], no_boxes, [], False)
    videos = ["a/x.mp4", "b/x.mp4", "y.mkv"]
    assert imported.unknown(videos) == ["z"] and imported.shared(videos) == {"x": ["a/x.mp4", "b/x.mp4"]}


def test_gaps_of_what_we_wrote_are_meant_and_those_of_others_are_not(tmp_path):
    write_boxes(tmp_path / "boxes.parquet", [some_boxes("x", 1)])
    write_coco(tmp_path / "boxes.json", [some_boxes("x", 1)])
    assert open_boxes(tmp_path / "boxes.parquet").complete and open_boxes(tmp_path / "boxes.json").complete
    assert not mot(tmp_path, "1,1,10,20,30,40,1").complete
    assert not coco(tmp_path, [{"id": 1, "file_name": "x/1.jpg"}], [annotation()]).complete


def test_what_a_file_has_for_one_clip_can_be_sent_to_a_worker_and_has_a_name(tmp_path):
    names = []
    for x in (10, 10, 11):
        clip = mot(tmp_path, f"1,1,{x},20,30,40,1\n").clip("x.mp4")
        sent = pickle.loads(pickle.dumps(clip))  # as multiprocessing sends it
        assert sent.on(sampled()).boxes == clip.on(sampled()).boxes
        names.append(sent.digest())
    assert names[0] == names[1] != names[2]


@pytest.mark.parametrize(
    "name, content, says",
    [
        (
            "x.txt",
            b"I am a letter.\nNothing else.\n",
            "holds no box that can be used: 2 boxes are left out, the first at",
        ),
        ("x.mp4", bytes(range(256)) * 20, "holds no box that can be used"),
        ("x.json", b"{}", "has no images; give a COCO json with images, annotations and categories"),
        ("x.json", b'{"images": [{"id": 1, "file_name": "x/1.jpg"}], "annota', "cannot be read as JSON"),
        ("x.json", b'{"images": [NaN]}', "cannot be read as JSON"),
        ("x.json", b"[", "cannot be read as JSON"),
        ("x.json", b"[]", "is a list, but not that of TVQA+"),
        ("x.json", b'[{"image_id": 1, "bbox": [1, 2, 3, 4], "score": 1}]', "detections of COCO need the images"),
        ("x.parquet", b"PAR1 and no more", "cannot be read as Parquet"),
    ],
)
def test_a_file_that_is_no_such_format_is_refused_in_a_sentence(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PreprocessError) as error:
        open_boxes(tmp_path / name)
    assert says in str(error.value) and str(tmp_path / name) in str(error.value) and "\n" not in str(error.value)


def test_a_path_or_a_rate_that_cannot_be_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(PreprocessError, match="there is no file of boxes .*nowhere.txt; correct its path"):
        open_boxes(tmp_path / "nowhere.txt")
    with pytest.raises(PreprocessError, match="holds no NAME.txt of boxes"):
        open_boxes(tmp_path)
    for rate in (0.0, -3.0, math.nan, math.inf):
        with pytest.raises(PreprocessError, match="is no rate for imported boxes"):
            mot(tmp_path, "1,1,10,20,30,40,1", rate)


def test_a_table_cut_short_is_refused(tmp_path):
    write_boxes(tmp_path / "boxes.parquet", [some_boxes("x.mp4", 1)])
    whole = (tmp_path / "boxes.parquet").read_bytes()
    (tmp_path / "boxes.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(PreprocessError, match="cannot be read as Parquet"):
        open_boxes(tmp_path / "boxes.parquet")


@pytest.fixture(scope="module")
def sound_files(tmp_path_factory) -> dict[str, bytes]:
    """By format, what a small file without a fault holds."""
    folder = tmp_path_factory.mktemp("sound")
    write_boxes(folder / "x", [some_boxes("x", 3)])
    images = [{"id": i, "file_name": f"x/{i}.jpg"} for i in range(1, 4)]
    things = {"images": images, "annotations": [annotation(i) for i in range(1, 4)], "categories": [PERSON]}
    return {
        "MOT": "".join(f"{number},1,{number},5,40,80,1\n" for number in range(1, 20)).encode(),
        "COCO": json.dumps(things).encode(),
        "table": (folder / "x").read_bytes(),
    }


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(["MOT", "COCO", "table"]),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4),
)
def test_a_damaged_file_gives_boxes_within_the_picture_or_one_sentence(tmp_path_factory, sound_files, kind, damage):
    path, content = tmp_path_factory.getbasetemp() / "x.any", bytearray(sound_files[kind])
    for place, value in damage:
        content[int(place * len(content))] = value
    path.write_bytes(content)
    try:
        boxes, _ = open_boxes(path).boxes_of(sampled("x"))
    except PreprocessError as error:
        assert "\n" not in str(error)
    else:
        assert all(0 <= box.x0 < box.x1 <= 640 and 0 <= box.y0 < box.y1 <= 360 for boxes in boxes for box in boxes)
