"""Every dataset's reader: its traps, each with the line that holds it, and the official counts of the real files."""

import collections
import dataclasses
import json
import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds
from clips import BRIGHT_SQUARE
from trees import siq2_media, siq2_row, tvqa_media, tvqa_row, write_images, write_lines, write_wav

from mmdiff.data import records
from preprocessing.build import preprocess
from preprocessing.datasets import open_dataset
from preprocessing.datasets.tvqa import show_of
from preprocessing.datasets.tvqa_plus import NAMES, PEOPLE, part_of
from preprocessing.options import Options
from preprocessing.problems import PreprocessError

QUICK = Options(detector=BRIGHT_SQUARE, workers=0)


def opened(data, name: str, **changes):
    return open_dataset(data, dataclasses.replace(QUICK, dataset=name, **changes))


def questions(dataset, clip: str, split: str = "train"):
    return dataset.read().annotations.questions(clip, split)


def read(out, split: str) -> dict[str, records.Record]:
    return {r.id: r for r in map(records.decode, records.read_split(out, split))}


# Real annotations


def test_the_real_tvqa_has_the_official_counts(shared_data):
    found = opened(shared_data / "tvqa", "tvqa").read()
    assert found.rows["test"] == 7_623 and found.annotations.count("clips", "test") == 1_089
    shows = collections.Counter(
        show_of(clip) for clip in found.annotations.clips() for _ in found.annotations.questions(clip)
    )
    repeated = {problem.problem for problem in found.problems}
    assert repeated == {"an answer is repeated"} and len(found.problems) == 16
    assert {show: round(count, -2) for show, count in shows.items()} == {
        "friends": 1900, "castle": 1800, "bbt": 1500, "house": 1500, "grey": 500, "met": 400,
    }  # fmt: skip
    labels = {q.label for clip in found.annotations.clips() for q in found.annotations.questions(clip, "test")}
    assert labels == {-1}


@pytest.fixture(scope="module")
def real_tvqa_plus(shared_data) -> list:
    """Its rows."""
    return list(opened(shared_data / "tvqa", "tvqa_plus").rows())


def test_the_real_tvqa_plus_has_its_boxes_and_names(real_tvqa_plus):
    boxes = [box for row in real_tvqa_plus for _, _, box in row.boxes]
    edges = [edge for box in boxes for edge in (box.y0, box.x0, box.y1, box.x1)]
    assert all(0 <= asked.label < 5 for row in real_tvqa_plus for asked in row.asked)
    assert len(real_tvqa_plus) == 3_017 and 0 <= min(edges) and max(edges) <= 1
    labels = collections.Counter(box.label for box in boxes)
    # Rows that are left out (an answer is repeated) take their boxes with them.
    assert sum(labels.values()) > 0.99 * 32_682 and 870 < len(labels) <= 890
    assert [label for label, _ in labels.most_common(7)] == [
        "Sheldon", "Leonard", "Penny", "Howard", "Raj", "Amy", "Bernadette",
    ]  # fmt: skip
    assert {row.split for row in real_tvqa_plus} == {"validation"}
    assert len({asked.video for row in real_tvqa_plus for asked in row.asked}) == 431


def test_the_real_social_iq2_has_the_official_counts(shared_data):
    found = opened(shared_data / "social_iq_2", "social_iq2").read()
    assert found.rows == {"train": 6_159, "validation": 943, "test": 1_715}
    assert [found.annotations.count("clips", split) for split in ("train", "validation", "test")] == [987, 145, 275]
    assert {problem.problem for problem in found.problems} == {"an answer is repeated"} and len(found.problems) == 55
    # 23 and 3 ids stand twice: none is lost, and each has a name of its own.
    assert found.annotations.count("questions", "train") == 6_159 - 37
    assert found.annotations.shared_clips() == {("test", "train"): 182, ("test", "validation"): 27}
    assert any(found.annotations.questions("--b-8xt2PeE", split) for split in ("train", "test"))


# TVQA


