"""Whole runs: they learn, they resume bit for bit, and any number of devices gives the same."""

import dataclasses
import importlib
import json
import os
import random
import shutil
import signal
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import tiny
import toy

from mmdiff.data.loader import evaluation_batches, training_batches
from mmdiff.data.tokenizer import Tokenizer
from mmdiff.training import runs
from mmdiff.training.checkpoints import Progress
from mmdiff.training.config import ConfigError, to_json
from mmdiff.training.interruption import EXIT_CODE
from mmdiff.training.metrics import read_metrics
from mmdiff.training.pretrain import example_maker, pretrain, run_keys

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "benchmarks"))
stress = importlib.import_module("kill_and_resume")
SCHEDULE = {"log_every": 1, "evaluate_every": 12, "save_every": 6}
CONFIG = f"""
import sys
from pathlib import Path
sys.path.append({str(ROOT / "tests")!r})
import tiny

def get_config(records):
    return tiny.config(Path(records), **{SCHEDULE})
"""


def weights(workdir: Path) -> dict[str, np.ndarray]:
    return safetensors.numpy.load_file(workdir / runs.MODEL)


@pytest.fixture(scope="module")
def unbroken(records, tmp_path_factory):
    """A run, in a folder whose claim was cut short before, and its configuration."""
    workdir = tmp_path_factory.mktemp("unbroken") / "run"
    workdir.mkdir()
    (workdir / "config.json.unfinished").write_text("{")
    config = tiny.config(records, **SCHEDULE)
    with stress.noting_batches(stress.ids_file(workdir)):
        return pretrain(config, workdir, progress_bar=False), config


def test_the_budget_that_goes_into_people_is_kept(unbroken):
    found = json.loads((unbroken[0] / runs.SUMMARY).read_text())[runs.BOX_BUDGET]
    assert found == {"share": 0.75, "windows": 12, "without": 3}


def test_loss_falls_and_every_line_says_what_was_hidden(unbroken):
    lines = [line for line in read_metrics(unbroken[0] / runs.METRICS) if line["split"] == "train"]
    assert [line["step"] for line in lines] == list(range(1, 25))
    start, end = (np.mean([line["loss"] for line in part]) for part in (lines[:3], lines[-3:]))
    assert end < 0.8 * start
    for line in lines:
        assert {"hidden_patches", "hidden_pools", "hidden_inside_person", "mfu", "examples_per_second"} <= set(line)
        assert 0 < line["hidden_patches"] <= 0.25 * 2 * 24


def test_a_run_killed_while_it_claims_its_folder_goes_on(unbroken):
    assert json.loads((unbroken[0] / runs.SUMMARY).read_text())["step"] == 24


def test_a_finished_run_started_again_on_a_copy_of_its_records_changes_nothing(unbroken, records, tmp_path):
    whole, config = unbroken
    before = (whole / runs.MODEL).read_bytes(), (whole / runs.METRICS).read_bytes()
    shutil.copytree(records, tmp_path / "copy")
    pretrain(tiny.config(tmp_path / "copy", **dataclasses.asdict(config.train)), whole, progress_bar=False)
    assert before == ((whole / runs.MODEL).read_bytes(), (whole / runs.METRICS).read_bytes())


