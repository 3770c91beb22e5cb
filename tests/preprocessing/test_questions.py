import json

import pytest

from preprocessing.datasets.video_folder import VideoFolder
from preprocessing.options import Options
from preprocessing.questions import attach, read_span

GOOD = {"video": "a.mp4", "question": "Who?", "answers": ["x", "y"], "label": 0}
VIDEOS = ["a.mp4", "b/c.mkv", "d/c.mkv"]


def read(tmp_path, *lines):
    """Questions by video, and the problems."""
    for video in VIDEOS:
        (tmp_path / video).parent.mkdir(exist_ok=True)
        (tmp_path / video).write_bytes(b"")
    path = tmp_path / "questions.jsonl"
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines))
    found = VideoFolder(tmp_path, Options()).read()
    asked = {video: found.annotations.questions(video) for video in VIDEOS}
    return {video: questions for video, questions in asked.items() if questions}, found.problems


def test_a_video_is_named_by_path_file_name_or_stem(tmp_path):
    asked, problems = read(
        tmp_path, GOOD, GOOD | {"video": "a"}, b"", GOOD | {"video": "b/c.mkv"}, GOOD | {"video": "d/c"}
    )
    assert not problems and {name: len(questions) for name, questions in asked.items()} == {
        "a.mp4": 2,
        "b/c.mkv": 1,
        "d/c.mkv": 1,
    }


@pytest.mark.parametrize(
    "line, says",
    [
        (b"{broken", "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b"[1]", "not a JSON object"),
        (GOOD | {"video": "z"}, "there is no video 'z'"),
        (GOOD | {"video": "c"}, "may be b/c.mkv or d/c.mkv"),
        (GOOD | {"video": None}, "names no video"),
        (GOOD | {"question": "  "}, "the question is empty"),
        (GOOD | {"label": 2}, "label 2 is out of range"),
        (GOOD | {"label": True}, "out of range"),
        (GOOD | {"answers": ["x", "x "]}, "repeated"),
        (GOOD | {"answers": ["x"]}, "at least two"),
        (GOOD | {"answers": "xy"}, "not a list of texts"),
        (GOOD | {"start": "soon"}, "not a number of seconds"),
        (GOOD | {"start": float("nan")}, "not a number of seconds"),
        (GOOD | {"start": 5, "end": 2}, "before it starts"),
        (GOOD | {"question": "\ud800"}, "surrogates"),
    ],
)
def test_a_bad_line_is_left_out_and_named(tmp_path, line, says):
    asked, problems = read(tmp_path, GOOD, line)
    assert sum(map(len, asked.values())) == 1
    assert [(p.file, p.stage) for p in problems] == [("questions.jsonl:2", "questions")] and says in problems[0].problem


def test_a_question_goes_to_the_window_nearest_to_its_middle(tmp_path):
    asked, _ = read(
        tmp_path, GOOD | {"start": 30, "end": 34}, GOOD | {"start": 90, "end": 300}, GOOD, GOOD | {"start": 200}
    )
    tiles = [[(0.0, 32.0)], [(32.0, 64.0)], [(64.0, 96.0)]]
    placed, outside = attach(asked["a.mp4"], tiles, 98.0, "tiles", 7)
    assert [[q.id for q in window] for window in placed] == [["q000001"], ["q000003"], ["q000002"]]
    assert placed[2][0].end == 98.0 and (placed[1][0].start, placed[1][0].end) == (0, 98)
    assert [question.where for question, _ in outside] == ["questions.jsonl:4"] and "ends at 98.0 s" in outside[0][1]


def test_an_unknown_answer_is_minus_one(tmp_path):
    asked, _ = read(tmp_path, {key: value for key, value in GOOD.items() if key != "label"})
    assert asked["a.mp4"][0].label == -1


@pytest.mark.parametrize(
    "text, span",
    [
        ("76.01-84.2", (76.01, 84.2)),
        ("0-0", (0, 0)),
        ("-3.5-7", (-3.5, 7)),
        ("-3.5--1", (-3.5, -1)),
        ("1e-05-2.5E1", (1e-5, 25)),
        ("0.00-60.060000", (0, 60.06)),
        (" 1. - .5 ", (1, 0.5)),
        ("nan-nan", None),
        ("NaN-NaN", None),
        ("3-nan", None),
        ([1, 2.5], (1, 2.5)),
        ([float("nan"), 2], None),
    ],
)
def test_spans_are_read_whatever_their_numbers_look_like(text, span):
    assert read_span(text) == span


@pytest.mark.parametrize("text", ["", "5", "1-2-3", "a-b", None, 5, [1], [1, "2"], [True, 2], "inf-inf"])
def test_what_is_no_span_is_refused(text):
    with pytest.raises(ValueError, match="is not two numbers of seconds"):
        read_span(text)


@pytest.mark.parametrize("text", ["0-1e400", [0, float("inf")]])
def test_a_span_without_end_is_refused(text):
    with pytest.raises(ValueError, match="has no end"):
        read_span(text)
