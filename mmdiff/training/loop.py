"""A state, batches and a schedule in, a run's metrics, checkpoints and best parameters out. Knows not what it trains."""

import contextlib
import dataclasses
import functools
import logging
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from tqdm import tqdm

from mmdiff.data.loader import Batches
from mmdiff.training import hosts, nonfinite, runs
from mmdiff.training.checkpoints import Checkpoints, Progress
from mmdiff.training.config import ConfigError, TrainConfig
from mmdiff.training.full_disk import full_disk_explained
from mmdiff.training.interruption import Notice, Preempted
from mmdiff.training.metrics import MetricLog, StepClock
from mmdiff.training.profile import Profile
from mmdiff.training.runs import RunError
from mmdiff.training.sharding import put_batch, put_key, state_sharding, used_whole
from mmdiff.training.state import TrainState
from mmdiff.training.trackers import TensorBoard, Tracker, WeightsAndBiases
from mmdiff.training.train_step import Draw, Objective, first_state, jit_train_step, step_flops, update_size

NAMED = 8  # examples that one sentence names; a dump names all

log_line = logging.getLogger(__name__)


class Position(NamedTuple):
    """Where a run is: at its start, or where its last checkpoint left it."""

    state: TrainState
    shardings: TrainState
    progress: Progress
    checkpoints: Checkpoints


class Training(NamedTuple):
    """What a run trains, and on what.

    `objective` gives (params, batch, key, step) -> (loss, metrics), and `optimizer` is what the position was opened with.
    `batches` is this host's share of the training batches; `validation` begins a pass over its share of the validation
    ones, and is None where there are none. `badness` of the validation metrics should be as low as possible; `keep` stores
    parameters on the first host: the best so far, or the last where there is no validation. `names` of the examples of a
    batch are asked for when something went wrong.
    """

    objective: Objective
    optimizer: optax.GradientTransformation
    batches: Batches
    validation: Callable[[], Iterator[Any]] | None
    key: jax.Array  # that the objective draws from
    badness: Callable[[dict[str, float]], float]
    keep: Callable[[dict], None]
    names: Callable[[Any], list[str]]
    title: str  # of the progress bar
    draw: Draw | None = None  # what of a step needs no parameters; None: batches are given as they come
    measured: Objective | None = None  # what validation measures, where that is not the objective: it without dropout
    replayable: bool = False  # `mmdiff replay` can take a step of it again
    # What validation batches gave, each with what it weighs, as one; None: by weighted means.
    combine: Callable[[list[tuple[dict, jax.Array]]], dict[str, float]] | None = None


@dataclasses.dataclass(frozen=True)
class Watch:
    """How a run is looked at while it goes on; nothing of it changes what is trained."""

    profile: int = 0  # steps of which a trace is written to the run's `profile`
    wandb: str = ""  # project there


UNWATCHED = Watch()


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
        parts = (
            f" in {train.accumulation} parts gives {micro} examples at once"
            if train.accumulation > 1
            else " is a number"
        )
        raise ConfigError(
            f"train.batch_size={train.batch_size}{parts} that {mesh.size} devices cannot share: make it a multiple of "
            f"{mesh.size * train.accumulation}"
        )
    return micro


def open_position(
    workdir: Path,
    params: dict,
    optimizer: optax.GradientTransformation,
    batches: Batches,
    mesh: Mesh,
) -> Position:
    """The state of the run in `workdir`, begun with `params` or restored; then `batches` moves to where it was.

    Raises CheckpointError where no checkpoint is whole, or the last is of another model.
    """

    start = functools.partial(first_state, optimizer=optimizer)
    shapes = jax.eval_shape(start, params)
    shardings = state_sharding(mesh, shapes)
    with full_disk_explained(workdir):
        checkpoints = Checkpoints(workdir / "checkpoints")
    if checkpoints.latest_step is None:
        state, progress = jax.jit(start, out_shardings=shardings)(params), Progress()
    else:
        state, progress = checkpoints.restore(shapes, shardings)
        log_line.info("going on from step %d of %s", checkpoints.latest_step, workdir)
    batches.go_to(int(state.step))
    return Position(state, shardings, progress, checkpoints)


def run_loop(
    position: Position,
    training: Training,
    train: TrainConfig,
    mesh: Mesh,
    workdir: Path,
    watch: Watch = UNWATCHED,
    progress_bar: bool = True,
) -> Ending:
    """Trains until `train.steps`, or until the validation metrics stop getting better.

    Args:
      position: where to begin; its state is given up to the first step.
      training: what is trained, on what.
      train: the schedule, in steps.
      mesh: the devices.
      workdir: gets metrics.jsonl, tensorboard/, checkpoints/ and what `watch` asks for.
      watch: what else is shown meanwhile.
      progress_bar: whether there is one.

    Raises Preempted, once all is saved, where SIGTERM asked the run to stop; RunError where training has left the numbers
    or a disk is full; TrackerError.
    """
    with full_disk_explained(workdir), Run(position, training, train, mesh, workdir, watch, progress_bar) as run:
        run.begin()
        while run.goes_on():
            run.step()
            if run.due(train.evaluate_every):
                run.evaluate()
            if run.due(train.save_every):
                run.save()
        return run.end()


