"""Whole runs: they learn, they resume bit for bit, and any number of devices gives the same."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import tiny

from mmdiff.data.loader import evaluation_batches, training_batches
from mmdiff.data.tokenizer import Tokenizer
from mmdiff.models.reserve import MerlotReserve
from mmdiff.objectives.masked_video import MaskedVideo
from mmdiff.training import runs, sharding
from mmdiff.training.checkpoints import Progress
from mmdiff.training.config import ConfigError, to_json
from mmdiff.training.metrics import read_metrics
from mmdiff.training.optimizer import make_optimizer
from mmdiff.training.pretrain import example_maker, pretrain, run_keys
from mmdiff.training.sharding import batch_sharding, make_mesh, parameter_sharding, put_batch
from mmdiff.training.train_step import TrainState, make_train_step

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    train = [tiny.record(i, boxes=i % 4 > 0, audio=i % 3 > 0, similarity=True) for i in range(12)]
    validation = [tiny.record(i) for i in range(12, 17)]
    return tiny.write_dataset(tmp_path_factory.mktemp("records"), train, validation)


@pytest.fixture(scope="module")
def parts(records):
    """Configuration, model, objective and one batch of eight."""
    config = tiny.config(records)
    tokenizer = Tokenizer(config.data.tokenizer)
    sizes, params = runs.build_model(config.model, tokenizer, jax.random.key(0))
    make = example_maker(config.data, config.masking, lambda label, part: 1.0, sizes, tokenizer)
    iterator = training_batches(str(records), make, 8, 0, 1, 0, 1)
    batch = next(iterator)
    iterator.close()
    return config, params, MaskedVideo(MerlotReserve(sizes), config.masking, config.objective), batch


def weights(workdir: Path) -> dict[str, np.ndarray]:
    return safetensors.numpy.load_file(workdir / runs.MODEL)


def assert_same_weights(a: Path, b: Path) -> None:
    first, second = weights(a), weights(b)
    assert set(first) == set(second)
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


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


def test_a_run_killed_and_started_again_ends_with_the_same_bits(unbroken, tmp_path):
    whole, config = unbroken
    words = ["import sys, json", "import tiny", "from mmdiff.training.pretrain import pretrain"]
    words += [f"c = tiny.config(tiny.Path({config.data.records!r}), **{dataclasses.asdict(config.train)!r})"]
    words += [f"pretrain(c, {str(tmp_path / 'run')!r}, progress_bar=False)"]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "tests"), "JAX_DEFAULT_MATMUL_PRECISION": "highest"}
    metrics = tmp_path / "run" / runs.METRICS
    process = subprocess.Popen([sys.executable, "-c", "\n".join(words)], env=environment, cwd=ROOT)
    deadline = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < deadline:
        if any(line["step"] >= 8 for line in read_metrics(metrics)):
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.01)
    assert process.wait() == -signal.SIGKILL
    assert max(line["step"] for line in read_metrics(metrics)) < 24
    pretrain(config, tmp_path / "run", progress_bar=False)
    assert_same_weights(whole, tmp_path / "run")
    kept = {"step", "split", "loss", "hidden_patches", "gradient_norm"}
    again, before = (
        [{k: v for k, v in line.items() if k in kept} for line in read_metrics(folder / runs.METRICS)]
        for folder in (tmp_path / "run", whole)
    )
    assert again == before


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


def one_step(parts, devices: int, fsdp: int, accumulation: int = 1):
    """Parameters and metrics after one step on the first `devices` devices."""
    config, params, objective, batch = parts
    mesh = make_mesh(fsdp)
    if devices == 1:
        mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("data", "fsdp"))
    optimizer = make_optimizer(dataclasses.replace(config.optimizer, warmup_steps=0), 10)
    state = TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))
    shardings = parameter_sharding(mesh, jax.eval_shape(lambda: state))
    step = jax.jit(
        make_train_step(objective, optimizer, accumulation, run_keys(0)[1]),
        in_shardings=(shardings, batch_sharding(mesh)),
        out_shardings=(shardings, None),
    )
    state, metrics = step(jax.device_put(state, shardings), put_batch(mesh, batch))
    return jax.device_get(state.params), jax.device_get(metrics), state


@pytest.fixture(scope="module")
def on_one_device(parts):
    return one_step(parts, 1, 1)


@pytest.mark.parametrize("fsdp", [1, 4])
def test_eight_devices_equal_one(parts, on_one_device, fsdp, monkeypatch):
    monkeypatch.setattr(sharding, "SHARDED_FROM", 2**12)  # the tiny model has nothing larger
    params, metrics, state = one_step(parts, 8, fsdp)
    expected_params, expected, _ = on_one_device
    for name in expected:
        # Sums run in another order: float32 rounding, and gradients through many of them.
        np.testing.assert_allclose(metrics[name], expected[name], rtol=1e-5 if "loss" in name else 1e-3)
    for name in ("hidden_patches", "hidden_pools", "hidden_inside_person"):
        assert metrics[name] == expected[name]
    # Adam's first step moves every weight by the learning rate, 1e-3, up or down; a sign may flip where a gradient
    # is zero but for rounding.
    flat, wanted = (np.concatenate([x.ravel() for x in jax.tree.leaves(tree)]) for tree in (params, expected_params))
    assert (np.abs(flat - wanted) > 1e-5).mean() < 1e-3
    split = [x for x in jax.tree.leaves((state.params, state.opt_state)) if "fsdp" in str(x.sharding.spec)]
    assert bool(split) == (fsdp > 1)
    assert all(x.addressable_shards[0].data.size * fsdp == x.size for x in split)


@pytest.mark.parametrize(("strategy", "unit"), [("difference", "patch"), ("attn", "pooled"), ("clip", "pooled")])
def test_eight_devices_give_the_masks_of_one(parts, strategy, unit):
    _, params, objective, batch = parts
    masking = dataclasses.replace(objective.masking, strategy=strategy, unit=unit)
    masks = jax.jit(dataclasses.replace(objective, masking=masking).masks)
    key, step = run_keys(0)[1], jnp.zeros((), jnp.int32)
    one = masks(jax.tree.map(jnp.asarray, batch), key, step, params)
    eight = masks(put_batch(make_mesh(2), batch), key, step, params)
    np.testing.assert_array_equal(one.hidden, eight.hidden)


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


def test_microbatches_average_their_gradients(parts):
    _, params, objective, batch = parts
    _, metrics, _ = one_step(parts, 8, 1, accumulation=1)
    _, accumulated, _ = one_step(parts, 1, 1, accumulation=2)
    halves = [jax.tree.map(lambda x, i=i: jnp.asarray(x[i::2]), batch) for i in range(2)]
    loss = jax.jit(lambda half: objective(params, half, run_keys(0)[1], jnp.zeros((), jnp.int32))[0])
    losses = [loss(half) for half in halves]
    np.testing.assert_allclose(accumulated["loss"], np.mean(losses), rtol=1e-5)
    # Fewer negatives each: an easier task.
    assert accumulated["loss"] < metrics["loss"]


def test_a_run_never_goes_on_with_other_records(unbroken, records, tmp_path):
    whole, config = unbroken
    before = (whole / runs.MODEL).read_bytes()
    other = tiny.write_dataset(tmp_path / "other", [tiny.record(i) for i in range(20, 32)], [tiny.record(40)])
    moved = tiny.config(other, **dataclasses.asdict(config.train))
    with pytest.raises(runs.RunError, match="no longer holds the records"):
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
