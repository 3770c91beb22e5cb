"""What a run says of itself while it goes on, and what it leaves where it cannot."""

import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
import toy

from mmdiff.data.loader import stack
from mmdiff.data.window_names import window_names
from mmdiff.masking.strategies import with_strategy
from mmdiff.reports.replay import replay
from mmdiff.training import nonfinite, runs
from mmdiff.training.config import to_json
from mmdiff.training.loop import Watch, weighted_mean
from mmdiff.training.metrics import read_metrics
from mmdiff.training.pretrain import run_keys
from mmdiff.training.runs import RunError, require_place
from mmdiff.training.trackers import TrackerError
from mmdiff.training.train_step import first_state, make_train_step, update_size

BROKEN_STEP = 7
BROKEN = toy.BATCH * (BROKEN_STEP - 1) + 3  # a point of that step's batch


@pytest.mark.parametrize("log_every", [1, 5])
def test_a_number_that_is_none_stops_the_run_and_leaves_the_step_and_the_parameters_before_it(tmp_path, log_every):
    broken, good = tmp_path / "broken", tmp_path / "good"
    with pytest.raises(RunError, match=f"step {BROKEN_STEP} is no number .*point {BROKEN};.*mmdiff replay") as raised:
        toy.run(broken, toy.schedule(20, log_every=log_every), toy.endless(BROKEN))
    assert "\n" not in str(raised.value)
    ending = toy.run(good, toy.schedule(BROKEN_STEP - 1))
    dump = nonfinite.read_dump(broken)
    assert dump.step == BROKEN_STEP
    for name, array in ending.params.items():
        np.testing.assert_array_equal(dump.params[name], array, err_msg=name)
    first = toy.BATCH * (BROKEN_STEP - 1)
    np.testing.assert_array_equal(dump.arrays["id"], np.arange(first, first + toy.BATCH))
    assert np.isnan(dump.arrays["x"][3]).all() and np.isfinite(np.delete(dump.arrays["x"], 3, axis=0)).all()
    assert max(line["step"] for line in read_metrics(broken / "metrics.jsonl")) < BROKEN_STEP
    # What was saved, at its best evaluation, is from before it: the same command comes to the same place.
    assert max(int(path.name) for path in (broken / "checkpoints").iterdir()) == 6
    with pytest.raises(RunError, match=f"step {BROKEN_STEP} is no number"):
        toy.run(broken, toy.schedule(20, log_every=log_every), toy.endless(BROKEN))


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """The folder of a run of the tiny model whose second clip of a batch has sound of no loudness."""
    folder = tmp_path_factory.mktemp("stopped")
    records = tiny.write_dataset(folder / "records", [tiny.record(i) for i in range(4)], [])
    config = tiny.config(records, batch_size=4)
    config.masking = with_strategy(config.masking, "random")
    _, params, batch = tiny.first_batch(config, 4)
    batch.mel_scale[1] = 0.0
    run = folder / "run"
    run.mkdir()
    (run / runs.CONFIG).write_text(to_json(config))
    names = window_names(str(records), batch)
    key = run_keys(0)[1]
    nonfinite.write_dump(run, nonfinite.Dump(3, nonfinite.arrays_of(batch), jax.device_get(params), key, names))
    return run, names


def test_replay_names_the_example_the_metrics_and_the_parameters_whose_gradient_is_none(stopped):
    run, names = stopped
    assert all(name.startswith("clip") and name.endswith(", window 0") for name in names) and len(set(names)) == 4
    found = replay(run)
    assert found.step == 3 and np.isnan(found.loss) and found.examples == [names[1]] and found.params == []
    assert "loss" in found.metrics and "hidden_patches" not in found.metrics
    assert any(name.startswith("audio_encoder/") for name in found.gradients)
    assert f"by themselves: {names[1]} (of 4)" in found.describe()


def test_replay_of_a_run_that_stopped_at_nothing_says_so(stopped, tmp_path):
    with pytest.raises(RunError, match="is not the folder of a run"):
        replay(tmp_path)
    (tmp_path / runs.CONFIG).write_text((stopped[0] / runs.CONFIG).read_text())
    with pytest.raises(RunError, match="holds no nonfinite/step_N"):
        replay(tmp_path)
    folder = tmp_path / nonfinite.FOLDER / "step_3"
    folder.mkdir(parents=True)
    (folder / nonfinite.STEP).write_text('{"step": 3}')
    for batch in (b"", b"PK\x03\x04 cut short"):
        (folder / nonfinite.BATCH).write_bytes(batch)
        with pytest.raises(RunError, match="cannot be read"):
            replay(tmp_path)


def test_every_line_says_how_the_run_does(tmp_path):
    toy.run(tmp_path, toy.schedule(8), toy.endless(seconds=0.2))
    found = [line for line in read_metrics(tmp_path / "metrics.jsonl") if line["split"] == "train"]
    assert [line["step"] for line in found] == [2, 4, 6, 8]
    for line in found:
        assert {"loss", "gradient_norm", "update_norm", "update_ratio", "mfu", "examples_per_second"} <= set(line)
        assert 0 <= line["input_wait"] <= 1 and "finite" not in line
        assert line["hours_left"] == pytest.approx((8 - line["step"]) * line["seconds_per_step"] / 3600)
        assert line["examples_per_second"] == pytest.approx(toy.BATCH / line["seconds_per_step"])
    assert max(line["input_wait"] for line in found) > 0.5  # its batches are slow and its model is nothing


