"""The whole of preprocessing: a folder in, records and `problems.jsonl` out."""

import dataclasses
import hashlib
import json
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from clips import BRIGHT_SQUARE, make_clip, nobody, walking_square

from mmdiff.data import records
from preprocessing import staging
from preprocessing.boxes_table import ClipBoxes
from preprocessing.build import Options, preprocess
from preprocessing.clip import Clip, Media
from preprocessing.datasets.video_folder import split_videos
from preprocessing.plan_windows import segment_count
from preprocessing.problems import PreprocessError
from preprocessing.process_video import process

QUICK = Options(detector=BRIGHT_SQUARE, workers=0, windows="tiles")


def run(videos: Path, out: Path, **changes):
    return preprocess(videos, out, dataclasses.replace(QUICK, **changes), progress=False)


def problems_of(out: Path) -> dict[str, dict]:
    return {problem["file"]: problem for problem in map(json.loads, (out / "problems.jsonl").read_text().splitlines())}


def read(out: Path) -> dict[str, records.Record]:
    splits = [split for split in ("train", "validation") if list(out.glob(f"video_folder/*/*-{split}.*"))]
    found = [records.decode(example) for split in splits for example in records.read_split(out, split)]
    assert len({record.id for record in found}) == len(found)
    return {record.id: record for record in found}


def contents(out: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in out.glob("video_folder/*/*array_record*")
    }


