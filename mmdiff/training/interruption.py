"""A signal in, the moment to stop at out: what a machine that is taken away leaves to a run.

JAX is imported where it is needed: the command line reads this for verbs that do without.
"""

import contextlib
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator

EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: nothing is wrong, the same command goes on later
SENTENCE = "stopped by SIGTERM; the same command goes on from here"

log_line = logging.getLogger(__name__)


class Preempted(BaseException):
    """A run stopped because it was asked to. No Exception, as KeyboardInterrupt is none: nobody is to mend it."""

    def __init__(self, sentence: str = SENTENCE):
        super().__init__(sentence)


@contextlib.contextmanager
def sigterm_raises() -> Iterator[None]:
    """SIGTERM raises Preempted inside, as Ctrl-C raises KeyboardInterrupt; on several hosts it waits for a `Notice`."""

    def stop(*_) -> None:
        raise Preempted

    with contextlib.nullcontext() if _is_shared() else _handling(stop):
        yield


class Notice:
    """Whether a run was told by SIGTERM to stop; entered, the first one is noted and the second one kills.

    On several hosts the notice of one is that of all, and `given` is true for all of them at the same step: JAX's
    preemption service sees to that, which owns the signal there, and costs a step nothing.
    """

    def __init__(self):
        self._shared = _is_shared()
        self._noted = False
        self._stack = contextlib.ExitStack()

    @property
    def here(self) -> bool:
        """Whether this host, the only one, was told. Never on several: one that stops alone leaves the others waiting."""
        return self._noted

    def given(self, step: int) -> bool:
        """Whether to save and stop now. On several hosts it must be asked of every step, by all of them."""
        if not self._shared:
            return self._noted
        from jax.experimental import multihost_utils

        return multihost_utils.reached_preemption_sync_point(step)

    def __enter__(self):
        if not self._shared:
            self._stack.enter_context(_handling(self._note))
        return self

    def __exit__(self, *raised) -> None:
        self._stack.close()

    def _note(self, *_) -> None:
        if self._noted:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.raise_signal(signal.SIGTERM)
        self._noted = True
        log_line.info("SIGTERM: finishing the step and saving; a second one kills")

    @contextlib.contextmanager
    def leaving_at_once(self) -> Iterator[None]:
        """For work that gives Python no turn and that a stop loses nothing of: a signal ends the process inside.

        Raises Preempted where there was one before.
        """
        if self.here:
            raise Preempted
        if self._shared or threading.current_thread() is not threading.main_thread():
            yield
            return
        receiver, sender = socket.socketpair()
        sender.setblocking(False)
        before = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
        watcher = threading.Thread(target=_leave, args=(receiver,), daemon=True)
        watcher.start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)
            sender.close()
            watcher.join()
            receiver.close()


def _is_shared() -> bool:
    """Whether there are several hosts: one that took the signal from JAX's preemption service would stop alone."""
    import jax

    return jax.process_count() > 1


def _leave(receiver: socket.socket) -> None:
    """Waits for the number of a signal, or for the other end to be closed."""
    codes = {signal.SIGTERM: EXIT_CODE, signal.SIGINT: 128 + signal.SIGINT}
    while number := receiver.recv(1):
        if number[0] in codes:
            sys.stdout.flush()
            print("mmdiff: stopped while compiling; the same command goes on from here", file=sys.stderr, flush=True)
            os._exit(codes[number[0]])


@contextlib.contextmanager
def _handling(handler) -> Iterator[None]:
    """SIGTERM goes to the handler inside; only the main thread can ask for that."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)
