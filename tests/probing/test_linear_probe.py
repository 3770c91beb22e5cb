"""Features are computed once, encoders stay frozen, and heads learn what the features hold."""

import shutil

import numpy as np
import pytest
import tiny

from mmdiff.data.records import RecordError
from mmdiff.probing import features
from mmdiff.probing.features import QuestionFeatures
from mmdiff.probing.linear_probe import LinearProbeConfig, ProbeConfig, probe, train_heads
from mmdiff.training.pretrain import pretrain
from mmdiff.training.runs import RunError


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("probed")
    train = [tiny.record(i, audio=i % 2 > 0) for i in range(5)]
    train[0].questions[0].answers = ["a cat", "a dog"]  # fewer answers than the others
    train[1].questions[0].label = -1  # not known: not asked
    records = tiny.write_dataset(folder / "records", train, [tiny.record(8), tiny.record(9)])
    config = tiny.config(records, steps=1)
    config.optimizer.warmup_steps = 0
    return pretrain(config, folder / "run", progress_bar=False)


def quick(**options) -> ProbeConfig:
    return ProbeConfig(probe=LinearProbeConfig(seeds=3, epochs=2, batch_size=2, **options))


def test_a_probe_reports_every_seed_and_the_chance_level(run, tmp_path):
    result = probe(quick(), run, tmp_path / "probe", progress_bar=False)
    assert (result["questions"], result["train_questions"], result["mode"]) == (2, 4, "linear")
    assert result["chance"] == pytest.approx(1 / 3)
    assert set(result["accuracy"]) == {"audio", "text", "joint"}
    assert all(len(seeds) == 3 and set(seeds) <= {0.0, 0.5, 1.0} for seeds in result["accuracy"].values())


def test_features_are_computed_once_and_only_once(run, tmp_path, monkeypatch):
    first = probe(quick(), run, tmp_path / "probe", progress_bar=False)

    def refuse(*arguments):
        raise AssertionError("the model ran again")

    monkeypatch.setattr(features, "_encode", refuse)
    monkeypatch.setattr(features, "_ask", refuse)
    again = probe(quick(learning_rate=1e-2), run, tmp_path / "probe", progress_bar=False)
    assert again["features"] == first["features"]


def test_another_model_never_reuses_features(run, tmp_path):
    first = probe(quick(), run, tmp_path / "probe", progress_bar=False)
    model = run / "model.safetensors"
    whole = model.read_bytes()
    try:
        model.write_bytes(whole[:-4] + b"\x00\x00\x80?")
        second = probe(quick(), run, tmp_path / "probe", progress_bar=False)
    finally:
        model.write_bytes(whole)
    assert first["features"] != second["features"]


def test_features_do_not_depend_on_what_is_computed_with_them(run, tmp_path, monkeypatch):
    def vectors(folder):
        probe(quick(), run, folder, progress_bar=False)
        (path,) = (folder / "features").glob("*-train.npz")
        with np.load(path) as stored:
            return dict(stored)

    together = vectors(tmp_path / "together")
    monkeypatch.setattr(features, "WINDOWS_AT_ONCE", 1)
    monkeypatch.setattr(features, "CANDIDATES_AT_ONCE", 2)
    alone = vectors(tmp_path / "alone")
    np.testing.assert_array_equal(together["id"], alone["id"])
    # Stored as float16: two units in its last place for values below 4.
    np.testing.assert_allclose(together["features"].astype(float), alone["features"].astype(float), atol=4e-3)
    assert together["offered"].sum() == 2 + 3 * 3


def test_a_split_without_answers_is_explained(tmp_path):
    unknown = [tiny.record(i) for i in range(3)]
    for record in unknown:
        record.questions = []
    records = tiny.write_dataset(tmp_path / "records", unknown, [tiny.record(5)])
    config = tiny.config(records, steps=1)
    config.optimizer.warmup_steps = 0
    run = pretrain(config, tmp_path / "run", progress_bar=False)
    with pytest.raises(RecordError, match="no question with a known answer in its train split"):
        probe(quick(), run, tmp_path / "probe", progress_bar=False)


def test_heads_learn_what_the_features_hold():
    rng = np.random.default_rng(0)

    def questions(count):
        label = rng.integers(0, 4, count).astype(np.int32)
        made = rng.normal(size=(count, 4, 2, 16))
        made[np.arange(count), label, 1, 0] += 3.0  # only the text feature knows the answer
        return QuestionFeatures(made.astype(np.float16), np.ones((count, 4), bool), label, np.arange(count).astype(str))

    found = train_heads(questions(200), questions(400), LinearProbeConfig(seeds=2, epochs=60, learning_rate=1e-2))
    audio, text, _ = found.mean(axis=0)
    assert text > 0.9 and audio < 0.4


def test_a_folder_of_another_probe_is_refused(run, tmp_path):
    probe(quick(), run, tmp_path / "probe", progress_bar=False)
    before = (tmp_path / "probe" / "probe.json").read_bytes()
    shutil.copytree(run, tmp_path / "other")
    with pytest.raises(RunError, match="holds a probe of"):
        probe(quick(), tmp_path / "other", tmp_path / "probe", progress_bar=False)
    assert (tmp_path / "probe" / "probe.json").read_bytes() == before


def test_an_unfinished_run_is_probed_with_a_warning(run, tmp_path, caplog):
    shutil.copytree(run, tmp_path / "stopped")
    (tmp_path / "stopped" / "summary.json").unlink()
    probe(quick(), tmp_path / "stopped", tmp_path / "probe", progress_bar=False)
    assert "has not finished" in caplog.text
