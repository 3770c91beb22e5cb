"""Whether a machine was idle enough while a benchmark ran for its ratios to be quoted.

Two loops that take turns suffer unlike each other from what else runs: a ratio of 2.46 on a busy machine was 0.83 on an
idle one.
"""

import os
import time
from pathlib import Path

STAT = Path("/proc/stat")  # of Linux; elsewhere the load average alone decides
OTHERS = 0.2  # cores that other processes may take


class MachineLoad:
    """Watches from when it is made until it is asked."""

    def __init__(self) -> None:
        self._begun, self._busy, self._own = time.monotonic(), _busy_seconds(), _own_seconds()
        self._load = os.getloadavg()[0]

    def describe(self) -> str:
        """One sentence for beside the ratios, with a warning where they should not be quoted."""
        cores = os.cpu_count() or 1
        load = max(self._load, os.getloadavg()[0])
        said = f"Load average at most {load:.1f} on {cores} cores"
        others = 0.0
        if STAT.exists():
            taken = (_busy_seconds() - self._busy) - (_own_seconds() - self._own)
            others = max(taken / (time.monotonic() - self._begun), 0.0)
            said += f", of which other processes took {others:.2f}"
        # The benchmark's own threads are part of the load.
        busy = others > OTHERS or load > cores + 1
        return f"{said}. **DO NOT QUOTE THESE RATIOS: run again on an idle machine.**" if busy else f"{said}."


def _busy_seconds() -> float:
    """What all processes have taken of all cores since the machine started."""
    if not STAT.exists():
        return 0.0
    fields = STAT.read_text().split("\n", 1)[0].split()[1:]
    user, nice, system = map(int, fields[:3])
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    return sum(os.times()[:4])
