"""Scalars in; JSON lines, TensorBoard and a log line out. And what the machine could do at best."""

import contextlib
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from mmdiff.whole_files import write_whole

log_line = logging.getLogger(__name__)

# Dense bfloat16 TFLOP/s of one device, as its vendor states; a TPU v2 or v3 device is one of a chip's two cores.
PEAK_TFLOPS = {
    "TPU v2": 22.5,
    "TPU v3": 61.5,
    "TPU v4": 275,
    "TPU v5 lite": 197,
    "TPU v5e": 197,
    "TPU v5p": 459,
    "TPU v5": 459,
    "TPU v6 lite": 918,
    "TPU v6e": 918,
    "NVIDIA A100": 312,
    "NVIDIA H100": 989,
    "NVIDIA H200": 989,
}


class MetricLog:
    """Writes each line to `metrics.jsonl` and TensorBoard; only the first host writes."""

    def __init__(self, folder: Path, resumed_at: int):
        self._active = jax.process_index() == 0
        if not self._active:
            return
        import tensorboardX  # here, because where torch is installed it loads it, for an annotation

        path = folder / "metrics.jsonl"
        # A killed run may have written lines of steps that are about to be made again.
        kept = [line for line in read_metrics(path) if line["step"] <= resumed_at]
        write_whole(path, "".join(json.dumps(line) + "\n" for line in kept).encode())
        self._file = path.open("a", encoding="utf-8")
        self._board = tensorboardX.SummaryWriter(str(folder / "tensorboard"), purge_step=resumed_at + 1)

    def write(self, step: int, split: str, metrics: dict, rates: Callable[[int], dict] | None = None) -> dict:
        """One line, also returned. Reading `metrics` waits for their step; `rates` is asked for its own only then."""
        metrics = {name: float(value) for name, value in metrics.items()}
        metrics |= rates(step) if rates else {}
        if not self._active:
            return metrics
        line = {"step": step, "split": split} | metrics
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        for name, value in metrics.items():
            self._board.add_scalar(f"{split}/{name}", value, step)
        shown = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        log_line.info("%s step %d  %s", split, step, shown)
        return metrics

    def close(self) -> None:
        if self._active:
            self._file.close()
            self._board.close()


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
    """Examples per second, seconds per step and model FLOP utilisation since it was last asked."""

    def __init__(self, step: int, examples_per_step: int):
        self.flops_per_step = None
        self._examples = examples_per_step
        self._step = step
        self._since = time.perf_counter()

    def compile(self, function, state, batch, accumulation: int):
        """The compiled step, before the clock starts; its FLOPs are those the compiler counts."""
        start = time.perf_counter()
        compiled = function.lower(state, batch).compile()
        # Counted per device, and the body of the accumulation's loop once.
        counted = (compiled.cost_analysis() or {}).get("flops", 0.0)
        self.flops_per_step = counted * jax.device_count() * accumulation
        self._peak = peak_flops()
        log_line.info(
            "compiled in %.1f s: %.3g FLOPs a step; these devices could do %.3g FLOP/s",
            time.perf_counter() - start,
            self.flops_per_step,
            self._peak,
        )
        self._since = time.perf_counter()
        return compiled

    def rates(self, step: int) -> dict[str, float]:
        now = time.perf_counter()
        seconds = (now - self._since) / max(step - self._step, 1)
        self._step, self._since = step, now
        return {
            "examples_per_second": self._examples / seconds,
            "seconds_per_step": seconds,
            "mfu": self.flops_per_step / seconds / self._peak,
        }

    @contextlib.contextmanager
    def paused(self, state):
        """What happens inside, once `state` is there, is not training."""
        jax.block_until_ready(state)
        start = time.perf_counter()
        yield
        self._since += time.perf_counter() - start


def peak_flops() -> float:
    """FLOP/s that all devices could do: from the vendor's figure, or, on a CPU, from one timed matrix product."""
    device = jax.devices()[0]
    for kind, tflops in PEAK_TFLOPS.items():
        if device.device_kind.startswith(kind):
            return tflops * 1e12 * jax.device_count()
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
