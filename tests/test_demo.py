"""The whole path, smaller than the demo: composed clips in, a report out."""

import dataclasses
import json

import jax
import numpy as np
from jax.sharding import Mesh

from mmdiff import demo
from mmdiff.data.records import decode, read_split
from mmdiff.training import pretrain
from mmdiff.training.metrics import read_metrics

SIZES = {"hidden_size": 64, "vision_layers": 1, "audio_layers": 1, "joint_layers": 1, "span_layers": 1}


def test_the_demo_ends_with_a_report_and_goes_on_where_it_was(tmp_path, monkeypatch):
    strategies = [demo.demo_config(*[tmp_path] * 3, name).masking.strategy for name in demo.STRATEGIES]
    assert strategies == ["random", "difference"]
    # Below, two ways of masking that differ in the boxes of an example alone, so that both runs are one compiled program.
    changed = {"CLIPS": 3, "CLIP_SECONDS": 5.0, "SEGMENTS": 1, "SIZES": SIZES, "STRATEGIES": ("face", "body")}
    for name, value in changed.items():
        monkeypatch.setattr(demo, name, value)
    # On one device, as on a laptop; programs for eight take twice as long to compile.
    monkeypatch.setattr(pretrain, "make_mesh", lambda fsdp: Mesh([[jax.devices()[0]]], ("data", "fsdp")))
    whole_options, whole_config = demo.demo_options, demo.demo_config

    def fewer_pictures(**about):
        return dataclasses.replace(whole_options(**about), fps=1.0, workers=0)

    def shorter(*files_and_name):
        *files, name = files_and_name
        config = whole_config(*files, "difference")
        config.masking.where = name
        config.data.text_length, config.model.rows, config.model.columns = 48, 4, 6
        config.train.steps, config.train.log_every, config.train.evaluate_every = 4, 1, 4
        return config

    monkeypatch.setattr(demo, "demo_options", fewer_pictures)
    monkeypatch.setattr(demo, "demo_config", shorter)
    page = demo.demo(tmp_path / "out").read_text(encoding="utf-8")
    for part in ("What is hidden", "Continued pretraining", "Linear probe", "prove that the path works", "±"):
        assert part in page
    assert page.count("data:image/png") >= 3
    metrics = read_metrics(tmp_path / "out" / "runs" / "face" / "metrics.jsonl")
    assert [line["step"] for line in metrics if line["split"] == "train"] == [1, 2, 3, 4]
    models = [tmp_path / "out" / "runs" / name / "model.safetensors" for name in demo.STRATEGIES]
    before = [path.read_bytes() for path in models]
    assert before[0] != before[1]
    demo.demo(tmp_path / "out")
    assert before == [path.read_bytes() for path in models]


def test_questions_about_real_clips_are_true(videos, tmp_path):
    from preprocessing.build import Options, preprocess

    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("asl_walk.mkv", "hamilton_short.mp4"):
        (folder / name).symlink_to(videos / name)
    options = Options(fps=1.0, segments_per_window=2, validation_share=0.5, workers=0)
    preprocess(folder, tmp_path / "records", options, progress=False)
    path = demo.ask_about_pictures(tmp_path / "records", tmp_path / "questions.jsonl")
    asked = {line["id"]: line for line in map(json.loads, path.read_text().splitlines())}
    assert len(asked) == 9
    # Half of the pictures are brighter than the middle; the signer has no sound and the singer has.
    assert sum(line["label"] for line in asked.values() if "bright" in line["question"]) == 1
    assert asked["asl_walk.mkv~0000-0-1"]["label"] == 0
    assert asked["asl_walk.mkv~0000-0-2"]["label"] == 1
    options.questions = path
    preprocess(folder, tmp_path / "records", options, progress=False)
    records = [decode(x) for split in ("train", "validation") for x in read_split(tmp_path / "records", split)]
    assert sum(len(record.questions) for record in records) == 9
    assert np.sum([len(record.boxes.frame) for record in records]) > 0
