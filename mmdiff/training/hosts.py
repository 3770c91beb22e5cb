"""Several hosts in, one run out: they find each other, take turns at the shared folder, and end together.

On one host everything here does nothing.
"""

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from mmdiff.errors import UserError

ADDRESS, COUNT, NUMBER = VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
JOIN_SECONDS = 300  # hosts of one launch start apart: one may still be installing
# A host that says nothing for so long is dead: the others end, with an error, and do not wait for it in a collective.
SILENT_SECONDS = 60
APPEAR_SECONDS = 30  # until a file that one host wrote shows on another: mounted buckets keep listings for a while
MESSAGE_BYTES = 1024  # of what one host tells the others when it gives up

log_line = logging.getLogger(__name__)


class HostsError(UserError):
    """The hosts of a run do not find each other, do not share a folder, or one of them gave up."""


def join(seconds: float = JOIN_SECONDS) -> None:
    """Makes this process one of several that train one model; comes before anything else that asks JAX for devices.

    Hosts of a TPU pod, or of one Slurm or Open MPI job, find each other; elsewhere VARIABLES say where host 0 listens
    (address:port), how many processes there are, and which this is, from 0. On CPUs they talk through gloo.

    Called again, it does nothing. If not all have come after `seconds`, the process says so and ends with exit code 1: JAX
    itself would abort.

    Raises HostsError where the variables are missing or mean nothing.
    """
    if jax.distributed.is_initialized():
        return
    given = _read_variables(os.environ)
    waiting = threading.Timer(seconds, _give_up, (given.get("coordinator_address", "host 0"), seconds))
    waiting.daemon = True
    waiting.start()
    try:
        jax.distributed.initialize(
            **given,
            initialization_timeout=int(seconds) + SILENT_SECONDS,  # The timer is there first, with a sentence.
            heartbeat_timeout_seconds=SILENT_SECONDS,
            shutdown_timeout_seconds=SILENT_SECONDS,
        )
    except ValueError:  # nothing says where the others are
        raise HostsError(
            f"--distributed: this is no TPU pod: set {', '.join(VARIABLES)} on every host, the first to address:port of host 0"
        ) from None
    except (RuntimeError, OSError) as error:
        raise HostsError(f"--distributed: {' '.join(str(error).split())[:300]}") from None
    finally:
        waiting.cancel()
    log_line.info(
        "host %d of %d, with %d of %d devices",
        jax.process_index(),
        jax.process_count(),
        jax.local_device_count(),
        jax.device_count(),
    )


def _read_variables(environment: Mapping[str, str]) -> dict:
    """What `jax.distributed.initialize` is told; nothing where no variable is set."""
    there = [name for name in VARIABLES if environment.get(name)]
    if not there:
        return {}
    if missing := [name for name in VARIABLES if name not in there]:
        raise HostsError(
            f"--distributed: {', '.join(there)} is set, but not {', '.join(missing)}: set all three, or none"
        )
    address, count, number = (environment[name] for name in VARIABLES)
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise HostsError(f"--distributed: {ADDRESS}={address!r} must be address:port of host 0, as in 10.0.0.2:8476")
    if not (count.isdecimal() and number.isdecimal() and int(number) < int(count)):
        raise HostsError(
            f"--distributed: {NUMBER}={number!r} of {COUNT}={count!r} means nothing: hosts are numbered from 0 to one less "
            "than there are"
        )
    return {"coordinator_address": address, "num_processes": int(count), "process_id": int(number)}


def _give_up(address: str, seconds: float) -> None:
    print(
        f"mmdiff: not all hosts came to {address} within {seconds:.0f} seconds: see that the same command runs on every host, "
        "and that they reach that address",
        file=sys.stderr,
        flush=True,
    )
    os._exit(1)  # The main thread sits in a call that cannot be interrupted.


def first() -> bool:
    """Whether this host writes what all share."""
    return jax.process_index() == 0


def wait(what: str) -> None:
    """Goes on when all hosts are here. `what` is the same on all, and names the place in an error."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


def agree(value: int) -> int:
    """What host 0 says."""
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Ends on all hosts alike: where the block raised a user's mistake on one, HostsError tells the others which.

    Without it they would wait for that host in their next collective.
    """
    mine: UserError | OSError | None = None
    try:
        yield
    except (UserError, OSError) as error:
        if jax.process_count() == 1:
            raise
        mine = error
    if jax.process_count() == 1:
        return
    said = str(mine).encode()[:MESSAGE_BYTES] if mine else b""
    messages = multihost_utils.process_allgather(np.frombuffer(said.ljust(MESSAGE_BYTES, b"\0"), np.uint8))
    if mine:
        raise mine
    for host, message in enumerate(np.asarray(messages)):
        if text := message.tobytes().rstrip(b"\0").decode(errors="replace"):
            raise HostsError(f"host {host} stopped: {text}")


def await_file(path: Path, seconds: float = APPEAR_SECONDS) -> None:
    """Returns when a file that host 0 has written shows here. Raises HostsError where it does not."""
    deadline = time.monotonic() + seconds
    while not path.exists():
        if time.monotonic() > deadline:
            raise HostsError(
                f"host {jax.process_index()} does not see {path}, which host 0 wrote: give a folder that all hosts share, "
                "such as a mounted bucket"
            )
        time.sleep(0.2)


def whole_tree(tree):
    """Arrays that may be split over hosts, as numpy arrays on each; all hosts call it."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)


def joined(rows):
    """Each host's rows of a tree of arrays as the rows of all hosts, in the order in which a global batch has them."""
    if jax.process_count() == 1:
        return rows
    return multihost_utils.process_allgather(rows, tiled=True)


def refuse_several(what: str) -> None:
    """Raises HostsError where something that one host does by itself is started on several."""
    if jax.process_count() > 1:
        raise HostsError(
            f"{what} runs on one host and {jax.process_count()} run it together: start it on one, without the others"
        )
