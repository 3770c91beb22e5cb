"""The smallest run the loop can make: a line through points, without records or a model.

    python tests/training/toy.py FOLDER STEPS [SECONDS_PER_BATCH [SECONDS_PER_VALIDATION_BATCH]]

Runs it in a process of its own, for tests that send signals; it ends as the command line does. It is one of several hosts
where `hosts.VARIABLES` are set.
"""

import contextlib
import dataclasses
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import grain.python as grain
import jax
import jax.numpy as jnp
import numpy as np
import optax

from mmdiff.data.loader import Batches, stack
from mmdiff.models.pretrained import save_safetensors
from mmdiff.training import hosts
from mmdiff.training.config import TrainConfig
from mmdiff.training.interruption import EXIT_CODE, Preempted, sigterm_raises
from mmdiff.training.loop import Training, open_position, run_loop
from mmdiff.training.metrics import read_metrics
from mmdiff.training.sharding import make_mesh

BATCH = 8
MODEL = "model.safetensors"


class Points(NamedTuple):
    id: np.ndarray
    x: np.ndarray
    y: np.ndarray


@dataclasses.dataclass(frozen=True)
class Line:
    """Squared error of a line, with a little noise that the key and the step draw."""

    couples: bool = False

    def __call__(self, params, batch, key, step):
        noise = jax.random.normal(jax.random.fold_in(key, step), batch.x.shape)
        error = batch.x @ params["slope"] + params["offset"] - batch.y + 0.01 * noise.sum(axis=1)
        loss = (error**2).mean()
        return loss, {"loss": loss, "largest": jnp.abs(error).max()}

    def examples(self, batch, key, step):
        return jnp.asarray(batch.x.shape[0])

    def without_remat(self):
        return self


def point(number: int) -> Points:
    """A function of its number, so that a batch is one of its place in the run."""
    x = np.random.default_rng(number).normal(size=4).astype(np.float32)
    return Points(np.int64(number), x, np.float32(x @ np.arange(4) + 1))


def endless(broken: int = -1, seconds: float = 0.0) -> Batches:
    """Batches of points; the one numbered `broken` lies nowhere, and each batch takes some seconds."""

    def make(number: int) -> Points:
        time.sleep(seconds / BATCH)
        made = point(number)
        return made._replace(x=made.x * np.float32(np.nan)) if number == broken else made

    count = jax.process_count()
    return Batches(grain.MapDataset.range(2**40).map(make), BATCH // count, 1, jax.process_index(), count)


def schedule(steps: int, **changed) -> TrainConfig:
    wanted = {"log_every": 2, "evaluate_every": 6, "save_every": 4, "patience": 0, "batch_size": BATCH} | changed
    return TrainConfig(steps=steps, **wanted)


def run(
    folder: Path,
    train: TrainConfig,
    batches=None,
    fsdp: int = 1,
    validation_seconds: float = 0.0,
    width: int = 4,
    learning_rate: float = 0.05,
    **more,
):
    """One run of the loop; further arguments are the loop's."""
    optimizer = optax.adam(learning_rate)
    mesh = make_mesh(fsdp)
    batches = batches or endless()
    params = {"slope": jnp.ones(width), "offset": jnp.zeros(())}

    def validation():
        for first in (10**6, 10**6 + BATCH):
            time.sleep(validation_seconds)
            share, host = BATCH // jax.process_count(), jax.process_index()
            yield stack([point(first + i) for i in range(host * share, (host + 1) * share)])

    folder.mkdir(parents=True, exist_ok=True)
    training = Training(
        Line(),
        optimizer,
        batches,
        validation,
        jax.random.key(0),
        badness=lambda metrics: metrics["loss"],
        keep=lambda params: save_safetensors(folder / MODEL, params) if hosts.first() else None,
        names=lambda batch: [f"point {number}" for number in batch.id],
        title="toy",
        replayable=True,
    )
    position = open_position(folder, params, optimizer, batches, mesh)
    return run_loop(position, training, train, mesh, folder, progress_bar=False, **more)


def at_step(folder: Path, step: int) -> bool:
    """Whether a run has written of a step."""
    return any(line["step"] >= step for line in read_metrics(folder / "metrics.jsonl"))


@contextlib.contextmanager
def sigterm_at(folder: Path, step: int) -> Iterator[None]:
    """SIGTERM comes to this process when the run in a folder has written of a step."""
    ended = threading.Event()

    def tell() -> None:
        while not ended.wait(0.02):
            if at_step(folder, step):
                return os.kill(os.getpid(), signal.SIGTERM)

    teller = threading.Thread(target=tell)
    with sigterm_raises():
        teller.start()
        try:
            yield
        finally:
            ended.set()
            teller.join()


if __name__ == "__main__":
    import logging

    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("mmdiff").setLevel(logging.INFO)
    if hosts.COUNT in os.environ:
        hosts.join()
    seconds = [float(word) for word in sys.argv[3:]] + [0.0, 0.0]
    try:
        with sigterm_raises():
            train, batches = schedule(int(sys.argv[2])), endless(seconds=seconds[0])
            run(Path(sys.argv[1]), train, batches, validation_seconds=seconds[1])
    except Preempted as stopped:
        print(stopped, file=sys.stderr)
        sys.exit(EXIT_CODE)