def test_tvqa_shows_are_found_by_their_names():
    assert show_of("s03e21_seg02_clip_08") == "bbt" and show_of("friends_s06e15-16_seg02_clip_22") == "friends"


@pytest.mark.parametrize(
    "row, says",
    [
        (b"{broken", "is not JSON"),
        (b"[1]", "is not a JSON object"),
        (tvqa_row(2, ts="soon"), "time span 'soon' is not"),
        (tvqa_row(2, answer_idx=5), "label 5 is out of range"),
        (tvqa_row(2, answer_idx=-1), "label -1 is out of range"),
        (tvqa_row(2, answer_idx="right"), "label 'right' is out of range"),
        (tvqa_row(2, a1="answer 0"), "an answer is repeated"),
        (tvqa_row(2, a1=" Answer  0 "), "an answer is repeated"),
        (tvqa_row(2, a1=""), "one is empty"),
        (tvqa_row(2, a1=None), "not a list of texts"),
        (tvqa_row(2, q=" "), "the question is empty"),
        (tvqa_row(2, show_name="Seinfeld"), "the show 'Seinfeld' is none of"),
        (tvqa_row(2, show_name="Castle"), "is not of the show"),
        (tvqa_row(2, vid_name="../../etc"), "is no name of a clip"),
        (tvqa_row(2, vid_name=None), "names no video"),
        ({key: value for key, value in tvqa_row(2).items() if key != "qid"}, "has no id"),
    ],
)
def test_a_bad_line_of_tvqa_is_left_out_and_named(tmp_path, row, says):
    write_lines(tmp_path / "tvqa_qa_release/tvqa_train.jsonl", [tvqa_row(1), row])
    found = opened(tmp_path, "tvqa").read()
    assert found.rows["train"] == 2 and found.annotations.count("questions", "train") == 1
    (problem,) = found.problems
    assert problem.file == "tvqa_train.jsonl:2" and says in problem.problem


def test_all_of_the_annotations_typo_shows_and_time_spans_are_read(tmp_path):
    rows = [
        tvqa_row(1, "met_s01e01_seg01_clip_00", show_name="How I Met You Mother"),
        tvqa_row(2, "friends_s06e15-16_seg02_clip_22", show_name="Friends", ts="nan-nan"),
        tvqa_row(3, "house_s01e01_seg01_clip_00", show_name="House M.D.", ts="0-0"),
        tvqa_row(4, "grey_s01e01_seg01_clip_00", show_name="Grey's Anatomy", ts="-1.5-1e1"),
    ]
    write_lines(tmp_path / "tvqa_qa_release/tvqa_train.jsonl", rows)
    dataset = opened(tmp_path, "tvqa")
    spans = [questions(dataset, row["vid_name"])[0].span for row in rows]
    assert spans == [(2, 6), None, (0, 0), (-1.5, 10)] and not dataset.read().problems


@pytest.fixture(scope="module")
def tvqa(tmp_path_factory):
    """Two clips for training, one of them an episode that fills two, one for validation whose media lie below."""
    root = tmp_path_factory.mktemp("tvqa")
    double, other = "friends_s06e15-16_seg02_clip_22", "s01e02_seg01_clip_00"
    rows = [
        tvqa_row(1), tvqa_row(2, ts="nan-nan"), tvqa_row(3, ts="0-0"), tvqa_row(4, ts="2-6"), tvqa_row(5, ts="90-99"),
        tvqa_row(6, double, "-1.5-1e1", show_name="Friends"), tvqa_row(7, "castle_s01e01_seg01_clip_00", show_name="Castle"),
    ]  # fmt: skip
    write_lines(root / "tvqa_qa_release/tvqa_train.jsonl", rows)
    write_lines(root / "tvqa_qa_release/tvqa_val.jsonl", [tvqa_row(8, other, "3.3-9.1")])
    tvqa_media(root, "s01e01_seg01_clip_00", "bbt")
    tvqa_media(root, double, "friends", seconds=6.0)
    tvqa_media(root, other, "bbt", inside="tvqa_frames")
    boxes = [
        {"img_id": 1, "top": 36, "left": 64, "height": 180, "width": 128, "label": "Sheldon"},
        {"img_id": 1, "top": -5, "left": 600, "height": 366, "width": 41, "label": "laptop"},
        {"img_id": 1, "top": 36, "left": 640, "height": 9, "width": 1, "label": "Penny"},
    ]
    plus = tvqa_row(9, other) | {"answer_idx": "3", "ts": [0.0, 1.0], "bbox": {"1": boxes, "7": boxes[:1]}}
    write_lines(root / "tvqa_plus_train.json", [[{k: v for k, v in plus.items() if k != "show_name"}]])
    return root


