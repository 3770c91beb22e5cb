"""Scalars in; JSON lines, a log line and what trackers show out. And what the machine could do at best."""

import contextlib
import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from mmdiff.training import hosts
from mmdiff.training.devices import chip
from mmdiff.training.trackers import Appended, Tracker
from mmdiff.whole_files import write_whole

log_line = logging.getLogger(__name__)


class MetricLog:
    """Writes each line to `metrics.jsonl`, the log and the trackers; only the first host writes."""

    def __init__(self, folder: Path, resumed_at: int, evaluated_at: int, trackers: Sequence[Tracker] = ()):
        """`resumed_at` and `evaluated_at` are the last step and the last evaluation that are not made again."""
        self._active = hosts.first()
        if not self._active:
            return
        path = folder / "metrics.jsonl"
        # A killed run may have written lines of steps, or of an evaluation, that are about to be made again.
        last = {"train": resumed_at, "validation": evaluated_at}
        kept = [line for line in read_metrics(path) if line["step"] <= last[line["split"]]]
        write_whole(path, "".join(json.dumps(line) + "\n" for line in kept).encode())
        self._file = Appended(path)
        self._trackers = trackers

    def write(self, step: int, split: str, metrics: dict[str, float]) -> None:
        if not self._active:
            return
        self._file.write((json.dumps({"step": step, "split": split} | metrics) + "\n").encode())
        for tracker in self._trackers:
            tracker.write(step, split, metrics)
        shown = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        log_line.info("%s step %d  %s", split, step, shown)

    def sync(self) -> None:
        """What was written outlives the machine: a mounted bucket gets it no earlier."""
        if self._active:
            self._file.sync()

    def close(self) -> None:
        if self._active:
            self._file.close()
            for tracker in self._trackers:
                tracker.close()


def read_metrics(path: Path) -> list[dict]:
    """The lines of a `metrics.jsonl`; a last line that a kill cut short is left out."""
    if not path.exists():
        return []
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return lines


class StepClock:
    """What a step takes since it was last asked: of time, of what the devices can do, and of waiting for batches."""

    def __init__(self, step: int, steps: int, examples_per_step: int):
        self._steps = steps
        self._examples = examples_per_step
        self._step = step
        self._waited, self._flops = 0.0, 0.0
        self._since = time.perf_counter()
        self._peak: float | None = None  # FLOP/s of all devices; not known before the first step

    def compile(self, lowered, flops: float):
        """The compiled step, of so many `flops` on all devices together."""
        start = time.perf_counter()
        compiled = lowered.compile()
        log_line.info("compiled in %.1f s: %.3g FLOPs a step", time.perf_counter() - start, flops)
        if self._peak is None:
            self._peak = peak_flops()
            log_line.info("these devices could do %.3g FLOP/s", self._peak)
        return compiled

    def restart(self) -> None:
        """What was before is not training."""
        self._waited, self._flops, self._since = 0.0, 0.0, time.perf_counter()

    def began(self, flops: float) -> None:
        """A step of so many FLOPs is under way."""
        self._flops += flops

    def rates(self, step: int) -> dict[str, float]:
        """Of the steps since the last time; `hours_left` if nothing stops the run early."""
        now = time.perf_counter()
        elapsed = now - self._since
        seconds = elapsed / max(step - self._step, 1)
        rates = {
            "examples_per_second": self._examples / seconds,
            "seconds_per_step": seconds,
            "mfu": self._flops / elapsed / self._peak,
            "input_wait": self._waited / elapsed,
            "hours_left": (self._steps - step) * seconds / 3600,
        }
        self._step, self._since, self._waited, self._flops = step, now, 0.0, 0.0
        return rates

    @contextlib.contextmanager
    def waiting(self):
        """What happens inside is waiting for a batch."""
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    @contextlib.contextmanager
    def paused(self, state):
        """What happens inside, once `state` is there, is not training."""
        jax.block_until_ready(state)
        start = time.perf_counter()
        yield
        self._since += time.perf_counter() - start


def peak_flops() -> float:
    """FLOP/s that all devices could do: from the vendor's figure, or, on a CPU, from one timed matrix product."""
    known = chip(jax.devices()[0].device_kind)
    if known:
        return known.flops * jax.device_count()
    # Simulated CPU devices share the same cores: what one product reaches is what there is.
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1024, 1024)), jnp.float32)
    product = jax.jit(jnp.matmul)
    product(x, x).block_until_ready()
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        product(x, x).block_until_ready()
        seconds.append(time.perf_counter() - start)
    return 2 * 1024**3 / min(seconds)
