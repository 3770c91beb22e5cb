"""`mmdiff check`: what a folder holds and lacks, before any long work."""

import dataclasses
import json

import pytest
from trees import siq2_media, siq2_row, tvqa_media, tvqa_row, write_lines

from mmdiff.cli import main
from preprocessing.check import check
from preprocessing.options import Options


def checked(data, name: str, media: bool = True, **changes):
    return check(data, Options(dataset=name, workers=0, **changes), media, progress=False)


@pytest.fixture(scope="module")
def tvqa(tmp_path_factory):
    root = tmp_path_factory.mktemp("tvqa")
    clips = [f"s01e01_seg01_clip_{i:02d}" for i in range(5)]
    rows = [tvqa_row(i, clip) for i, clip in enumerate(clips)]
    rows += [tvqa_row(7, clips[0], "30-40"), tvqa_row(8, clips[0], a1="answer 0")]
    write_lines(root / "tvqa_qa_release/tvqa_train.jsonl", rows)
    for clip in clips[:4]:
        tvqa_media(root, clip, "bbt", seconds=4.0)
    (root / f"audios/bbt_new/bbt_audios/{clips[1]}.wav").unlink()
    (root / f"tvqa_subtitles/{clips[1]}.srt").unlink()
    (root / f"audios/bbt_new/bbt_audios/{clips[2]}.wav").write_bytes(b"not sound")
    (root / f"frames_hq/bbt_frames/{clips[2]}/00003.jpg").unlink()
    for image in (root / f"frames_hq/bbt_frames/{clips[3]}").iterdir():
        image.write_bytes(b"not an image")
    return root


def test_what_is_there_and_what_is_lacking_is_counted(tvqa):
    report = checked(tvqa, "tvqa")
    train = report.splits["train"]
    assert (train.questions, train.official_questions, train.clips, train.official_clips) == (7, 122_039, 5, 17_435)
    # Left out: the clip without images, the one whose images are broken, a repeated answer, a time behind the end.
    assert (train.usable_questions, train.answered, train.choices) == (3, 3, 3) and train.chance == pytest.approx(0.2)
    assert train.without == {"pictures": 2, "audio": 3, "subtitles": 2}
    told = {(problem.file, problem.stage) for problem in report.problems}
    assert told == {
        ("tvqa_train.jsonl:6 (30 to 40 s of 4.0 s)", "questions"),
        ("tvqa_train.jsonl:7", "questions"),
        ("s01e01_seg01_clip_02", "audio"),
        ("s01e01_seg01_clip_02", "decode"),
        ("s01e01_seg01_clip_03", "decode"),
        ("s01e01_seg01_clip_04", "media"),
    }
    assert "validation: its annotation is not there, or holds no question" in report.notices
    assert "train: 7 questions, 122032 fewer than the official 122039" in report.notices


def test_without_opening_files_only_those_that_are_not_there_are_missed(tvqa):
    train = checked(tvqa, "tvqa", media=False).splits["train"]
    assert train.usable_questions == 5 and train.without == {"pictures": 1, "audio": 2, "subtitles": 2}


def test_many_workers_find_what_one_finds(tvqa):
    one = checked(tvqa, "tvqa")
    many = check(tvqa, Options(dataset="tvqa", workers=2), progress=False)
    assert dataclasses.asdict(one) == dataclasses.asdict(many)


def test_the_report_is_for_people_and_for_machines(tvqa, tmp_path, capsys):
    path = tmp_path / "found.json"
    words = ["check", "tvqa", "--data", str(tvqa), "--json", str(path), "--workers", "0"]
    assert main(words) == 0 and main([*words, "--strict"]) == 1
    printed = capsys.readouterr().out
    assert "| train " in printed and "7 of 122039" in printed and "3 (42.9%)" in printed and "20.0%" in printed
    assert "an answer is repeated" in printed and "tvqa_train.jsonl:7" in printed
    stored = json.loads(path.read_text())
    assert stored["splits"]["train"]["usable_questions"] == 3 and len(stored["problems"]) == 6
    assert main(["check", "tvqa"]) == 2 and "needs --data" in capsys.readouterr().err
    assert main(["check", "tvqa", "--data", str(tmp_path)]) == 2
    assert "holds no annotation of tvqa" in capsys.readouterr().err