@pytest.fixture(scope="module")
def processed(tvqa, tmp_path_factory):
    """Its records, and the summary."""
    out = tmp_path_factory.mktemp("processed")
    return out, preprocess(tvqa, out, dataclasses.replace(QUICK, dataset="tvqa"), progress=False)


def test_tvqa_goes_from_its_folder_to_records(tvqa, processed):
    out, summary = processed
    assert summary.records == {"train": 2, "validation": 1}
    assert summary.coverage == {"train": {"annotated": 7, "kept": 5}, "validation": {"annotated": 1, "kept": 1}}
    problems = {p["file"]: p["problem"] for p in map(json.loads, (out / "problems.jsonl").open())}
    assert set(problems) == {"castle_s01e01_seg01_clip_00", "tvqa_train.jsonl:5"}
    assert "has no pictures" in problems["castle_s01e01_seg01_clip_00"]
    train = read(out, "train")
    clip = train["s01e01_seg01_clip_00"]
    # Questions 1 and 4 ask about the same span and so see one window; 2 asks about all of the clip, 3 about its start.
    assert [q.window for q in clip.questions] == [0, 1, 2, 0] and len(clip.windows) == 3
    assert (clip.questions[1].start, clip.questions[1].end) == pytest.approx((0, 59 / 3))
    assert clip.segments.has_audio.all() and set(clip.boxes.label) == {"person"}
    middle = clip.windows[0][0] + 1
    assert (clip.segments.start[middle], clip.segments.end[middle]) == pytest.approx((5 / 3, 19 / 3))
    assert clip.segments.subtitle[middle] == "(Sheldon:)Cafe, please."
    looked_at = (tvqa / "frames_hq/bbt_frames/s01e01_seg01_clip_00/00013.jpg").read_bytes()
    assert clip.frames[clip.segments.frame[middle]] == looked_at  # image 13 stands at 4 s; its bytes are untouched
    short = train["friends_s06e15-16_seg02_clip_22"]
    assert short.windows.tolist() == [[0, 3]] and (short.questions[0].start, short.questions[0].end) == pytest.approx(
        (0, 17 / 3)
    )


def test_subtitles_may_come_in_one_file_of_all_clips(tmp_path):
    clips = ["s01e01_seg01_clip_00", "s01e01_seg01_clip_01"]
    write_lines(tmp_path / "tvqa_train.jsonl", [tvqa_row(number, clip) for number, clip in enumerate(clips)])
    for clip in clips:
        tvqa_media(tmp_path, clip, "bbt", seconds=6.0)
    shutil.rmtree(tmp_path / "tvqa_subtitles")
    said = [{"text": " UNKNAME: Caf\u00e9?", "start": 3.0, "end": 4.5}, {"text": " Amy: No.", "start": 4, "end": 5}]
    lines = [{"vid_name": "other", "sub": []}, b"{broken", {"vid_name": clips[1], "sub": said}, {"vid_name": 3}]
    write_lines(tmp_path / "tvqa_preprocessed_subtitles.jsonl", lines)
    preprocess(tmp_path, tmp_path / "out", dataclasses.replace(QUICK, dataset="tvqa"), progress=False)
    train = read(tmp_path / "out", "train")
    assert [set(train[clip].segments.subtitle) - {""} for clip in clips] == [set(), {"Cafe? Amy: No."}]


