"""A state, batches and a schedule in, a run's metrics, checkpoints and best parameters out. Knows not what it trains."""

import logging
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import grain.python as grain
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from tqdm import tqdm

from mmdiff.training.checkpoints import Checkpoints, Progress
from mmdiff.training.config import ConfigError, TrainConfig
from mmdiff.training.metrics import MetricLog, StepClock
from mmdiff.training.runs import RunError
from mmdiff.training.sharding import batch_sharding, parameter_sharding, put_batch
from mmdiff.training.train_step import Objective, TrainState, make_train_step

log_line = logging.getLogger(__name__)


class Position(NamedTuple):
    """Where a run is: at its start, or where its last checkpoint left it."""

    state: TrainState
    shardings: TrainState
    progress: Progress
    checkpoints: Checkpoints


class Ending(NamedTuple):
    """How a run ended. Its last parameters are where its state was; its best ones were given to `keep`."""

    step: int
    stopped: bool
    progress: Progress
    params: dict


def microbatch(train: TrainConfig, mesh: Mesh) -> int:
    """Examples that are on the devices at once. Raises ConfigError where the devices cannot share them."""
    micro = train.batch_size // train.accumulation
    if micro % mesh.size:
        raise ConfigError(
            f"train.batch_size={train.batch_size} in {train.accumulation} microbatches gives {micro} examples at once, "
            f"which {mesh.size} devices cannot share: make it a multiple of {mesh.size * train.accumulation}"
        )
    return micro


def open_position(
    workdir: Path,
    params: dict,
    optimizer: optax.GradientTransformation,
    batches: grain.DatasetIterator,
    mesh: Mesh,
) -> Position:
    """The state of the run in `workdir`, begun with `params` or restored; then `batches` moves to where it was."""

    def start(params) -> TrainState:
        return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))

    shapes = jax.eval_shape(start, params)
    shardings = parameter_sharding(mesh, shapes)
    checkpoints = Checkpoints(workdir / "checkpoints")
    if checkpoints.latest_step is None:
        state, progress = jax.jit(start, out_shardings=shardings)(params), Progress()
    else:
        state, progress = checkpoints.restore(shapes, shardings, batches)
        log_line.info("going on from step %d of %s", checkpoints.latest_step, workdir)
    return Position(state, shardings, progress, checkpoints)


def run_loop(
    position: Position,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    batches: grain.DatasetIterator,
    validation: Callable[[], Iterator[Any]] | None,
    train: TrainConfig,
    mesh: Mesh,
    key: jax.Array,
    workdir: Path,
    badness: Callable[[dict[str, float]], float],
    keep: Callable[[dict], None],
    title: str,
    progress_bar: bool = True,
) -> Ending:
    """Trains until `train.steps`, or until the validation metrics stop getting better.

    Args:
      position: where to begin; its state is given up to the first step.
      objective: (params, batch, key, step) -> (loss, metrics); `examples(batch)` says how many examples are real.
      optimizer: what `position` was opened with.
      batches: this host's share of the training batches, endless.
      validation: begins a pass over this host's share of the validation batches; None where there is no validation.
      train: the schedule, in steps.
      mesh: the devices.
      key: what the objective draws from.
      workdir: gets metrics.jsonl, tensorboard/ and checkpoints/.
      badness: what of the validation metrics should be as low as possible.
      keep: stores parameters: the best so far, or the last where there is no validation.
      title: of the progress bar.
      progress_bar: whether there is one.

    Raises RunError where the loss is no number any more.
    """
    state, shardings, progress, checkpoints = position
    train_step = jax.jit(
        make_train_step(objective, optimizer, train.accumulation, key),
        in_shardings=(shardings, batch_sharding(mesh)),
        out_shardings=(shardings, None),
        donate_argnums=0,
    )

    @jax.jit
    def evaluate_batch(params, batch):
        return objective(params, batch, key, jnp.zeros((), jnp.int32))[1], objective.examples(batch)

    def evaluate(params) -> dict[str, float]:
        return weighted_mean([evaluate_batch(params, put_batch(mesh, batch)) for batch in validation()])

    step = int(state.step)
    log = MetricLog(workdir, resumed_at=step)
    clock = StepClock(step, train.batch_size)
    stopped = progress.should_stop(train.patience)
    pending = None  # metrics of the step before: read only once the next one is under way
    with tqdm(total=train.steps, initial=step, desc=title, unit="step", disable=not progress_bar) as bar:
        while step < train.steps and not stopped:
            batch = put_batch(mesh, next(batches))
            if clock.flops_per_step is None:
                train_step = clock.compile(train_step, state, batch, train.accumulation)
            state, metrics = train_step(state, batch)
            step += 1
            bar.update()
            if pending:
                require_finite(log.write(*pending, clock.rates), step - 1)
            last = step == train.steps
            pending = (step, "train", metrics) if last or step % train.log_every == 0 else None
            if validation and (last or step % train.evaluate_every == 0):
                with clock.paused(state):
                    found = evaluate(state.params)
                require_finite(log.write(step, "validation", found), step)
                if progress.update(step, badness(found), train.min_improvement):
                    keep(jax.device_get(state.params))
                stopped = progress.should_stop(train.patience)
            if last or stopped or step % train.save_every == 0:
                if pending:  # no line may be behind the checkpoint: a killed run would never write it
                    require_finite(log.write(*pending, clock.rates), step)
                    pending = None
                checkpoints.save(state, batches, progress)
    if not validation:
        keep(jax.device_get(state.params))
    if stopped:
        log_line.info("stopped at step %d: no improvement since step %d", step, progress.best_step)
    checkpoints.close()
    batches.close()
    log.close()
    return Ending(step, stopped, progress, state.params)


def require_finite(metrics: dict[str, float], step: int) -> None:
    """Raises RunError where training has left the numbers: nothing after that means anything."""
    if not math.isfinite(metrics["loss"]):
        raise RunError(
            f"the loss at step {step} is {metrics['loss']}: start again with a lower --config.optimizer.learning_rate, or "
            "with --config.model.dtype=float32"
        )


def weighted_mean(batches: list[tuple[dict, jax.Array]]) -> dict[str, float]:
    """Metrics of batches as one, each batch counting by its examples."""
    total = sum(int(count) for _, count in batches)
    names = batches[0][0]
    return {name: sum(float(metrics[name]) * int(count) for metrics, count in batches) / total for name in names}
