"""What a worker does with one clip: results whole or not at all, failures told, tried again or kept."""

import dataclasses
import errno
import json
import os

import pytest
from clips import BRIGHT_SQUARE, make_clip, nobody, walking_square

from mmdiff.cli import main
from preprocessing import staging, work
from preprocessing.build import Options, kinds_of, preprocess
from preprocessing.problems import PreprocessError, Problem, VideoError

QUICK = Options(detector=BRIGHT_SQUARE, workers=0, windows="tiles")


def run(videos, out, **changes):
    return preprocess(videos, out, dataclasses.replace(QUICK, **changes), progress=False)


def problems_of(out) -> dict[str, dict]:
    return {problem["file"]: problem for problem in map(json.loads, (out / "problems.jsonl").read_text().splitlines())}


@pytest.fixture
def films(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        make_clip(tmp_path / "films" / name, walking_square(1))
    return tmp_path / "films"


@pytest.fixture
def failing(monkeypatch):
    """Makes the processing of b.mp4 fail so many times with the error given; gives the list of its tries."""
    monkeypatch.setattr(work, "FIRST_WAIT", 0.0)
    process, tries = work.process, []

    def make(error: Exception, times: int = 1000) -> list:
        def fails(clip, *rest):
            if clip.name == "b.mp4":
                tries.append(clip.name)
                if len(tries) <= times:
                    raise error
            return process(clip, *rest)

        monkeypatch.setattr(work, "process", fails)
        return tries

    return make


PASSING = VideoError("b.mp4", "cannot be read further", "look at the disk", transient=True)


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), PASSING])
def test_a_read_error_that_passes_costs_nothing(films, tmp_path, failing, error):
    tries = failing(error, times=2)
    summary = run(films, tmp_path / "out")
    assert (summary.videos, summary.problems, len(tries)) == (2, 0, 3)


def test_a_read_error_that_stays_is_told_with_the_tries_and_looked_at_again_by_the_next_run(films, tmp_path, failing):
    tries = failing(PASSING)
    assert run(films, tmp_path / "out", retries=1).videos == 1 and len(tries) == 2
    assert problems_of(tmp_path / "out")["b.mp4"]["problem"] == "cannot be read further, 2 times"
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["to_try_again"] == 1
    failing(PASSING, times=0)
    summary = run(films, tmp_path / "out")
    assert (summary.videos, summary.detected, summary.problems) == (2, 1, 0)
    assert not list((tmp_path / "out" / "staging").glob("*" + staging.FAILED))


def test_what_is_wrong_with_a_file_is_tried_once_and_kept_until_the_file_changes(films, tmp_path):
    (films / "b.mp4").write_text("not a video")
    assert run(films, tmp_path / "out").detected == 2
    assert run(films, tmp_path / "out").already_done
    (tmp_path / "out" / "summary.json").unlink()
    summary = run(films, tmp_path / "out")
    assert (summary.detected, summary.videos, summary.problems) == (0, 1, 1)
    make_clip(films / "b.mp4", walking_square(1))
    summary = run(films, tmp_path / "out")
    assert (summary.detected, summary.videos, summary.problems) == (1, 2, 0)


def test_a_build_does_not_believe_what_was_wrong_with_another_file(films, tmp_path):
    whole = (films / "b.mp4").read_bytes()
    (films / "b.mp4").write_bytes(whole[:300])
    assert run(films, tmp_path / "out", stage="detect").problems == 1
    (films / "b.mp4").write_bytes(whole)
    with pytest.raises(PreprocessError, match="1 of 2 videos have not been looked at"):
        run(films, tmp_path / "out", stage="build")


