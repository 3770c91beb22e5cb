"""A probe of a checkpoint: what it writes, what it keeps, what it refuses; with frozen encoders."""

import json
import shutil

import numpy as np
import pytest
import questions
import tiny

from mmdiff.data.records import RecordError, digest
from mmdiff.probing import encoder
from mmdiff.probing.config import ProbeConfig
from mmdiff.probing.linear_probe import LinearProbeConfig
from mmdiff.probing.probe import probe
from mmdiff.training.config import ConfigError
from mmdiff.training.metrics import read_metrics
from mmdiff.training.runs import RunError


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    train = [tiny.record(i, audio=i % 2 > 0) for i in range(5)]
    train[0].questions[0].answers = ["a cat", "a dog"]  # fewer answers than the others
    train[1].questions[0].label = -1  # not known: not asked
    return questions.continued(tmp_path_factory.mktemp("probed"), train, [tiny.record(8), tiny.record(9)])


def quick(**options) -> ProbeConfig:
    return ProbeConfig(probe=LinearProbeConfig(**{"seeds": 3, "epochs": 2, "batch_size": 2} | options))


def test_a_probe_writes_what_the_report_reads(run, tmp_path):
    before = (run / "model.safetensors").read_bytes()
    result = probe(quick(), run, tmp_path / "probe", progress_bar=False)
    assert json.loads((tmp_path / "probe" / "probe.json").read_text()) == result
    assert set(result) == {
        "checkpoint", "dataset", "protocol", "strategy", "where", "mode", "questions", "train_questions", "coverage",
        "chance", "selection", "accuracy", "last_epoch_accuracy", "epoch", "learning_rate", "grid", "seeds", "features",
        "feature_pass", "records", "config",
    }  # fmt: skip
    assert (result["questions"], result["train_questions"], result["mode"]) == (2, 4, "linear")
    assert (result["dataset"], result["strategy"], result["where"]) == ("tiny_folder", "difference", "body")
    assert (result["selection"], result["seeds"], result["chance"]) == ("validation", [0, 1, 2], pytest.approx(1 / 3))
    assert result["checkpoint"] == str(run.resolve()) and result["config"]["probe"]["batch_size"] == 2
    assert result["records"] == digest(result["config"]["data"]["records"])
    for accuracy in (result["accuracy"], result["last_epoch_accuracy"]):
        assert list(accuracy) == ["audio", "text", "joint"]
        assert all(len(seeds) == 3 and set(seeds) <= {0.0, 0.5, 1.0} for seeds in accuracy.values())
    took = result["feature_pass"]
    assert took["train"]["frames"] == 8 and took["validation"]["questions"] == 2
    assert took["train"]["questions_per_second"] > 0 and took["peak_memory_bytes"]["host"] > 1e8
    with np.load(tmp_path / "probe" / "predictions.npz", allow_pickle=False) as stored:
        asked = sorted(zip(stored["id"].tolist(), stored["video"].tolist(), strict=True))
        assert asked == [("q8", "clip8.mp4"), ("q9", "clip9.mp4")]
        assert stored["correct"].shape == (3, 2, 3)
        for i, name in enumerate(("audio", "text", "joint")):
            assert stored["correct"][:, :, i].mean(axis=1).tolist() == result["accuracy"][name]
    lines = read_metrics(tmp_path / "probe" / "metrics.jsonl")
    assert len(lines) == 3 * 3 * 2 * 2  # seeds, rates, epochs, splits
    assert set(lines[0]) == {"step", "split", "seed", "learning_rate", "loss", "audio", "text", "joint"}
    # Frozen: nothing of the model is written anywhere.
    assert (run / "model.safetensors").read_bytes() == before
    assert not list((tmp_path / "probe").rglob("*.safetensors"))


