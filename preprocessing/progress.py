"""Counters in, a bar on a terminal or a plain line now and then out: how much is done, how fast, how long yet."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from tqdm import tqdm

PLAIN_EVERY = 30.0  # seconds between two lines where there is no terminal
FORM = "{desc}: {percentage:3.0f}%|{bar}| {n:.1f}/{total} videos [{elapsed}<{remaining}{postfix}]"


class Done(NamedTuple):
    """What is done now, without what was there before."""

    clips: float  # with the shares of those that are not whole yet
    pictures: int | None  # None: not known
    problems: int


class Progress:
    """Shows videos done, videos and pictures a second, problems and the time left; only what is done now counts."""

    def __init__(self, shown: bool = True):
        self._shown = shown
        self._plain = not sys.stderr.isatty()

    @contextlib.contextmanager
    def over(self, total: int, already: int, look: Callable[[], Done]) -> Iterator[None]:
        """Within, `show` tells what `look` finds; of all clips, `already` were there before."""
        self._total, self._already, self._look = total, already, look
        self._began = self._told = time.monotonic()
        disabled = not self._shown or self._plain
        with tqdm(total=total, initial=already, desc="finding people", bar_format=FORM, disable=disabled) as self._bar:
            yield
            self.show(last=True)

    def show(self, last: bool = False) -> None:
        """Brings the bar up to date, or writes a line where it is time for one."""
        now = time.monotonic()
        if not self._shown or (self._plain and not last and now - self._told < PLAIN_EVERY):
            return
        done, passed = self._look(), max(now - self._began, 1e-9)
        clips = min(self._already + done.clips, self._total)
        speeds = [f"{done.clips / passed:.2f} videos/s"]
        if done.pictures is not None:
            speeds.append(f"{done.pictures / passed:.0f} frames/s")
        speeds.append(f"{done.problems} problems")
        if self._plain:
            self._told = now
            if done.clips and clips < self._total and not last:
                left = (self._total - clips) / done.clips * passed
                speeds.append(f"{tqdm.format_interval(left)} left")
            share = f"{100 * clips / max(self._total, 1):.1f}%"
            told = f"finding people: {clips:.1f} of {self._total} videos ({share}), {', '.join(speeds)}"
            print(told, file=sys.stderr, flush=True)
        else:
            self._bar.set_postfix_str(", ".join(speeds), refresh=False)
            self._bar.update(clips - self._bar.n)
            self._bar.refresh()