def test_a_detector_of_ones_own_that_was_changed_is_another(films, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    program = tmp_path / "my_detector.py"
    program.write_text("class Mine:\n    def boxes(self, frames):\n        return [[] for _ in frames]\n")
    run(films, tmp_path / "out", detector="my_detector:Mine")
    program.write_text(program.read_text() + "# better\n")
    with pytest.raises(PreprocessError, match="weights was .* and is now"):
        run(films, tmp_path / "out", detector="my_detector:Mine")


def test_a_full_disk_ends_the_run_in_a_sentence_and_keeps_what_is_done(films, tmp_path, monkeypatch):
    save = staging.save

    def full(path, *rest):
        if path.name.startswith("b"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return save(path, *rest)

    monkeypatch.setattr(staging, "save", full)
    with pytest.raises(PreprocessError, match="No space left on device.: free space there and start again"):
        run(films, tmp_path / "out")
    monkeypatch.undo()
    assert run(films, tmp_path / "out").detected == 1


def test_a_disk_that_is_full_when_records_are_written_is_told_in_a_sentence(films, tmp_path, monkeypatch):
    from preprocessing import write_records

    def full(*rest, **named):
        raise RuntimeError('Failed to finalize writing of split "train": write() failed: No space left on device')

    monkeypatch.setattr(write_records, "write", full)
    with pytest.raises(PreprocessError, match="records cannot be written to .*No space left on device.*start again"):
        run(films, tmp_path / "out")
    monkeypatch.undo()
    assert run(films, tmp_path / "out").detected == 0


def test_what_other_runs_made_of_the_videos_is_none_of_them(films, tmp_path):
    run(films, films / "records")
    make_clip(films / "a.mp4.boxes.mp4", walking_square(1))
    make_clip(films / "records" / "look" / "c.mp4", walking_square(1))
    assert run(films, tmp_path / "out").videos == 2


def test_a_video_that_is_still_being_copied_is_not_kept(films, tmp_path, failing, monkeypatch):
    process = work.process

    def grows(clip, *rest):
        if clip.name == "b.mp4":
            with clip.media.pictures.open("ab") as file:
                file.write(b"more")
        return process(clip, *rest)

    monkeypatch.setattr(work, "FIRST_WAIT", 0.0)
    monkeypatch.setattr(work, "process", grows)
    assert run(films, tmp_path / "out").videos == 1
    assert "was changed while it was read" in problems_of(tmp_path / "out")["b.mp4"]["problem"]
    monkeypatch.undo()
    assert run(films, tmp_path / "out").videos == 2


def test_a_video_that_does_not_end_is_given_up_and_the_others_are_not(films, tmp_path):
    make_clip(films / "endless.mp4", nobody(1))
    summary = run(films, tmp_path / "out", detector="bright_square:Endless", workers=2, patience=10.0)
    assert summary.videos == 2
    assert "gave no further picture for 10 s" in problems_of(tmp_path / "out")["endless.mp4"]["problem"]


def test_a_file_without_rights_is_a_problem(films, tmp_path, monkeypatch, failing):
    tries = failing(PermissionError(errno.EACCES, "Permission denied"))
    assert run(films, tmp_path / "out").videos == 1 and len(tries) == 1
    assert "Permission denied" in problems_of(tmp_path / "out")["b.mp4"]["problem"]


def test_problems_are_counted_by_kind():
    alike = [Problem(f"{i}.mp4", "decode", f"its pictures end at {i}.5 s", "copy it again") for i in range(3)]
    other = Problem("x.mp4", "names", "is a link to nothing", "remove it")
    first, second = kinds_of([other, *alike])
    assert (first["problems"], first["such as"], first["in"]) == (3, "its pictures end at 0.5 s", "0.mp4")
    assert (second["problems"], second["stage"]) == (1, "names")


def test_strict_and_json_on_the_command_line(films, tmp_path, capsys, monkeypatch):
    monkeypatch.syspath_prepend(os.path.dirname(__file__))
    (films / "bad.mp4").write_text("not a video")
    command = ["preprocess", str(films), str(tmp_path / "out"), "--detector", BRIGHT_SQUARE, "--workers", "0"]
    assert main(command) == 0
    told = capsys.readouterr()
    assert "problems: 1, all of them in" in told.out and "is not a readable video" in told.out
    assert "finding people: 3.0 of 3 videos (100.0%)" in told.err and "1 problems" in told.err
    assert main([*command, "--strict", "--json"]) == 1
    summary = json.loads(capsys.readouterr().out)
    assert (
        summary["already_done"]
        and summary["videos"] == 2
        and summary == json.loads((tmp_path / "out" / "summary.json").read_text()) | {"already_done": True}
    )


def test_a_device_that_is_not_there_is_refused_before_any_work(films, tmp_path):
    with pytest.raises(PreprocessError, match="--device quda cannot be used on this machine .*; cpu can"):
        run(films, tmp_path / "out", device="quda")
    assert not (tmp_path / "out").exists()


def test_links_are_not_followed_in_circles_nor_names_out_of_the_folder(films, tmp_path):
    (films / "deep").mkdir()
    make_clip(films / "deep" / "c.mp4", walking_square(1))
    (films / "deep" / "round").symlink_to(films)
    (films / "loop.mp4").symlink_to("loop.mp4")
    make_clip(tmp_path / "outside.mp4", walking_square(1))
    asked = {"video": "../outside.mp4", "question": "Who?", "answers": ["a", "b"]}
    (films / "questions.jsonl").write_text(json.dumps(asked))
    summary = run(films, tmp_path / "out")
    problems = problems_of(tmp_path / "out")
    assert summary.videos == 3 and set(problems) == {"deep/round", "loop.mp4", "questions.jsonl:1"}
    assert "link to a folder" in problems["deep/round"]["problem"]
    assert "no video '../outside.mp4'" in problems["questions.jsonl:1"]["problem"]