def test_validation_counts_a_batch_by_its_examples():
    batches = [({"loss": jnp.asarray(loss)}, jnp.asarray(count)) for loss, count in ((1.0, 6), (5.0, 2), (9.0, 0))]
    assert weighted_mean(batches) == {"loss": 2.0}
    # Places of a loss weigh less or more than 1.
    batches = [({"loss": jnp.asarray(loss)}, jnp.asarray(weight)) for loss, weight in ((1.0, 0.75), (5.0, 0.25))]
    assert weighted_mean(batches) == {"loss": 2.0}


def test_a_profile_holds_a_trace_of_the_steps_asked_for(tmp_path):
    toy.run(tmp_path, toy.schedule(8), watch=Watch(profile=2))
    (trace,) = (tmp_path / "profile").rglob("*.xplane.pb")
    assert trace.stat().st_size > 1000
    toy.run(tmp_path / "short", toy.schedule(4), watch=Watch(profile=50))  # ends with the run
    assert list((tmp_path / "short/profile").rglob("*.xplane.pb"))


def test_tensorboard_reads_what_was_written(tmp_path):
    from tensorboardX.proto.event_pb2 import Event

    toy.run(tmp_path, toy.schedule(4))
    (file,) = (tmp_path / "tensorboard").iterdir()
    data, events = file.read_bytes(), []
    while data:
        length = int.from_bytes(data[:8], "little")
        events.append(Event.FromString(data[12 : 12 + length]))
        data = data[16 + length :]
    assert events[0].file_version == "brain.Event:2" and events[1].step == 1
    losses = {e.step: v.simple_value for e in events for v in e.summary.value if v.tag == "train/loss"}
    lines = [line for line in read_metrics(tmp_path / "metrics.jsonl") if line["split"] == "train"]
    assert losses == {line["step"]: pytest.approx(line["loss"]) for line in lines}


def test_wandb_gets_every_line_and_a_resumed_run_goes_on_under_its_id(tmp_path, monkeypatch):
    begun, logged = [], []

    class FakeRun:
        def define_metric(self, name, step_metric):
            assert (name, step_metric) == ("*", "step")

        def log(self, line):
            logged.append(line)

        def finish(self):
            logged.append("finished")

    fake = types.ModuleType("wandb", "what of wandb is used")
    fake.__spec__ = types.SimpleNamespace()
    fake.init = lambda **given: begun.append(given) or FakeRun()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for steps in (4, 8):
        toy.run(tmp_path, toy.schedule(steps), watch=Watch(wandb="mine"))
    assert [run["project"] for run in begun] == ["mine", "mine"] and begun[0]["id"] == begun[1]["id"]
    assert begun[0]["resume"] == "allow" and logged.count("finished") == 2
    lines = read_metrics(tmp_path / "metrics.jsonl")
    told = [(line["step"], line["train/loss"]) for line in logged if "train/loss" in line]
    assert told == [(line["step"], line["loss"]) for line in lines if line["split"] == "train"]

    def refuse(**_):
        raise ValueError("No API key configured.")

    fake.init, fake.errors = refuse, types.SimpleNamespace(Error=ValueError)
    with pytest.raises(TrackerError, match="No API key configured.: see `wandb login`"):
        toy.run(tmp_path, toy.schedule(12), watch=Watch(wandb="mine"))


def test_wandb_that_is_not_installed_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(TrackerError, match="pip install wandb"):
        toy.run(tmp_path, toy.schedule(4), watch=Watch(wandb="mine"))


def test_a_folder_where_nothing_is_mounted_is_refused(tmp_path, monkeypatch):
    mounts = tmp_path / "mnt"
    (mounts / "bucket").mkdir(parents=True)
    monkeypatch.setattr(runs, "MOUNTS", (mounts,))
    for place in ("bucket/run", "another/run"):
        with pytest.raises(RunError, match="nothing is mounted for"):
            require_place(mounts / place)
    (mounts / "bucket" / "file").touch()  # somebody uses it as a folder
    require_place(mounts / "bucket/run")
    require_place(tmp_path / "elsewhere" / "run")


def test_a_folder_that_cannot_be_written_in_is_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="cannot write in .*: make room or mend it|is not a folder"):
        runs.claim(tmp_path / "file" / "run", tiny.config(tmp_path), b"", "digest", "records")


@pytest.mark.parametrize("branch", [True, False])
def test_a_step_without_a_number_changes_nothing_and_another_is_adams(branch):
    optimizer = optax.adam(0.05)
    params = {"slope": jnp.ones(4), "offset": jnp.zeros(())}
    start = first_state(params, optimizer)
    batch, key = stack([toy.point(i) for i in range(toy.BATCH)]), jax.random.key(0)
    step = jax.jit(make_train_step(toy.Line(), optimizer, 1, branch=branch))
    moved, metrics = step(start, batch, key)
    # Adam's first step is the learning rate in each place, whatever the gradient.
    assert bool(metrics["finite"]) and int(moved.step) == 1
    np.testing.assert_allclose(jnp.abs(moved.params["slope"] - 1), 0.05, rtol=1e-3)
    size = update_size(params, moved.params)
    assert float(size["update_norm"]) == pytest.approx(0.05 * np.sqrt(5), rel=1e-3)
    assert float(size["update_ratio"]) == pytest.approx(0.05 * np.sqrt(5) / 2, rel=1e-3)
    broken, metrics = step(moved, batch._replace(x=batch.x * np.float32(np.nan)), key)
    assert not metrics["finite"] and int(broken.step) == 1
    jax.tree.map(np.testing.assert_array_equal, (broken.params, broken.opt_state), (moved.params, moved.opt_state))
    after, _ = step(broken, batch, key)  # nor does any step behind it
    jax.tree.map(np.testing.assert_array_equal, after, broken)
