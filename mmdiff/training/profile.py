"""Steps in, a trace of a few of them out: what the devices and the host did when."""

import logging
from pathlib import Path

import jax

WARM_STEPS = 3  # before the trace begins: the first ones fill caches and pipelines

log_line = logging.getLogger(__name__)


class Profile:
    """A trace of `steps` steps, some steps after `first`, into a folder; of none where `steps` is 0. Each host's own."""

    def __init__(self, folder: Path, first: int, steps: int):
        self._folder = folder
        self._begin = first + WARM_STEPS
        self._end = self._begin + steps if steps else -1
        self._running = False

    def before(self, step: int, state) -> None:
        """To be called before each step with how many were made; the trace ends once `state` is there."""
        if step == self._begin < self._end:
            jax.block_until_ready(state)
            jax.profiler.start_trace(str(self._folder))
            self._running = True
        elif step == self._end:
            jax.block_until_ready(state)
            self.close()

    def close(self) -> None:
        """Ends a trace that is under way."""
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
            log_line.info(
                "trace of steps %d to %d in %s: pip install xprof tensorboard; tensorboard --logdir %s; or open its "
                "*.trace.json.gz at https://ui.perfetto.dev",
                self._begin + 1,
                self._end,
                self._folder,
                self._folder,
            )