def test_frames_are_stored_once_however_many_questions_see_them(tvqa, processed, tmp_path):
    spans, stored = processed[0], processed[1].stored
    found = [r for split in ("train", "validation") for r in read(spans, split).values()]
    assert stored["frames"] == sum(len(r.frames) for r in found)
    assert stored["bytes"] == sum(len(frame) for r in found for frame in r.frames)
    assert stored["frames_asked"] == sum(r.windows[q.window][1] for r in found for q in r.questions) > stored["frames"]
    options = dataclasses.replace(QUICK, dataset="tvqa", windows="grid")
    fewer = preprocess(tvqa, tmp_path / "grid", options, progress=False).stored
    assert fewer["frames"] < stored["frames"] and fewer["frames_asked"] <= stored["frames_asked"]
    clip = read(tmp_path / "grid", "train")["s01e01_seg01_clip_00"]
    assert clip.segments.start.tolist() == pytest.approx([0, 14 / 3, 28 / 3, 14, 56 / 3])


def test_a_dataset_is_a_tfds_builder(tvqa, tmp_path):
    import preprocessing.write_records  # noqa: F401  registers the builders

    builder = tfds.builder("tvqa", data_dir=tmp_path, data=tvqa, options=dataclasses.replace(QUICK))
    builder.download_and_prepare()
    again = tfds.builder("tvqa", data_dir=tmp_path)
    assert again.info.splits["train"].num_examples == 2 and "lei2018tvqa" in again.info.citation
    assert "signed agreement" in again.info.redistribution_info.license and str(again.version) == "1.0.0"
    assert records.metadata(tmp_path)["coverage"]["train"] == {"annotated": 7, "kept": 5}
    assert records.metadata(tmp_path)["dataset"] == "tvqa"
    with pytest.raises(PreprocessError, match="give data="):
        tfds.builder("social_iq2", data_dir=tmp_path / "none").download_and_prepare()


def test_tvqa_plus_brings_boxes_with_names(tvqa, tmp_path):
    options = dataclasses.replace(QUICK, dataset="tvqa_plus", detector="")
    summary = preprocess(tvqa, tmp_path, options, progress=False)
    (clip,) = read(tmp_path, "train").values()
    assert summary.records == {"train": 1} and clip.questions[0].label == 3
    # The first frame looked at is image 3, between drawings of image 1 and of image 7: Sheldon did not move.
    sheldon, laptop = clip.boxes.label.index("Sheldon"), clip.boxes.label.index("laptop")
    assert clip.boxes.frame.tolist() == [0, 0] and clip.boxes.track[sheldon] != clip.boxes.track[laptop]
    assert clip.boxes.box[sheldon].tolist() == pytest.approx([0.1, 0.1, 0.6, 0.3])
    assert clip.boxes.box[laptop].tolist() == pytest.approx([0, 600 / 640, 1, 1])  # cut at the borders
    assert clip.boxes.source == ["filled"] * 2 and clip.boxes.part[sheldon] == "body"
    assert clip.boxes.part[laptop] == "object"
    problems = [json.loads(line)["problem"] for line in (tmp_path / "problems.jsonl").open()]
    assert problems == ["1 of its boxes have no picture, no label or no area"]  # one begins where the picture ends


@pytest.mark.parametrize(
    "label, part",
    [
        ("Sheldon", "body"), ("sheldon", "body"), ("Sheldin", "body"), ("Howards", "body"), ("people", "body"),
        ("face", "face"), ("laptop", "object"), ("hand", "object"), ("Jenga", "object"), ("Car", "object"),
        ("head", "object"), ("bed", "object"), ("penny", "body"), ("page", "object"), ("Page", "body"),
        ("toy", "object"), ("flower", "object"), ("purse", "object"), ("sheet", "object"), ("cooler", "object"),
    ],
)  # fmt: skip
def test_labels_that_stand_for_people_are_known(label, part):
    assert part_of(label) == part


