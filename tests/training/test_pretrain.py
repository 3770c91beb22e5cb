"""Whole runs: they learn, they resume bit for bit, and any number of devices gives the same."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import tiny

from mmdiff.data.loader import evaluation_batches, training_batches
from mmdiff.data.tokenizer import Tokenizer
from mmdiff.training import runs
from mmdiff.training.checkpoints import Progress
from mmdiff.training.config import ConfigError, to_json
from mmdiff.training.metrics import read_metrics
from mmdiff.training.pretrain import example_maker, pretrain, run_keys


def weights(workdir: Path) -> dict[str, np.ndarray]:
    return safetensors.numpy.load_file(workdir / runs.MODEL)


@pytest.fixture(scope="module")
def unbroken(records, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("unbroken") / "run"
    config = tiny.config(records, steps=24, log_every=1, evaluate_every=8, save_every=6)
    return pretrain(config, workdir, progress_bar=False), config


def test_loss_falls_and_every_line_says_what_was_hidden(unbroken):
    lines = [line for line in read_metrics(unbroken[0] / runs.METRICS) if line["split"] == "train"]
    assert [line["step"] for line in lines] == list(range(1, 25))
    start, end = (np.mean([line["loss"] for line in part]) for part in (lines[:3], lines[-3:]))
    assert end < 0.8 * start
    for line in lines:
        assert {"hidden_patches", "hidden_pools", "hidden_inside_person", "mfu", "examples_per_second"} <= set(line)
        assert 0 < line["hidden_patches"] <= 0.25 * 2 * 24


def test_a_finished_run_started_again_changes_nothing(unbroken):
    whole, config = unbroken
    before = (whole / runs.MODEL).read_bytes(), (whole / runs.METRICS).read_bytes()
    pretrain(config, whole, progress_bar=False)
    assert before == ((whole / runs.MODEL).read_bytes(), (whole / runs.METRICS).read_bytes())


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


def test_a_run_whose_targets_come_from_a_copy_keeps_the_model_alone(records, tmp_path):
    config = tiny.config(records, steps=2, save_every=1, evaluate_every=2)
    config.masking = dataclasses.replace(config.masking, strategy="clip", unit="pooled", hide_at="input")
    config.objective.target_momentum = 0.5
    pretrain(config, tmp_path / "run", progress_bar=False)
    assert {name.split("/")[0].split(".")[0] for name in weights(tmp_path / "run")} == {*parts_of_the_model(config)}
    targets = json.loads((tmp_path / "run" / runs.TARGETS).read_text())
    assert (targets["split"], targets["unit"], targets["hide_at"]) == ("validation", "pooled", "input")
    assert targets["targets"] == [pools // 4 for pools in targets["pools"]] and len(set(targets["window"])) == 5
    assert targets["hidden"] == [4 * count for count in targets["targets"]]
    assert all(0 < share < 1 for share in targets["boxes_cover"])
    # Its last checkpoint holds the copy, too: it goes on from there.
    shutil.rmtree(tmp_path / "run/checkpoints/2")
    before = weights(tmp_path / "run")
    pretrain(config, tmp_path / "run", progress_bar=False)
    after = weights(tmp_path / "run")
    assert all((before[name] == after[name]).all() for name in before)


def parts_of_the_model(config) -> dict:
    return runs.build_model(config.model, Tokenizer(config.data.tokenizer), jax.random.key(0))[1]


def test_masks_follow_the_clip_and_not_its_place_in_the_batch(parts):
    _, _, objective, batch = parts
    key, step = run_keys(0)[1], jnp.zeros((), jnp.int32)
    turned = jax.tree.map(lambda x: jnp.asarray(x[::-1]), batch)
    straight = objective.masks(jax.tree.map(jnp.asarray, batch), key, step).hidden
    np.testing.assert_array_equal(objective.masks(turned, key, step).hidden[::-1], straight)


def test_static_masks_stay_and_fresh_masks_change(parts):
    config, _, objective, batch = parts
    batch, key = jax.tree.map(jnp.asarray, batch), run_keys(0)[1]
    fresh = dataclasses.replace(objective, masking=dataclasses.replace(config.masking, static=False))

    def hidden(objective, step):
        return np.asarray(objective.masks(batch, key, jnp.asarray(step)).hidden)

    np.testing.assert_array_equal(hidden(objective, 0), hidden(objective, 7))
    assert (hidden(fresh, 0) != hidden(fresh, 7)).any()
    np.testing.assert_array_equal(hidden(fresh, 7), hidden(fresh, 7))


def test_a_run_never_goes_on_with_other_records(unbroken, records, tmp_path):
    whole, config = unbroken
    before = (whole / runs.MODEL).read_bytes()
    other = tiny.write_dataset(tmp_path / "other", [tiny.record(i) for i in range(20, 32)], [tiny.record(40)])
    moved = tiny.config(other, **dataclasses.asdict(config.train))
    with pytest.raises(runs.RunError, match="no longer holds what the run"):
        pretrain(moved, whole, progress_bar=False)
    assert (whole / runs.MODEL).read_bytes() == before
    # The same records in another place are the same records.
    shutil.copytree(records, tmp_path / "copy")
    pretrain(tiny.config(tmp_path / "copy", **dataclasses.asdict(config.train)), whole, progress_bar=False)


def test_a_run_killed_while_it_claims_its_folder_goes_on(records, tmp_path):
    config = tiny.config(records, steps=1)
    config.optimizer.warmup_steps = 0
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json.unfinished").write_text("{")
    pretrain(config, tmp_path / "run", progress_bar=False)
    assert json.loads((tmp_path / "run" / runs.SUMMARY).read_text())["step"] == 1


def test_a_loss_that_is_no_number_stops_the_run(records, tmp_path):
    config = tiny.config(records, steps=20, log_every=1)
    config.optimizer.learning_rate, config.optimizer.warmup_steps = 1e30, 0
    with pytest.raises(runs.RunError, match="lower --config.optimizer.learning_rate"):
        pretrain(config, tmp_path / "run", progress_bar=False)
    assert not (tmp_path / "run" / runs.SUMMARY).exists()


@pytest.mark.parametrize("mask_padding", [False, True])
def test_empty_clips_that_fill_a_batch_change_no_metric(parts, mask_padding):
    config, params, objective, batch = parts
    masking = dataclasses.replace(config.masking, mask_padding=mask_padding)
    objective = dataclasses.replace(objective, masking=masking)
    few = jax.tree.map(lambda x: jnp.asarray(x[:2]), batch)
    filled = jax.tree.map(lambda x: jnp.concatenate([x, jnp.zeros_like(x)]), few)
    run = jax.jit(lambda batch: objective(params, batch, run_keys(0)[1], jnp.zeros((), jnp.int32))[1])
    alone, among = run(few), run(filled)
    for name in alone:
        np.testing.assert_allclose(among[name], alone[name], rtol=1e-5)


def test_a_batch_that_the_devices_cannot_share_is_explained(records, tmp_path):
    with pytest.raises(ConfigError, match="make it a multiple of 8"):
        pretrain(tiny.config(records, batch_size=6), tmp_path / "run", progress_bar=False)
    assert not (tmp_path / "run").exists()


def test_training_stops_when_validation_no_longer_improves(records, tmp_path):
    config = tiny.config(records, steps=50, evaluate_every=1, save_every=50, patience=2)
    config.optimizer.learning_rate = 0.0
    pretrain(config, tmp_path / "run", progress_bar=False)
    steps = [line["step"] for line in read_metrics(tmp_path / "run" / runs.METRICS) if line["split"] == "validation"]
    assert steps == [1, 2, 3, 4]  # one that counts, then patience + 1 that do not


def test_progress_counts_evaluations_without_improvement():
    progress = Progress()
    assert progress.update(1, 5.0, 1e-4) and not progress.update(2, 5.0, 1e-4)
    assert not progress.update(3, 4.99995, 1e-4) and not progress.should_stop(2)
    assert not progress.update(4, 6.0, 1e-4) and progress.should_stop(2) and not progress.should_stop(0)
    assert progress.update(5, 4.0, 1e-4) and (progress.best_step, progress.best_loss) == (5, 4.0)


def test_evaluation_sees_every_record_once_on_any_number_of_hosts(records, parts):
    config = parts[0]
    tokenizer = Tokenizer(config.data.tokenizer)
    sizes, _ = runs.build_model(config.model, tokenizer, jax.random.key(0))
    make = example_maker(config.data, config.masking, lambda label, part: 1.0, sizes, tokenizer)
    for hosts in (1, 2, 3):
        batches = [list(evaluation_batches(str(records), "validation", make, 2, h, hosts)) for h in range(hosts)]
        assert len({len(b) for b in batches}) == 1
        seen = [int(i) for b in batches for x in b for i, v in zip(x.id, x.frame_valid.any(axis=1), strict=True) if v]
        assert len(seen) == len(set(seen)) == 5


@pytest.mark.parametrize("batch_size", [1, 5, 24])
def test_any_batch_size_fits_any_number_of_records(records, parts, batch_size):
    config = parts[0]
    tokenizer = Tokenizer(config.data.tokenizer)
    sizes, _ = runs.build_model(config.model, tokenizer, jax.random.key(0))
    make = example_maker(config.data, config.masking, lambda label, part: 1.0, sizes, tokenizer)
    iterator = training_batches(str(records), make, batch_size, 0, 2, 0, 1)
    seen = [int(x) for _ in range(120 // batch_size) for x in next(iterator).id]
    iterator.close()
    # Twelve records: every epoch sees each once.
    assert all(len(set(seen[i : i + 12])) == 12 for i in range(0, len(seen) // 12 * 12, 12))


def test_hosts_train_on_records_of_their_own(records, parts):
    config = parts[0]
    tokenizer = Tokenizer(config.data.tokenizer)
    sizes, _ = runs.build_model(config.model, tokenizer, jax.random.key(0))
    make = example_maker(config.data, config.masking, lambda label, part: 1.0, sizes, tokenizer)
    seen = []
    for host in range(2):
        iterator = training_batches(str(records), make, 6, 0, 1, host, 2)
        seen.append(set(next(iterator).id.tolist()))
        iterator.close()
    assert len(seen[0]) == len(seen[1]) == 6 and not seen[0] & seen[1]