def test_social_iq2_says_where_its_videos_come_from_and_which_are_gone(tmp_path):
    write_lines(tmp_path / "qa/qa_train.json", [siq2_row("-a"), siq2_row("gone"), siq2_row("unlisted")])
    write_lines(tmp_path / "qa/qa_test.json", [siq2_row("-a")])
    siq2_media(tmp_path, "-a", seconds=1.0)
    splits = {"youtubeclips": {"train": ["-a", "gone", "unasked"], "val": [], "test": []}}
    (tmp_path / "original_split.json").write_text(json.dumps({"subsets": splits}))
    (tmp_path / "trims.json").write_text(json.dumps({"-a": 1.0}))
    notices = checked(tmp_path, "social_iq2").notices
    assert "youtubeclips, train: 3 ids, 2 with questions, 1 of these with pictures" in notices
    assert "train: 1 clips with questions are not in the file of splits" in notices
    assert any(notice.startswith("2 ids have no start in trims.json") for notice in notices)
    assert any(notice.startswith("1 clips are in test and in train") for notice in notices)


def test_a_folder_of_videos_is_checked_too(folder):
    report = checked(folder, "video_folder")
    (found,) = report.splits.values()
    assert (found.clips, found.without["pictures"]) == (7, 3)
    assert found.usable_questions == 2 and "| all " in report.describe()


def test_the_protocol_decides_how_many_choices_there_are_and_what_chance_is(tmp_path):
    (tmp_path / "labels").mkdir()
    lines = ["q1: Why?", *(f"a{i}: right {i}" for i in range(4)), *(f"i{i}: wrong {i}" for i in range(3))]
    (tmp_path / "labels/v.txt").write_text("\n".join(lines))
    (tmp_path / "socialiq_std_folds.py").write_text("standard_train_fold=['v']\nstandard_valid_fold=[]\n")
    siq2_media(tmp_path, "v", seconds=1.0)
    for protocol, choices, chance in (("a2", 12, 0.5), ("a4", 4, 0.25)):
        report = checked(tmp_path, "social_iq", protocol=protocol)
        train = report.splits["train"]
        assert (train.usable_questions, train.choices, train.chance) == (1, choices, chance)
        assert f"{100 * chance:.1f}%" in report.describe() and f"protocol {protocol}" in report.describe()


@pytest.mark.parametrize("content", [b"", b"not an image"])
def test_a_broken_last_image_is_told_of(tmp_path, content):
    write_lines(tmp_path / "tvqa_train.jsonl", [tvqa_row(1)])
    tvqa_media(tmp_path, "s01e01_seg01_clip_00", "bbt", seconds=4.0)
    (tmp_path / "frames_hq/bbt_frames/s01e01_seg01_clip_00/00012.jpg").write_bytes(content)
    report = checked(tmp_path, "tvqa")
    assert [problem.problem for problem in report.problems] == ["its last image cannot be read"]
    assert report.splits["train"].usable_questions == 1


@pytest.mark.parametrize("content", ["null", "3", "{", "[1]", '{"subsets": {"car": {"train": "abc"}}}'])
def test_files_that_no_record_depends_on_never_end_a_check(tmp_path, content):
    write_lines(tmp_path / "qa/qa_train.json", [siq2_row("x")])
    (tmp_path / "trims.json").write_text(content)
    (tmp_path / "original_split.json").write_text(content)
    assert checked(tmp_path, "social_iq2").splits["train"].questions == 1


def test_a_folder_as_the_file_of_the_report_is_refused_before_any_work(tvqa, tmp_path, capsys):
    assert main(["check", "tvqa", "--data", str(tvqa), "--json", str(tmp_path)]) == 2
    assert "is a folder: give a file as --json" in capsys.readouterr().err