def test_a_cut_file_of_tvqa_plus_gives_what_stands_before_the_cut(tmp_path):
    row = tvqa_row(1) | {"ts": [0.0, 1.0], "bbox": {}}
    (tmp_path / "tvqa_plus_train.json").write_text(json.dumps([row, row | {"qid": 2}])[:-40])
    found = opened(tmp_path, "tvqa_plus").read()
    assert found.annotations.count("questions", "train") == 1
    assert "cannot be read further" in found.problems[0].problem


def test_misspelt_names_are_people_and_no_object_is(real_tvqa_plus):
    """Of all labels of the real file, those that are people only by likeness, as they were read through."""
    labels = {box.label for row in real_tvqa_plus for _, _, box in row.boxes}
    alike = {
        label
        for label in labels
        if part_of(label) == "body"
        and not PEOPLE.fullmatch(label.casefold())
        and not {label.casefold(), label.casefold().removesuffix("s")} & set(NAMES)
    }
    assert alike == {
        "Gablerhauser", "Gablehouser", "Koothrapalli", "Koothraplli", "Sheldin", "Sheldont", "Sheldo", "Shedon", "Seldon",
        "Shelton", "Penney", "Peeny", "Leonrd", "Leondard", "Lenoard", "Leornard", "Lenard", "Blossum", "Siebert",
        "Benadette", "Bernadett", "Berndette", "Preya", "Staurt", "Stephan", "Page", "Will",
    }  # fmt: skip


# Any field may be anything

ODD = [None, True, 0, -1, 1e300, float("nan"), "", "x" * 300, "a\0b", [], {}, ["a"], {"a": 1}, [[]], "\ud800", "../x"]


@pytest.mark.parametrize("value", ODD, ids=lambda value: repr(value)[:12])
def test_a_field_of_any_kind_costs_at_most_its_own_row(tmp_path, value):
    plus = tvqa_row(1) | {"ts": [0.0, 1.0], "bbox": {"1": [{"img_id": 1, "top": 0, "left": 0, "height": 9, "width": 9,
                                                           "label": "Amy"}]}}  # fmt: skip
    for name, row, path in (
        ("tvqa", tvqa_row(1), "tvqa_qa_release/tvqa_train.jsonl"),
        ("social_iq2", siq2_row("x"), "qa/qa_train.json"),
        ("tvqa_plus", plus, "tvqa_plus_train.json"),
    ):
        rows = [row, *(row | {field: value} for field in row), row | {"qid": 7}]
        if name == "tvqa_plus":
            rows += [row | {"bbox": {"1": value}}, row | {"bbox": {"1": [value]}}]
            rows += [row | {"bbox": {"1": [plus["bbox"]["1"][0] | {key: value}]}} for key in plus["bbox"]["1"][0]]
            # NaN is no JSON, and ends the file there for a strict reader.
            text = json.dumps(rows).replace("NaN", "null")
            (tmp_path / path).write_text(text)
        else:
            write_lines(tmp_path / path, rows)
        found = opened(tmp_path, name).read()
        assert found.rows["train"] == len(rows)
        kept = [asked for clip in found.annotations.clips() for asked in found.annotations.questions(clip)]
        assert {rows[0]["qid"], 7} <= {int(q.id) if q.id.isdigit() else q.id for q in kept} | {rows[0]["qid"]}
        assert all("/" not in asked.video and len(asked.video) <= 200 for asked in kept)


def test_nested_lines_and_folders_in_the_place_of_files_are_survived(tmp_path):
    write_lines(tmp_path / "tvqa_train.jsonl", [b"[" * 200_000, tvqa_row(1)])
    (tmp_path / "tvqa_val.jsonl").mkdir()
    found = opened(tmp_path, "tvqa").read()
    assert found.annotations.count("questions", "train") == 1 and "is not JSON" in found.problems[0].problem
    (tmp_path / "tvqa_plus_train.json").write_text('{"qid": 1}')
    assert opened(tmp_path, "tvqa_plus").read().problems[0].problem == "holds no list of questions"


def test_many_questions_with_one_id_are_kept_apart_and_counted(tmp_path):
    write_lines(tmp_path / "tvqa_train.jsonl", [tvqa_row(5) for _ in range(2_000)])
    found = opened(tmp_path, "tvqa").read()
    assert found.annotations.count("questions", "train") == 2_000
    assert found.annotations.renamed == {("train", "5"): 1_999}