def test_features_are_computed_once_and_only_once(run, tmp_path, monkeypatch):
    first = probe(quick(), run, tmp_path / "probe", progress_bar=False)

    def refuse(*arguments):
        raise AssertionError("the model ran again")

    for name in ("_encode_frames", "_encode_segments", "_ask"):
        monkeypatch.setattr(encoder, name, refuse)
    again = probe(quick(learning_rates=(1e-2,)), run, tmp_path / "probe", progress_bar=False)
    assert again["features"] == first["features"]
    assert [again["feature_pass"][split]["computed_questions"] for split in ("train", "validation")] == [0, 0]


def test_another_model_never_reuses_features_and_leaves_them(run, tmp_path):
    first = probe(quick(), run, tmp_path / "probe", progress_bar=False)
    model = run / "model.safetensors"
    whole = model.read_bytes()
    try:
        model.write_bytes(whole[:-4] + b"\x00\x00\x80?")
        second = probe(quick(), run, tmp_path / "probe", progress_bar=False)
    finally:
        model.write_bytes(whole)
    assert first["features"] != second["features"]
    assert second["feature_pass"]["train"]["computed_questions"] == 4
    kept = {path.name for path in (tmp_path / "probe" / "features").iterdir()}
    assert kept == {first["features"], second["features"]}


def test_other_records_never_reuse_features(run, tmp_path):
    first = probe(quick(), run, tmp_path / "probe", progress_bar=False)
    config = quick()
    other = tiny.write_dataset(tmp_path / "other", [tiny.record(i) for i in range(20, 23)], [tiny.record(30)])
    config.data.records = str(other)
    second = probe(config, run, tmp_path / "probe", progress_bar=False)
    assert first["features"] != second["features"] and first["records"] != second["records"]
    assert second["feature_pass"]["train"]["computed_questions"] == 3


def test_a_checkpoint_file_has_no_strategy(run, tmp_path):
    config = quick(select_on="train", seeds=1)
    own = tiny.config(run.parent / "records")
    config.data, config.model = own.data, own.model
    result = probe(config, run / "model.safetensors", tmp_path / "probe", progress_bar=False)
    assert (result["strategy"], result["where"], result["selection"]) == (None, None, "train")
    assert result["train_questions"] == 3  # one record is held out


def test_a_split_without_answers_is_explained(run, tmp_path):
    unknown = [tiny.record(i) for i in range(3)]
    for record in unknown:
        record.questions = []
    config = quick()
    config.data.records = str(tiny.write_dataset(tmp_path / "unknown", unknown, [tiny.record(5)]))
    with pytest.raises(RecordError, match="no question with a known answer in its train split"):
        probe(config, run, tmp_path / "probe", progress_bar=False)


def test_a_folder_of_another_probe_is_refused(run, tmp_path):
    probe(quick(), run, tmp_path / "probe", progress_bar=False)
    before = (tmp_path / "probe" / "probe.json").read_bytes()
    shutil.copytree(run, tmp_path / "other")
    with pytest.raises(RunError, match="holds a probe of"):
        probe(quick(), tmp_path / "other", tmp_path / "probe", progress_bar=False)
    config = quick()
    config.mode = "finetune"
    with pytest.raises(RunError, match=r"\(linear\): give another --workdir"):
        probe(config, run, tmp_path / "probe", progress_bar=False)
    assert (tmp_path / "probe" / "probe.json").read_bytes() == before


def test_settings_that_mean_nothing_are_explained(run, tmp_path):
    def explained(match, config):
        with pytest.raises(ConfigError, match=match):
            probe(config, run, tmp_path / "probe", progress_bar=False)
        assert not (tmp_path / "probe").exists()

    explained("known: linear, finetune", ProbeConfig(mode="both"))
    explained("known: validation, train", quick(select_on="test"))
    explained("learning_rates", quick(learning_rates=()))
    explained("select_on=train is for linear", ProbeConfig(mode="finetune", probe=LinearProbeConfig(select_on="train")))


def test_an_unfinished_run_is_probed_with_a_warning(run, tmp_path, caplog):
    shutil.copytree(run, tmp_path / "stopped")
    (tmp_path / "stopped" / "summary.json").unlink()
    probe(quick(seeds=1), tmp_path / "stopped", tmp_path / "probe", progress_bar=False)
    assert "has not finished" in caplog.text