@pytest.fixture(scope="module")
def processed(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    return out, run(folder, out), read(out)


def test_good_videos_survive_bad_ones(processed):
    _, summary, found = processed
    assert summary.videos == 4 and sum(summary.records.values()) == len(found) == 5
    assert set(found) == {
        "walks.mp4~0000",
        "walks.mp4~0007",
        "-b-8x.mkv~0000",
        "no body, no sound é.mp4~0000",
        "below/short.webm~0000",
    }


def test_every_bad_thing_is_named_with_advice(processed):
    out, summary, _ = processed
    problems = problems_of(out)
    assert {name: problem["stage"] for name, problem in problems.items()} == {
        "cut.mp4": "decode",
        "empty.avi": "decode",
        "text.mp4": "decode",
        "-b-8x.mkv": "subtitles",
        "questions.jsonl:3": "questions",
        "questions.jsonl:4": "questions",
    }
    assert summary.problems == len(problems)
    assert all(problem["problem"] and problem["advice"] for problem in problems.values())


def test_segments_look_at_the_frame_in_their_middle(processed):
    _, _, found = processed
    first, second = found["walks.mp4~0000"], found["walks.mp4~0007"]
    assert len(first.segments.start) == 7 and len(second.segments.start) == 2  # 40 s: nine middles
    middles = (first.segments.start + first.segments.end) / 2
    np.testing.assert_allclose(first.frame_times[first.segments.frame], middles, atol=1 / 6 + 1e-5)
    image = cv2.imdecode(np.frombuffer(second.frames[0], np.uint8), cv2.IMREAD_COLOR)
    assert image.shape == (90, 160, 3)


def test_boxes_enclose_the_person_in_their_frame(processed):
    record = processed[2]["walks.mp4~0000"]
    assert record.boxes.frame.tolist() == list(range(7)) and set(record.boxes.part) == {"body"}
    for index, box in zip(record.boxes.frame, record.boxes.box, strict=True):
        image = cv2.imdecode(np.frombuffer(record.frames[index], np.uint8), cv2.IMREAD_GRAYSCALE)
        y0, x0, y1, x1 = np.round(box * [90, 160, 90, 160]).astype(int)
        assert image[y0:y1, x0:x1].mean() > 220


def test_sound_and_its_absence_are_told_apart(processed):
    _, _, found = processed
    assert found["walks.mp4~0000"].segments.has_audio.tolist() == [True] * 7  # 30 s of sound: the seventh half
    assert found["walks.mp4~0007"].segments.has_audio.tolist() == [False] * 2
    mute = found["no body, no sound é.mp4~0000"]
    assert not mute.segments.has_audio.any() and not mute.segments.mel.any()
    assert found["-b-8x.mkv~0000"].segments.has_audio.tolist() == [True]  # longer than the pictures


def test_a_clip_without_anybody_has_no_boxes(processed):
    assert len(processed[2]["no body, no sound é.mp4~0000"].boxes.frame) == 0


def test_windows_without_a_person_are_counted_and_their_videos_named(processed):
    _, summary, found = processed
    without = {record.video for record in found.values() if not records.windows_with_people(record).all()}
    assert set(summary.windows_without_people) == without and "no body, no sound é.mp4" in without
    peopled = np.concatenate([records.windows_with_people(record) for record in found.values()])
    assert (summary.windows, sum(summary.windows_without_people.values())) == (len(peopled), (~peopled).sum())
    line = f"windows without a person: {(~peopled).sum()} of {len(peopled)} ("
    assert line in summary.describe() and "no body, no sound é.mp4" in summary.describe()


def test_a_clip_shorter_than_half_a_segment_is_one_segment(processed):
    record = processed[2]["below/short.webm~0000"]
    assert len(record.frames) == len(record.segments.start) == 1
    assert record.frame_times[0] == pytest.approx(1.0) and record.segments.subtitle == ["two lines"]


def test_questions_reach_their_window(processed):
    _, _, found = processed
    assert [q.id for q in found["walks.mp4~0007"].questions] == ["late"] and not found["walks.mp4~0000"].questions
    assert [(q.text, q.label) for q in found["below/short.webm~0000"].questions] == [("When?", -1)]


def test_a_finished_folder_is_left_alone(folder, processed):
    out, summary, _ = processed
    before = contents(out)
    again = run(folder, out)
    assert again.already_done and again.records == summary.records and contents(out) == before


def test_new_questions_are_written_without_detecting_again(folder, processed, tmp_path):
    out = shutil.copytree(processed[0], tmp_path / "out")
    questions = tmp_path / "other.jsonl"
    questions.write_text(json.dumps({"video": "walks", "question": "New?", "answers": ["a", "b"], "end": 5}))
    summary = run(folder, out, questions=questions)
    assert not summary.already_done and summary.detected == 0
    assert [q.text for q in read(out)["walks.mp4~0000"].questions] == ["New?"]


def test_questions_given_once_stay_until_others_are_given(tmp_path):
    make_clip(tmp_path / "videos" / "a.mp4", walking_square(1))
    question = json.dumps({"video": "a", "question": "Given?", "answers": ["a", "b"]})
    given, beside = tmp_path / "given.jsonl", tmp_path / "videos" / "questions.jsonl"
    given.write_text(question)

    def asked(questions) -> tuple[bool, list[str]]:
        summary = run(tmp_path / "videos", tmp_path / "out", questions=questions)
        return summary.already_done, [q.text for record in read(tmp_path / "out").values() for q in record.questions]

    assert asked(None) == (False, [])
    assert asked(given) == (False, ["Given?"])
    assert asked(None) == asked(given) == (True, ["Given?"])
    beside.write_text(question.replace("Given", "Beside"))
    assert asked(None) == (False, ["Beside?"])
    assert asked(beside) == (True, ["Beside?"])
    beside.unlink()
    assert asked(None) == (False, [])


def test_a_killed_run_continues_to_the_same_records(folder, processed, tmp_path):
    """As after a kill: some videos staged, one half-written, the dataset half-written, nothing finished."""
    out = shutil.copytree(processed[0], tmp_path / "out")
    (out / "summary.json").unlink()
    gone, damaged = sorted((out / "staging").glob("*.msgpack"))[:2]
    gone.rename(gone.with_suffix(".unfinished"))
    damaged.write_bytes(damaged.read_bytes()[:50])
    next(out.glob("video_folder/*/*train*")).unlink()
    summary = run(folder, out)
    assert summary.detected == 2  # What is wrong with the three bad files is known and lasts.
    assert contents(out) == contents(processed[0])
    assert problems_of(out) == problems_of(processed[0])


def test_a_link_to_nothing_is_a_problem(tmp_path):
    make_clip(tmp_path / "a.mp4", nobody(1))
    (tmp_path / "b.mp4").symlink_to(tmp_path / "gone.mp4")
    run(tmp_path, tmp_path / "out")
    assert list(problems_of(tmp_path / "out")) == ["b.mp4"]


def test_a_changed_video_is_made_again_and_only_it(tmp_path):
    make_clip(tmp_path / "videos_a.mp4", walking_square(1))
    make_clip(tmp_path / "videos_b.mp4", walking_square(1))
    assert run(tmp_path, tmp_path / "out").detected == 2
    make_clip(tmp_path / "videos_b.mp4", walking_square(2))
    assert run(tmp_path, tmp_path / "out").detected == 1


@pytest.mark.parametrize(
    "changes, named", [({"fps": 2.0}, "fps was 3.0 and is now 2.0"), ({"detector": "hog"}, "detector")]
)
def test_a_folder_made_with_other_options_is_refused(folder, processed, changes, named):
    with pytest.raises(PreprocessError, match=named):
        run(folder, processed[0], **changes)


def test_a_folder_made_from_other_videos_is_refused(processed, tmp_path):
    make_clip(tmp_path / "other.mp4", nobody(1))
    with pytest.raises(PreprocessError, match="the videos were"):
        run(tmp_path, processed[0])


@pytest.fixture
def interrupted(processed, tmp_path):
    out = shutil.copytree(processed[0], tmp_path / "interrupted")
    (out / "summary.json").unlink()
    return out


def test_an_interrupted_folder_of_other_options_or_videos_is_refused(folder, interrupted, tmp_path):
    with pytest.raises(
        PreprocessError, match="fps was 3.0 and is now 2.0. Give the same options as before, or another folder"
    ):
        run(folder, interrupted, fps=2.0)
    make_clip(tmp_path / "other.mp4", nobody(1))
    with pytest.raises(PreprocessError, match="the videos were .* and are now"):
        run(tmp_path, interrupted)


def test_a_run_that_made_nothing_binds_nobody(tmp_path):
    make_clip(tmp_path / "videos" / "a.mp4", walking_square(1))
    with pytest.raises(PreprocessError, match="cannot be built"):
        run(tmp_path / "videos", tmp_path / "out", detector="bright_square:Unbuilt")
    assert run(tmp_path / "videos", tmp_path / "out").videos == 1


def test_a_run_killed_before_its_first_file_was_whole_starts_again(tmp_path):
    make_clip(tmp_path / "videos" / "a.mp4", walking_square(1))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "preprocess.json.unfinished").write_text("{")
    assert run(tmp_path / "videos", tmp_path / "out").videos == 1
    assert not list((tmp_path / "out").rglob("*.unfinished"))