class Run:
    """A run between its beginning and its end, and what one step, evaluation and save of it are."""

    def __init__(
        self,
        position: Position,
        training: Training,
        train: TrainConfig,
        mesh: Mesh,
        workdir: Path,
        watch: Watch,
        progress_bar: bool,
    ):
        self._training, self._train, self._mesh, self._workdir = training, train, mesh, workdir
        self._watch, self._progress_bar = watch, progress_bar
        self._state, self._shardings, self._progress, self._checkpoints = position
        self._step = int(self._state.step)  # of the host; the devices are behind it
        self._compiled = {}  # the step, by the shapes of its batch: texts of different lengths
        self._metrics = None  # of the last step, still on the devices
        self._unwritten = None  # step and metrics of a line: read only once the next step is under way
        self._notice = Notice()
        self._stack = contextlib.ExitStack()

        self._key = put_key(mesh, training.key)

        measured = training.measured or training.objective

        def look(params, batch, key):
            drawn = batch, key, jnp.zeros((), jnp.int32)
            return measured(used_whole(mesh, params), *drawn)[1], measured.examples(*drawn)

        self._look = jax.jit(look)
        self._copy = jax.jit(functools.partial(jax.tree.map, jnp.copy), out_shardings=self._shardings.params)
        self._update_size = jax.jit(update_size)

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            stack.callback(self._training.batches.close)
            stack.enter_context(self._notice)
            self._log = MetricLog(self._workdir, self._step, self._progress.evaluated_step, self._trackers())
            stack.callback(self._log.close)
            self._profile = Profile(self._workdir / "profile", self._step, self._watch.profile)
            stack.callback(self._profile.close)
            self._bar = stack.enter_context(
                tqdm(
                    total=self._train.steps,
                    initial=self._step,
                    desc=self._training.title,
                    unit="step",
                    disable=not self._progress_bar,
                )
            )
            self._clock = StepClock(self._step, self._train.steps, self._train.batch_size)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind, error, trace) -> None:
        if kind is not None and jax.process_count() == 1:
            # What went wrong first is said. The end of the process would cut off a save that is under way, with a traceback.
            with contextlib.suppress(Exception):
                self._checkpoints.wait()
        self._stack.__exit__(kind, error, trace)

    def begin(self) -> None:
        """Makes up for what a stop came between: keeping the best parameters, or an evaluation."""
        evaluations = -(-self._train.steps // self._train.evaluate_every) if self._training.validation else 0
        if self._train.patience and 0 < evaluations <= self._train.patience + 2:
            log_line.warning(
                "train.patience=%d never stops this run early: it has %d evaluations (train.steps=%d, evaluate_every=%d)",
                self._train.patience, evaluations, self._train.steps, self._train.evaluate_every,
            )  # fmt: skip
        if self._training.validation is not None and self._step > 0 and self._progress.best_step == self._step:
            self._keep()
        if self._owes_evaluation():
            self.evaluate()

    def goes_on(self) -> bool:
        """Whether there is another step to take."""
        ended = self._step == self._train.steps or self._progress.should_stop(self._train.patience)
        return not ended and not self._notice.given(self._step)

    def due(self, every: int, step: int | None = None) -> bool:
        """Whether something that is done every so many steps, and at the end, is to be done now, or behind `step`."""
        step = self._step if step is None else step
        return step % every == 0 or step == self._train.steps

    def step(self) -> None:
        """One step of training, under way when this returns."""
        with self._clock.waiting():
            placed = put_batch(self._mesh, next(self._training.batches))
        batch, drawn_metrics = self._drawn(placed, self._step)
        shapes = tuple(x.shape for x in jax.tree.leaves(batch))
        if shapes not in self._compiled:
            self._compiled[shapes] = self._compile(batch)
        compiled, flops = self._compiled[shapes]
        self._profile.before(self._step, self._state)
        logged = self.due(self._train.log_every, self._step + 1)
        before = self._copy(self._state.params) if logged else None  # the step is given the parameters' own buffers
        self._state, metrics = compiled(self._state, batch, self._key)
        self._metrics = metrics | drawn_metrics
        self._step += 1
        self._bar.update()
        self._write_line()
        self._clock.began(flops)  # after the line of an earlier step, which knows nothing of this one
        if logged:
            self._unwritten = self._step, self._metrics | self._update_size(before, self._state.params)
        self._checkpoints.check()

    def evaluate(self) -> None:
        """The validation metrics of the parameters as they are; the best so far are kept. Nothing where a stop comes in."""
        if self._training.validation is None:
            return
        self._write_line()
        self._require_finite(self._metrics)
        with self._clock.paused(self._state):
            looked = []
            for batch in self._training.validation():
                batch, drawn_metrics = self._drawn(put_batch(self._mesh, batch), 0)
                metrics, weight = self._look(self._state.params, batch, self._key)
                looked.append((metrics | drawn_metrics, weight))
                if self._notice.here:
                    return
            found = (self._training.combine or weighted_mean)(looked)
            self._log.write(self._step, "validation", found)
            if not math.isfinite(found["loss"]):
                raise RunError(
                    f"the validation loss at step {self._step} is {found['loss']}, while that of training is a number: see "
                    "what the validation records hold that the others do not"
                )
            if self._progress.update(self._step, self._training.badness(found), self._train.min_improvement):
                # The checkpoint first: parameters of a step that a kill then loses must not stay as the best ones.
                self.save()
                self._checkpoints.wait()
                self._keep()

    def save(self) -> None:
        """Begins to write a checkpoint, if any step was taken."""
        if self._metrics is None:
            return
        self._write_line()  # no line may be behind the checkpoint: a killed run would never write it
        self._require_finite(self._metrics)
        self._log.sync()
        self._checkpoints.save(self._step, self._state, self._progress)

    def end(self) -> Ending:
        """Saves what is not saved. Raises Preempted where there is more to do."""
        stopped = self._progress.should_stop(self._train.patience)
        self.save()
        self._checkpoints.close()
        if self._owes_evaluation() or (self._step < self._train.steps and not stopped):
            raise Preempted
        if self._training.validation is None:
            self._keep()
        if stopped:
            log_line.info("stopped at step %d: no improvement since step %d", self._step, self._progress.best_step)
        return Ending(self._step, stopped, self._progress, self._state.params)

    def _drawn(self, batch, step: int) -> tuple[Any, dict[str, jax.Array]]:
        """A placed batch as the objective is given it at a step, and metrics of it."""
        draw = self._training.draw
        return draw(batch, self._key, np.int32(step)) if draw else (batch, {})

    def _owes_evaluation(self) -> bool:
        due = self._step > 0 and self.due(self._train.evaluate_every)
        return due and self._training.validation is not None and self._progress.evaluated_step != self._step

    def _trackers(self) -> list[Tracker]:
        if not hosts.first():
            return []
        trackers: list[Tracker] = [TensorBoard(self._workdir / "tensorboard", resumed_at=self._step)]
        if self._watch.wandb:
            stored = self._workdir / runs.CONFIG
            about = runs.read_config(self._workdir) if stored.exists() else {}
            trackers.append(WeightsAndBiases(self._workdir, self._watch.wandb, about))
        return trackers

    def _compile(self, batch) -> tuple[Callable, float]:
        """The step for batches of these shapes, and its FLOPs."""
        training, train, params = self._training, self._train, self._state.params
        function = jit_train_step(training.objective, training.optimizer, train.accumulation, self._mesh, self._state)
        # Before the first step there is nothing to save. Later a notice waits until a step is taken.
        first = self._metrics is None
        with self._notice.leaving_at_once() if first else contextlib.nullcontext(), self._clock.paused(self._state):
            lowered = function.lower(self._state, batch, self._key)
            flops = step_flops(lowered, training.objective, train.accumulation, params, batch)
            compiled = self._clock.compile(lowered, flops)
        hosts.wait("compiled")  # They compile at different speeds, and gloo waits for 30 seconds only.
        if first:
            self._clock.restart()
        return compiled, flops

    def _write_line(self) -> None:
        """Metrics of a step that were not read yet; reading them waits for it."""
        if self._unwritten is None:
            return
        (step, metrics), self._unwritten = self._unwritten, None
        self._require_finite(metrics)
        values = {name: float(value) for name, value in metrics.items() if name != "finite"}
        self._log.write(step, "train", values | self._clock.rates(step))

    def _keep(self) -> None:
        self._training.keep(hosts.whole_tree(self._state.params))

    def _require_finite(self, metrics: dict[str, jax.Array] | None) -> None:
        """Raises RunError where these or earlier metrics are no numbers, with a dump of the first such step.

        The state stayed as it was before that step, so that it says which one it was.
        """
        if metrics is None or bool(metrics["finite"]):
            return
        taken = int(self._state.step)
        self._training.batches.go_to(taken)
        batch = hosts.whole_tree(put_batch(self._mesh, next(self._training.batches)))
        params = hosts.whole_tree(self._state.params)
        names = self._training.names(batch)
        where = self._workdir / nonfinite.FOLDER
        with hosts.together():  # a host that ends now would end the one that writes
            if hosts.first():
                dump = nonfinite.Dump(taken + 1, nonfinite.arrays_of(batch), params, self._training.key, names)
                where = nonfinite.write_dump(self._workdir, dump)
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        examples = f" (examples: {'; '.join(names[:NAMED])}{more})" if names else ""
        replay = f"`mmdiff replay {self._workdir}` says which, from what {where} holds"
        says = replay if self._training.replayable else f"{where} holds it"
        raise RunError(
            f"the loss or a gradient of step {taken + 1} is no number{examples}: {says}; start again in another --workdir "
            "with a lower --config.optimizer.learning_rate, or with --config.model.dtype=float32"
        )


def weighted_mean(batches: list[tuple[dict, jax.Array]]) -> dict[str, float]:
    """Metrics of batches as one, each batch counting by its examples or the weight of its places."""
    total = sum(float(weight) for _, weight in batches)
    names = batches[0][0]
    return {name: sum(float(metrics[name]) * float(weight) for metrics, weight in batches) / total for name in names}
