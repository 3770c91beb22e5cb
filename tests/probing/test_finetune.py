"""Finetuning moves every weight, keeps the best epoch, and goes on after a kill with the same bits."""

import json
import shutil

import numpy as np
import pytest
import questions
import safetensors.numpy

from mmdiff.probing import finetune as module
from mmdiff.probing.config import ProbeConfig
from mmdiff.probing.linear_probe import LinearProbeConfig
from mmdiff.probing.probe import probe
from mmdiff.training.checkpoints import Checkpoints
from mmdiff.training.config import apply_preset
from mmdiff.training.metrics import read_metrics


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    train = [questions.repeating(i) for i in range(3)]
    return questions.untrained(tmp_path_factory.mktemp("untrained"), train, [questions.repeating(7)])


def quick(untrained, **options) -> ProbeConfig:
    """Three epochs of three steps on 21 questions."""
    _, own = untrained
    config = ProbeConfig(mode="finetune", data=own.data, model=own.model, probe=LinearProbeConfig(seeds=2))
    config.train.epochs, config.train.save_every = 3, 9
    config.optimizer.learning_rate = 1e-3
    for name, value in options.items():
        setattr(config.train, name, value)
    return config


@pytest.fixture(scope="module")
def finetuned(untrained, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("result") / "probe"
    return workdir, probe(quick(untrained), untrained[0], workdir, progress_bar=False)


def seed_folder(workdir, seed=0):
    (folder,) = (workdir / "finetuned").iterdir()
    return folder / f"seed_{seed}"


def test_it_writes_what_a_linear_probe_writes(finetuned):
    workdir, result = finetuned
    assert (result["mode"], result["selection"], result["features"], result["feature_pass"]) == (
        "finetune", "validation", None, None,
    )  # fmt: skip
    assert (result["train_questions"], result["questions"], result["seeds"]) == (21, 7, [0, 1])
    assert result["chance"] == pytest.approx((6 / 2 + 1 / 3) / 7)
    assert result["learning_rate"] == 1e-3
    lines = read_metrics(workdir / "metrics.jsonl")
    assert set(lines[0]) == {"step", "split", "seed", "learning_rate", "loss", "audio", "text", "joint"}
    with np.load(workdir / "predictions.npz", allow_pickle=False) as stored:
        assert stored["correct"].shape == (2, 7, 3) and stored["id"][6] == "t7"
    for seed in (0, 1):
        held_out = [x for x in lines if x["seed"] == seed and x["split"] == "validation"]
        assert [x["step"] for x in held_out] == [1, 2, 3]
        joint = [x["joint"] for x in held_out]
        assert result["epoch"][seed] == int(np.argmax(joint)) + 1
        for name in ("audio", "text", "joint"):
            # The stored best model, asked again, gives what was measured when it was stored.
            assert result["accuracy"][name][seed] == pytest.approx(held_out[result["epoch"][seed] - 1][name])
            assert result["last_epoch_accuracy"][name][seed] == pytest.approx(held_out[-1][name])


def test_encoders_move(untrained, finetuned):
    before = safetensors.numpy.load_file(untrained[0])
    after = safetensors.numpy.load_file(seed_folder(finetuned[0]) / "model.safetensors")
    assert set(after) - set(before) == {"proj/kernel"}
    assert {name.split("/")[0] for name in set(before) - set(after)} == {"head", "span_encoder"}
    for module_name in ("vision_encoder", "audio_encoder", "joint_transformer", "token_encoder"):
        moved = [name for name in after if name.startswith(module_name) and (after[name] != before[name]).any()]
        assert len(moved) > 1 or module_name == "token_encoder" and moved


class Killed(Exception):
    pass


def test_a_killed_finetuning_goes_on_and_ends_with_the_same_bits(untrained, finetuned, tmp_path, monkeypatch):
    workdir, result = finetuned
    shutil.copytree(workdir, tmp_path / "probe")
    (tmp_path / "probe" / "probe.json").unlink()
    shutil.rmtree(seed_folder(tmp_path / "probe", 1))
    save = Checkpoints.save

    def save_and_die(self, *arguments):  # after the first epoch, the best so far, whose model is not kept yet
        save(self, *arguments)
        self.close()
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", save_and_die)
        with pytest.raises(Killed):
            probe(quick(untrained), untrained[0], tmp_path / "probe", progress_bar=False)
    assert not (tmp_path / "probe" / "probe.json").exists()
    assert not (seed_folder(tmp_path / "probe", 1) / "summary.json").exists()
    assert probe(quick(untrained), untrained[0], tmp_path / "probe", progress_bar=False) == result
    models = [seed_folder(folder, 1) / "model.safetensors" for folder in (workdir, tmp_path / "probe")]
    assert models[0].read_bytes() == models[1].read_bytes()


def test_other_settings_or_another_model_never_go_on_with_what_was_finetuned(
    untrained, finetuned, tmp_path, monkeypatch
):
    shutil.copytree(finetuned[0], tmp_path / "probe")
    started = []

    def note(workdir, *arguments):
        started.append(workdir)
        raise Killed

    monkeypatch.setattr(module, "open_position", note)
    with pytest.raises(Killed):
        probe(quick(untrained, batch_size=16), untrained[0], tmp_path / "probe", progress_bar=False)
    assert started[0].parent != seed_folder(finetuned[0]).parent
    probe(quick(untrained), untrained[0], tmp_path / "probe", progress_bar=False)  # what is done stays done
    assert len(started) == 1


def test_the_official_recipe_runs(untrained, tmp_path):
    config = quick(untrained, epochs=1)
    config.probe.seeds = 1
    apply_preset(config, "official_code")
    result = probe(config, untrained[0], tmp_path / "probe", progress_bar=False)
    assert result["mode"] == "finetune" and result["config"]["optimizer"]["state"] == "compact"
    assert not result["config"]["data"]["clip_question_span"] and result["config"]["questions"]["attend_to_padding"]
    assert set(result["last_epoch_accuracy"]) == {"audio", "text", "joint"}
    # A seed that is done never goes on: its optimizer's state is gone.
    assert not (seed_folder(tmp_path / "probe") / "checkpoints").exists()
    assert json.loads((tmp_path / "probe" / "probe.json").read_text()) == result
    kernel = safetensors.numpy.load_file(seed_folder(tmp_path / "probe") / "model.safetensors")["proj/kernel"]
    official = (np.random.RandomState(123456).randn(64, 1) * 0.01).astype(np.float32)
    # Three steps of Adam, of which the first has rate 0, move each weight by twice the learning rate at most.
    assert np.abs(kernel - official).max() < 2.1e-3