def test_staged_files_of_videos_that_are_gone_are_removed(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        make_clip(tmp_path / "videos" / name, walking_square(1))
    run(tmp_path / "videos", tmp_path / "out")
    staged = tmp_path / "out" / "staging"
    (staged / "a-0.msgpack.unfinished").touch()
    (tmp_path / "videos" / "b.mp4").unlink()
    run(tmp_path / "videos", tmp_path / "out")
    assert list(staged.iterdir()) == [staging.staged_path(staged, "a.mp4")]


def test_a_folder_that_holds_something_else_is_refused(folder, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(PreprocessError, match="already holds other things .checkpoints"):
        run(folder, tmp_path)


@pytest.mark.parametrize(
    "make, says",
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.write_text(""), "is not a folder"),
        (lambda path: path.mkdir(), "holds no video"),
        (lambda path: (path.mkdir(), (path / "a.mp4").touch()), "none of the 1 videos"),
    ],
)
def test_a_folder_without_videos_is_one_clear_sentence(tmp_path, make, says):
    make(tmp_path / "videos")
    with pytest.raises(PreprocessError, match=says):
        run(tmp_path / "videos", tmp_path / "out")


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"fps": 0.0}, "fps"),
        ({"detector": "yolo"}, "face_body"),
        ({"questions": Path("/none")}, "no file of questions"),
    ],
)
def test_impossible_options_are_refused_before_anything_is_written(folder, tmp_path, changes, says):
    with pytest.raises(PreprocessError, match=says):
        run(folder, tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


def test_boxes_outside_the_frame_are_cut_or_left_out(tmp_path):
    clip = make_clip(tmp_path / "a.mp4", nobody(1))
    summary = run(tmp_path, tmp_path / "out", detector="bright_square:Misplaced")
    (record,) = read(tmp_path / "out").values()
    np.testing.assert_allclose(record.boxes.box, [[0, 0, 20 / 90, 20 / 160]], atol=1e-6)
    assert "9 boxes" in problems_of(tmp_path / "out")[clip.name]["problem"]  # three in each of three frames
    assert summary.notices and summary.records == {"train": 1}


def test_a_detector_that_fails_on_one_video_costs_that_video_only(tmp_path):
    make_clip(tmp_path / "good.mp4", walking_square(1))
    make_clip(tmp_path / "bad.mp4", nobody(1))
    make_clip(tmp_path / "late.mp4", walking_square(1))
    summary = run(tmp_path, tmp_path / "out", detector="bright_square:Failing")
    assert summary.videos == 2 and set(problems_of(tmp_path / "out")) == {"bad.mp4"}


@pytest.mark.parametrize(
    "kind, says",
    [
        ("Nothing", "gave None, which is not a list of lists"),
        ("Number", "gave boxes for 0 of 3 frames"),
        ("Kind", "gave (0.0, 0.0, 20.0, 20.0), which is not a LabelledBox"),
        ("Edge", "gave '0' for an edge or a score"),
        ("Part", "gave the part 'hand'"),
        ("Label", "gave the label 7"),
        ("Source", "gave the source 'guessed'"),
    ],
)
def test_a_detector_that_gives_the_wrong_thing_costs_that_video_and_is_named(tmp_path, kind, says):
    make_clip(tmp_path / "good.mp4", walking_square(1))
    make_clip(tmp_path / "bad.mp4", nobody(1))
    summary = run(tmp_path, tmp_path / "out", detector=f"bright_square:Wrong{kind}")
    (problem,) = problems_of(tmp_path / "out").values()
    assert summary.videos == 1 and problem["file"] == "bad.mp4"
    assert problem["problem"].startswith(f"detector 'bright_square:Wrong{kind}' {says}")


@pytest.mark.parametrize("workers", [0, 1])
def test_any_failure_over_one_video_costs_that_video_only(tmp_path, workers):
    make_clip(tmp_path / "good.mp4", walking_square(1))
    make_clip(tmp_path / "bad.mp4", nobody(1))
    summary = run(tmp_path, tmp_path / "out", detector="bright_square:WrongPerson", workers=workers)
    problem = problems_of(tmp_path / "out")["bad.mp4"]
    assert summary.videos == 1 and problem["stage"] == "process" and "cannot be processed" in problem["problem"]


def test_a_module_that_is_not_installed_ends_the_run_with_how_to_install_it(tmp_path, monkeypatch):
    make_clip(tmp_path / "a.mp4", nobody(1))
    (tmp_path / "a.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\nwords\n")
    monkeypatch.setitem(sys.modules, "pysubs2", None)
    with pytest.raises(PreprocessError, match="pysubs2.*make setup"):
        run(tmp_path, tmp_path / "out")


def test_only_videos_that_ran_when_a_process_died_run_alone(tmp_path, monkeypatch):
    (tmp_path / "processes").mkdir()
    monkeypatch.setenv("PROCESSES", str(tmp_path / "processes"))
    make_clip(tmp_path / "videos" / "0 bad.mp4", nobody(1))  # the first
    for number in range(1, 10):
        make_clip(tmp_path / "videos" / f"{number}.mp4", walking_square(1))
    summary = run(tmp_path / "videos", tmp_path / "out", detector="bright_square:Counted", workers=2)
    assert summary.videos == 9 and set(problems_of(tmp_path / "out")) == {"0 bad.mp4"}
    # Two of the pool that died, two that went on with those that waited, and one for each of the two suspects.
    assert len(list((tmp_path / "processes").iterdir())) <= 6


@pytest.mark.parametrize("workers", [0, 1])
def test_a_detector_that_cannot_be_built_is_said_to_be_so(tmp_path, workers):
    make_clip(tmp_path / "a.mp4", nobody(1))
    with pytest.raises(PreprocessError, match="Unbuilt.*no module named weights.*make setup"):
        run(tmp_path, tmp_path / "out", detector="bright_square:Unbuilt", workers=workers)


def test_the_split_is_by_video_and_stable():
    names = [f"{i:04d}.mp4" for i in range(1000)]
    splits, notices = split_videos(names, 0.25)
    assert sorted(splits["train"] + splits["validation"]) == names and not notices
    assert abs(len(splits["validation"]) - 250) < 3 * (1000 * 0.25 * 0.75) ** 0.5
    assert split_videos(names[::-1], 0.25)[0]["validation"] == splits["validation"]


def test_a_video_that_is_added_moves_no_other():
    names = [f"{i:04d}.mp4" for i in range(60)]
    for share in (0.1, 0.25, 0.5):
        before = {name for name in split_videos(names[:30], share)[0]["validation"]}
        for count in range(31, 61):
            after = split_videos(names[:count], share)[0]["validation"]
            assert before == set(after) & set(names[: count - 1])
            before = set(after)


@pytest.mark.parametrize("share", [1e-9, 0.1, 0.5, 0.9, 1 - 1e-9])
def test_no_split_of_two_videos_or_more_is_empty(share):
    for count in (2, 3, 9):
        splits, _ = split_videos([f"{i}.mp4" for i in range(count)], share)
        assert splits["train"] and splits["validation"]


def test_nothing_is_for_validation_without_a_share_or_a_second_video():
    assert split_videos(["a", "b"], 0.0) == ({"train": ["a", "b"]}, [])
    splits, (notice,) = split_videos(["a"], 0.5)
    assert splits == {"train": ["a"]} and "only one video" in notice


def test_the_demo_holds_out_enough_of_its_clips():
    composed = [f"clip_{number:02d}.mp4" for number in range(24)]
    assert 4 <= len(split_videos(composed, 0.25)[0]["validation"]) <= 8
    real = ["asl_walk.mkv", "hamilton_short.mp4", "nasa_13013.mp4", "one_by_one_person.mp4"]
    assert len(split_videos(real, 0.4)[0]["validation"]) == 2


def test_a_summary_describes_itself_in_plain_lines(folder, processed):
    out, summary, _ = processed
    train, validation = (summary.records[split] for split in ("train", "validation"))
    first, questions, problems, *table, people, last = summary.describe().splitlines()
    bodies = f"bodies: {summary.boxes['body']}, tracks: {summary.tracks}"
    assert first == f"videos: 4, records: {train} train and {validation} validation, faces: 0, {bodies}"
    assert questions.startswith("questions kept: train ")
    shared = dataclasses.replace(summary, stored={"frames": 9, "bytes": 9, "frames_asked": 18, "bytes_asked": 18})
    assert shared.describe().splitlines()[2].endswith("would be 18 (2.00 times the bytes)")
    assert problems == f"problems: 6, all of them in {out}/problems.jsonl"
    assert [cell.strip() for cell in table[0].strip("|").split("|")] == ["problems", "stage", "such as", "in"]
    assert len(table) == 2 + len(summary.kinds_of_problems)
    assert people.startswith("windows without a person: ")
    assert last == f"boxes in {out}/boxes.parquet, all numbers in {out}/summary.json"
    assert "was there already" in run(folder, out).describe()
    nothing = {"frames": 9, "bytes": 9, "frames_asked": 0, "bytes_asked": 0}
    fine = dataclasses.replace(summary, problems=0, notices=["one word"], coverage={}, stored=nothing)
    assert fine.describe().splitlines()[1:] == ["one word", people, last]


def test_the_digest_of_records_changes_with_one_answer_and_with_nothing_else(tmp_path):
    data = tmp_path / "videos"
    make_clip(data / "a.mp4", walking_square(2))
    asked = {"video": "a", "question": "Who?", "answers": ["x", "y"], "label": 0}
    found = []
    for number, label in enumerate((0, 1, 0)):
        (data / "questions.jsonl").write_text(json.dumps(asked | {"label": label}))
        run(data, tmp_path / f"out{number}")
        found.append(records.digest(tmp_path / f"out{number}"))
        content = records.metadata(tmp_path / f"out{number}")["content"]
        assert len(content) == 64
    assert found[0] == found[2] != found[1]


def test_coverage_counts_every_line_of_the_questions(processed):
    _, summary, _ = processed
    counts = summary.coverage
    # Of four lines one asks about a video that is not there, and one about a time behind the end of its video.
    assert counts["unplaced"] == {"annotated": 1, "kept": 0}
    assert sum(share["annotated"] for share in counts.values()) == 4
    assert sum(share["kept"] for share in counts.values()) == 2


def test_videos_without_questions_get_windows_however_these_are_laid(folder, tmp_path):
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos/a.mp4").symlink_to(folder / "walks.mp4")
    for kind in ("spans", "grid"):
        assert run(tmp_path / "videos", tmp_path / kind, windows=kind).records == {"train": 2}


def test_segments_are_kept_while_their_middle_is_inside():
    assert [segment_count(seconds) for seconds in (0.1, 2.4, 6.9, 7.1, 139.4)] == [1, 1, 1, 2, 30]


def test_a_staged_result_comes_back_whole(tmp_path):
    clip = Clip("a.mp4", Media(make_clip(tmp_path / "a.mp4", walking_square(5), tone=2)))
    from bright_square import BrightSquare

    detector = BrightSquare()
    detector.threshold = 0.0
    signature = staging.signature(clip, QUICK)
    with process(clip, QUICK, detector) as done:
        records = list(done.records)
        staging.save(tmp_path / "a.msgpack", signature, done.short, iter(records), done.boxes.to_dict())
    (again,) = staging.load_records(tmp_path / "a.msgpack")
    np.testing.assert_array_equal(again["segments"]["mel"], records[0]["segments"]["mel"])
    assert again["frames"] == records[0]["frames"] and staging.load_signature(tmp_path / "a.msgpack") == signature
    assert ClipBoxes.from_dict(staging.load_boxes(tmp_path / "a.msgpack")).track.tolist() == [0] * 15
    assert staging.load_short(tmp_path / "a.msgpack", {"format": 0}) is None


def test_real_clips_give_people_sound_and_subtitles(videos, tmp_path):
    for name in ("hamilton_short.mp4", "nasa_13013.mp4"):
        (tmp_path / name).symlink_to(videos / name)
    run(tmp_path, tmp_path / "out", detector="face_body", fps=1.0)
    found = read(tmp_path / "out")
    assert found["nasa_13013.mp4~0000"].segments.subtitle[1].startswith("space telescope")
    people = found["hamilton_short.mp4~0000"].boxes
    assert set(people.part) == {"face", "body"} and set(people.source) == {"detected", "derived"}
    assert found["hamilton_short.mp4~0000"].segments.has_audio.all() and not problems_of(tmp_path / "out")