def test_a_split_of_which_nothing_can_be_used_is_told_of_and_costs_no_other(tvqa, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(tvqa, data)
    write_lines(data / "tvqa_qa_release/tvqa_val.jsonl", [tvqa_row(8, "s09e09_seg01_clip_00")])
    summary = preprocess(data, tmp_path / "out", dataclasses.replace(QUICK, dataset="tvqa"), progress=False)
    assert summary.records == {"train": 2} and "no clip of the validation split can be used" in summary.notices


def test_clips_about_which_nothing_can_be_asked_serve_pretraining(tmp_path):
    write_lines(tmp_path / "tvqa_train.jsonl", [tvqa_row(1, ts="500-510")])
    tvqa_media(tmp_path, "s01e01_seg01_clip_00", "bbt", seconds=6.0)
    summary = preprocess(tmp_path, tmp_path / "out", dataclasses.replace(QUICK, dataset="tvqa"), progress=False)
    (clip,) = read(tmp_path / "out", "train").values()
    assert summary.coverage == {"train": {"annotated": 1, "kept": 0}} and not clip.questions and len(clip.windows) == 1


def test_sound_goes_on_behind_the_last_picture_and_early_ends_are_told_of(tmp_path):
    rows = [tvqa_row(1, ts="9-10"), tvqa_row(2, "s01e01_seg01_clip_01")]
    write_lines(tmp_path / "tvqa_train.jsonl", rows)
    for number, seconds in ((0, 14.0), (1, 3.0)):
        tvqa_media(tmp_path, f"s01e01_seg01_clip_0{number}", "bbt", seconds=10.0)
        write_wav(tmp_path / f"audios/bbt_new/bbt_audios/s01e01_seg01_clip_0{number}.wav", seconds)
    preprocess(tmp_path, tmp_path / "out", dataclasses.replace(QUICK, dataset="tvqa"), progress=False)
    clip = read(tmp_path / "out", "train")["s01e01_seg01_clip_00"]
    last = clip.segments.mel[np.argmax(clip.segments.end)]  # from 7.33 to 12 s: the pictures end at 10 s
    assert clip.segments.end.max() > 11 and last[2].max() == pytest.approx(last[0].max(), abs=8)
    (problem,) = map(json.loads, (tmp_path / "out/problems.jsonl").open())
    assert problem["file"].endswith("01") and problem["problem"].endswith("ends at 3.0 s")


# Social-IQ 2.0


@pytest.fixture(scope="module")
def siq2(tmp_path_factory):
    root = tmp_path_factory.mktemp("siq2")
    rows = [siq2_row("-a", 0), siq2_row("-a", 0, q="Who?"), siq2_row("b", 1), siq2_row("gone", 2)]
    write_lines(root / "qa/qa_train.json", rows)
    write_lines(root / "qa/qa_val.json", [siq2_row("c", 3)])
    unanswered = {key: value for key, value in siq2_row("-a", 4).items() if key not in ("answer_idx", "ans_corr")}
    write_lines(root / "qa/qa_test.json", [unanswered])
    siq2_media(root, "-a")
    write_images(root / "frames/b", 12, "b_{:03d}.jpg")
    write_wav(root / "audio/wav/b.wav", 3.0)
    siq2_media(root, "c", seconds=2.0)
    splits = {"youtubeclips": {"train": ["-a", "b"], "val": ["c"], "test": []}, "car": {"train": ["gone", "unasked"]}}
    (root / "original_split.json").write_text(json.dumps({"subsets": splits}))
    (root / "trims.json").write_text(json.dumps({"-a": 1.0, "b": 2, "gone": 0}))
    return root


def test_social_iq2_goes_from_its_folder_to_records(siq2, tmp_path):
    options = dataclasses.replace(QUICK, dataset="social_iq2")
    summary = preprocess(siq2, tmp_path, options, progress=False)
    assert summary.records == {"train": 2, "validation": 1, "test": 1}
    assert summary.coverage["train"] == {"annotated": 4, "kept": 3}
    train, test = read(tmp_path, "train"), read(tmp_path, "test")
    # An id that stands twice gets a number; a clip of two splits has in each only that split's questions.
    assert [q.id for q in train["-a"].questions] == ["-a_q0_0", "-a_q0_0#2"]
    assert [q.label for q in test["-a"].questions] == [-1] and [q.label for q in train["b"].questions] == [1]
    assert len(train["-a"].frames) < 2 * len(train["-a"].segments.start)
    # Sound of 3 s beside pictures of 12 s: the segments behind it are silent, and say so.
    assert train["b"].segments.has_audio.tolist() == [True, False, False]
    assert train["-a"].segments.subtitle[0] == "Hi."


@pytest.mark.parametrize(
    "row, says",
    [
        (siq2_row("x", ans_corr="answer 2"), "are not the same answer"),
        (siq2_row("x", answer_idx=4, ans_corr="?"), "out of range"),
        (siq2_row("x", a2="answer 1"), "an answer is repeated"),
        (siq2_row("x", ts="1:00"), "is not two numbers"),
    ],
)
def test_a_bad_line_of_social_iq2_is_left_out_and_named(tmp_path, row, says):
    write_lines(tmp_path / "qa/qa_train.json", [siq2_row("x"), row])
    found = opened(tmp_path, "social_iq2").read()
    assert found.annotations.count("questions", "train") == 1
    assert found.problems[0].file == "qa_train.json:2" and says in found.problems[0].problem


# Social-IQ 1.0

LABELS = """q1: How does she feel: well?
a1: fine
a2: happy
a3: glad
a4: cheerful
i1: sad
i2: angry
i3: bored
q2: Why?
a1: she laughs
a2: She  laughs
i1: she cries

a3: she jokes
i2: she jokes
"""


@pytest.fixture
def siq(tmp_path):
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/-v.txt").write_text(LABELS)
    folds = (
        "import os\nos.remove('nothing')\nstandard_train_fold = ['-v', 'f5NJQiY9AuY', 'lost']\nstandard_valid_fold=[]\n"
    )
    (tmp_path / "socialiq_std_folds.py").write_text(folds)
    return tmp_path


def test_social_iq_pairs_every_right_answer_with_every_wrong_one(siq):
    found = opened(siq, "social_iq", protocol="a2").read()
    asked = found.annotations.questions("-v", "train")
    first = [question for question in asked if question.text.startswith("How")]
    assert found.rows["train"] == 2 and len(first) == 12 and {len(q.answers) for q in first} == {2}
    assert first[0].text == "How does she feel: well?" and first[0].span is None
    right = {"fine", "happy", "glad", "cheerful"}
    assert all(question.answers[question.label] in right for question in first)
    assert {question.label for question in first} == {0, 1}  # the first place does not give it away
    second = [question for question in asked if question.text == "Why?"]
    assert sorted(sorted(q.answers) for q in second) == [["she cries", "she jokes"], ["she cries", "she laughs"]]


def test_social_iq_asks_for_one_of_four(siq):
    dataset = opened(siq, "social_iq", protocol="a4")
    asked = questions(dataset, "-v")
    assert len(asked) == 4 and {len(q.answers) for q in asked} == {4}
    assert {q.answers[q.label] for q in asked} == {"fine", "happy", "glad", "cheerful"}


def test_what_is_odd_in_social_iq_is_reported_and_its_folds_are_not_run(siq):
    problems = {p.file: p.problem for p in opened(siq, "social_iq", protocol="a4").read().problems}
    assert problems["f5NJQiY9AuY"] == "the dataset's authors leave this video out"
    assert problems["lost"] == "the fold names it, but no file has its questions"
    assert problems["-v.txt:9"] == "2 right and 1 wrong answers that differ are too few"
    told = {p.file: p.problem for p in opened(siq, "social_iq").read().problems}
    assert told["-v.txt:9"] == "3 right and 2 wrong answers instead of 4 and 3; 2 of its answers are repeated or empty"


@pytest.mark.parametrize("line", ["Question 2: Is she glad?", "2: Is she glad?", "q2 Is she glad?"])
def test_answers_behind_a_broken_line_are_not_the_question_befores(siq, line):
    answers = [*(f"a{i}: other right {i}" for i in range(4)), *(f"i{i}: other wrong {i}" for i in range(3))]
    first = LABELS.split("q2")[0].strip().splitlines()
    (siq / "labels/-v.txt").write_text("\n".join([*first, line, *answers]))
    found = opened(siq, "social_iq").read()
    asked = found.annotations.questions("-v", "train")
    assert len(asked) == 12 and not any("other" in answer for question in asked for answer in question.answers)
    problems = [problem.problem for problem in found.problems if problem.file.startswith("-v")]
    assert problems[0].startswith("is neither q, a nor i") and problems[1:] == ["an answer without a question"] * 7


def test_more_answers_than_a_question_has_are_not_chosen_among(siq):
    (siq / "labels/-v.txt").write_text(LABELS.replace("i3: bored", "i3: bored\ni4: tired"))
    found = opened(siq, "social_iq").read()
    assert "4 right and 4 wrong answers instead of 4 and 3" in [problem.problem for problem in found.problems]
    assert not any(q.text.startswith("How") for q in found.annotations.questions("-v", "train"))


def test_a_mark_at_the_start_of_a_file_and_an_id_that_a_fold_has_twice_change_nothing(siq):
    expected = questions(opened(siq, "social_iq"), "-v")
    (siq / "labels/-v.txt").write_text("\ufeff" + LABELS)
    (siq / "socialiq_std_folds.py").write_text("standard_train_fold = ['-v', '-v']\nstandard_valid_fold = []\n")
    assert questions(opened(siq, "social_iq"), "-v") == expected
    for folds in ("standard_train_fold = '-v'\nstandard_valid_fold = []", "standard_train_fold = ['../v']\n"):
        (siq / "socialiq_std_folds.py").write_text(folds)
        with pytest.raises(PreprocessError, match="holds no lists"):
            opened(siq, "social_iq").read()


def test_social_iq_goes_from_its_folder_to_records(siq, tmp_path):
    siq2_media(siq, "-v")
    (siq / "video/-v.mp4").rename(siq / "video/-v_trimmed-out.mp4")
    options = dataclasses.replace(QUICK, dataset="social_iq", protocol="a2")
    summary = preprocess(siq, tmp_path / "out", options, progress=False)
    assert summary.coverage == {"train": {"annotated": 2, "kept": 2}}
    assert records.metadata(tmp_path / "out")["protocol"] == "a2"
    assert len(read(tmp_path / "out", "train")["-v"].questions) == 14


# All


@pytest.mark.parametrize("name", ["tvqa", "tvqa_plus", "social_iq", "social_iq2"])
def test_a_folder_without_annotation_is_answered_with_what_is_wanted(tmp_path, name):
    with pytest.raises(PreprocessError, match="holds no annotation of"):
        opened(tmp_path, name).read()
    with pytest.raises(PreprocessError, match="does not exist"):
        opened(tmp_path / "none", name)


def test_an_unknown_dataset_or_protocol_is_answered_with_those_there_are(tmp_path):
    with pytest.raises(PreprocessError, match="known: tvqa, tvqa_plus, social_iq, social_iq2, video_folder"):
        opened(tmp_path, "msrvtt")
    with pytest.raises(PreprocessError, match="it has a2, a4"):
        opened(tmp_path, "social_iq", protocol="a3")
    with pytest.raises(PreprocessError, match="none to choose from"):
        opened(tmp_path, "tvqa", protocol="a2")
    with pytest.raises(PreprocessError, match="brings no boxes drawn by people"):
        opened(tmp_path, "tvqa", detector="human")
    with pytest.raises(PreprocessError, match="windows 'span': there is none of that name; known: tiles, spans, grid"):
        preprocess(tmp_path, tmp_path / "out", Options(windows="span"))