def test_a_run_killed_in_a_save_and_told_to_stop_is_as_if_it_had_not_been(unbroken, records, tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_DEFAULT_MATMUL_PRECISION", "highest")  # as in this process
    (tmp_path / "config.py").write_text(CONFIG)
    broken = tmp_path / "run"
    words = ["pretrain", f"--config={tmp_path / 'config.py'}:{records}", "--workdir", str(broken)]
    cache = Path(os.environ["JAX_COMPILATION_CACHE_DIR"])
    killed = stress.live_and_end([*stress.noting(broken), *words], cache, broken, stress.SAVE, random.Random(0))
    assert killed.code == -signal.SIGKILL and "unfinished" in killed.left
    with toy.sigterm_at(broken, killed.last_line + 2):
        assert stress.run_noting_batches(stress.ids_file(broken), words) == EXIT_CODE
    assert stress.run_noting_batches(stress.ids_file(broken), words) == 0
    assert stress.differences(unbroken[0], broken) == []


def test_a_folder_of_another_run_is_refused_and_left_alone(unbroken, records, tmp_path):
    whole, config = unbroken
    other = tiny.config(records, **dataclasses.asdict(config.train))
    other.masking.ratio = 0.5
    with pytest.raises(runs.RunError, match=r"holds another run \(masking.ratio: 0.25 -> 0.5\)"):
        pretrain(other, whole, progress_bar=False)
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(runs.RunError, match="not empty"):
        pretrain(other, tmp_path, progress_bar=False)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    assert json.loads((whole / runs.CONFIG).read_text()) == json.loads(to_json(config))


@pytest.mark.slow
def test_a_run_whose_targets_come_from_a_copy_keeps_the_model_alone(parts, tmp_path):
    train_only = tiny.write_dataset(tmp_path / "records", [tiny.record(i, similarity=True) for i in range(5)], [])
    config = tiny.config(train_only, steps=2, save_every=1)
    config.masking = dataclasses.replace(config.masking, strategy="clip", unit="pooled", hide_at="input")
    config.objective.target_momentum = 0.5
    pretrain(config, tmp_path / "run", progress_bar=False)
    assert {name.split("/")[0].split(".")[0] for name in weights(tmp_path / "run")} == {*parts[1]}
    targets = json.loads((tmp_path / "run" / runs.TARGETS).read_text())
    assert (targets["split"], targets["unit"], targets["hide_at"]) == ("train", "pooled", "input")
    assert targets["targets"] == [pools // 4 for pools in targets["pools"]] and len(set(targets["window"])) == 5
    assert targets["hidden"] == [4 * count for count in targets["targets"]]
    assert all(0 < share < 1 for share in targets["boxes_cover"])
    # Its last checkpoint holds the copy, too: it goes on from there.
    shutil.rmtree(tmp_path / "run/checkpoints/2")
    before = weights(tmp_path / "run")
    pretrain(config, tmp_path / "run", progress_bar=False)
    after = weights(tmp_path / "run")
    assert all((before[name] == after[name]).all() for name in before)


def test_masks_follow_the_clip_and_not_its_place_in_the_batch(parts):
    _, _, objective, batch = parts
    key, step = run_keys(0)[1], jnp.zeros((), jnp.int32)
    hidden = jax.jit(lambda batch: objective.masks(batch, key, step).hidden)
    turned = jax.tree.map(lambda x: x[::-1], batch)
    np.testing.assert_array_equal(hidden(turned)[::-1], hidden(batch))


def test_static_masks_stay_and_fresh_masks_change(parts):
    config, _, objective, batch = parts
    batch, key = jax.tree.map(jnp.asarray, batch), run_keys(0)[1]
    fresh = dataclasses.replace(objective, masking=dataclasses.replace(config.masking, static=False))
    hidden, again = (jax.jit(lambda step, o=o: o.masks(batch, key, step).hidden) for o in (objective, fresh))
    np.testing.assert_array_equal(hidden(0), hidden(7))
    assert (again(0) != again(7)).any()
    np.testing.assert_array_equal(again(7), again(7))


def test_a_run_never_goes_on_with_other_records(unbroken, tmp_path):
    whole, config = unbroken
    before = (whole / runs.MODEL).read_bytes()
    other = tiny.write_dataset(tmp_path / "other", [tiny.record(i) for i in range(20, 32)], [tiny.record(40)])
    moved = tiny.config(other, **dataclasses.asdict(config.train))
    with pytest.raises(runs.RunError, match="no longer holds what the run"):
        pretrain(moved, whole, progress_bar=False)
    assert (whole / runs.MODEL).read_bytes() == before


def test_a_loss_that_is_no_number_stops_the_run(unbroken, records, tmp_path):
    silent = [dataclasses.replace(tiny.record(i), mel_scale=0.0) for i in range(8)]
    broken = tiny.write_dataset(tmp_path / "records", silent, [tiny.record(8)])
    with pytest.raises(runs.RunError, match=r"step 1 is no number .*clip.*lower --config.optimizer.learning_rate"):
        pretrain(tiny.config(broken), tmp_path / "run", progress_bar=False)
    assert not (tmp_path / "run" / runs.SUMMARY).exists()


@pytest.mark.parametrize("mask_padding", [False, True])
def test_empty_clips_that_fill_a_batch_change_no_metric(parts, mask_padding):
    config, params, objective, batch = parts
    masking = dataclasses.replace(config.masking, mask_padding=mask_padding)
    objective = dataclasses.replace(objective, masking=masking)
    few = jax.tree.map(lambda x: x[:2], batch)
    filled = jax.tree.map(lambda x: np.concatenate([x, np.zeros_like(x)]), few)
    key, step = run_keys(0)[1], jnp.zeros((), jnp.int32)
    draw = jax.jit(lambda batch: objective.draw(batch, key, step)[0])
    run = jax.jit(lambda batch: objective(params, batch, key, step)[1])
    alone, among = run(draw(few)), run(draw(filled))
    for name in alone:
        np.testing.assert_allclose(among[name], alone[name], rtol=1e-5)


def test_a_batch_that_the_devices_cannot_share_is_explained(records, tmp_path):
    with pytest.raises(ConfigError, match="make it a multiple of 8"):
        pretrain(tiny.config(records, batch_size=6), tmp_path / "run", progress_bar=False)
    assert not (tmp_path / "run").exists()


def test_training_stops_when_validation_no_longer_improves(tmp_path):
    ending = toy.run(tmp_path, toy.schedule(50, evaluate_every=1, save_every=50, patience=2), learning_rate=0.0)
    steps = [line["step"] for line in read_metrics(tmp_path / runs.METRICS) if line["split"] == "validation"]
    assert ending.stopped and steps == [1, 2, 3, 4]  # one that counts, then patience + 1 that do not


def test_progress_counts_evaluations_without_improvement():
    progress = Progress()
    assert progress.update(1, 5.0, 1e-4) and not progress.update(2, 5.0, 1e-4)
    assert not progress.update(3, 4.99995, 1e-4) and not progress.should_stop(2)
    assert not progress.update(4, 6.0, 1e-4) and progress.should_stop(2) and not progress.should_stop(0)
    assert progress.update(5, 4.0, 1e-4) and (progress.best_step, progress.best_loss) == (5, 4.0)


def maker(parts):
    """What makes examples of records for a model."""
    config, _, objective, _ = parts
    tokenizer = Tokenizer(config.data.tokenizer)
    return example_maker(config.data, config.masking, lambda label, part: 1.0, objective.model.config, tokenizer)


def test_evaluation_sees_every_record_once_on_any_number_of_hosts(records, parts):
    make = maker(parts)
    for hosts in (1, 2, 3):
        batches = [list(evaluation_batches(str(records), "validation", make, 2, h, hosts)) for h in range(hosts)]
        assert len({len(b) for b in batches}) == 1
        seen = [int(i) for b in batches for x in b for i, v in zip(x.id, x.frame_valid.any(axis=1), strict=True) if v]
        assert len(seen) == len(set(seen)) == 5


@pytest.mark.parametrize("batch_size", [1, 5, 24])
def test_any_batch_size_fits_any_number_of_records(records, parts, batch_size):
    make = maker(parts)
    iterator = training_batches(str(records), make, batch_size, 0, 2, 0, 1)
    seen = [int(x) for _ in range(120 // batch_size) for x in next(iterator).id]
    iterator.close()
    # Twelve records: every epoch sees each once.
    assert all(len(set(seen[i : i + 12])) == 12 for i in range(0, len(seen) // 12 * 12, 12))


def test_hosts_train_on_records_of_their_own(records, parts):
    make = maker(parts)
    seen = []
    for host in range(2):
        iterator = training_batches(str(records), make, 6, 0, 1, host, 2)
        seen.append(set(next(iterator).id.tolist()))
        iterator.close()
    assert len(seen[0]) == len(seen[1]) == 6 and not seen[0] & seen[1]
