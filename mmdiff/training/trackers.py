"""Scalars of a step in; TensorBoard's files, or a run on wandb, out. A tracker has `write` and `close`, nothing else."""

import contextlib
import importlib.util
import json
import os
import socket
import struct
import sys
import time
import uuid
from pathlib import Path
from typing import Protocol, runtime_checkable

from mmdiff.errors import UserError
from mmdiff.whole_files import write_whole

WANDB_ID = "wandb.json"  # in the folder of a run: what the run is called there


class TrackerError(UserError):
    """A tracker was asked for that is not installed, or lets nobody in."""


@runtime_checkable
class Tracker(Protocol):
    """Where metrics are looked at while a run goes on. A step that a resumed run makes again is written again."""

    def write(self, step: int, split: str, metrics: dict[str, float]) -> None: ...

    def close(self) -> None: ...


class Appended:
    """A file that grows by whole pieces, unbuffered: an error comes where it belongs, and none comes again at the end."""

    def __init__(self, path: Path):
        self._file = path.open("ab", buffering=0)

    def write(self, piece: bytes) -> None:
        while piece:
            piece = piece[self._file.write(piece) :]

    def sync(self) -> None:
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


@contextlib.contextmanager
def _without_torch():
    """Imports of torch fail: tensorboardX would load it for an annotation, which takes seconds."""
    hidden = "torch" not in sys.modules
    if hidden:
        sys.modules["torch"] = None
    try:
        yield
    finally:
        if hidden:
            del sys.modules["torch"]


class TensorBoard:
    """Event files in a folder; what was written of steps after `resumed_at` is no longer shown.

    tensorboardX's own writer is a thread behind a queue: on a full disk the thread dies, and the run waits for ever to put
    more into the queue. Its summaries and checksums are used.
    """

    def __init__(self, folder: Path, resumed_at: int):
        folder.mkdir(parents=True, exist_ok=True)
        self._file = Appended(folder / f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}")
        with _without_torch():
            from tensorboardX.proto.event_pb2 import Event, SessionLog

        self._add(Event(file_version="brain.Event:2"))
        self._add(Event(step=resumed_at + 1, session_log=SessionLog(status=SessionLog.START)))

    def write(self, step: int, split: str, metrics: dict[str, float]) -> None:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        for name, value in metrics.items():
            self._add(Event(step=step, summary=scalar(f"{split}/{name}", value)))

    def _add(self, event) -> None:
        from tensorboardX.record_writer import masked_crc32c

        event.wall_time = time.time()
        data = event.SerializeToString()
        length = struct.pack("<Q", len(data))
        checks = (struct.pack("<I", masked_crc32c(part)) for part in (length, data))
        self._file.write(length + next(checks) + data + next(checks))

    def close(self) -> None:
        self._file.close()


def require_wandb() -> None:
    """Raises TrackerError where wandb is not installed."""
    if importlib.util.find_spec("wandb") is None:
        raise TrackerError("--wandb needs wandb, which is not installed: pip install wandb, or leave --wandb out")


class WeightsAndBiases:
    """A run of a project on wandb, under an id that is kept with the run: a resumed run goes on there, too.

    Raises TrackerError where wandb is not installed, or refuses.
    """

    def __init__(self, folder: Path, project: str, config: dict):
        require_wandb()
        import wandb

        stored = folder / WANDB_ID
        if not stored.exists():
            write_whole(stored, (json.dumps({"id": uuid.uuid4().hex[:12]}) + "\n").encode())
        name = json.loads(stored.read_text(encoding="utf-8"))["id"]
        try:
            self._run = wandb.init(
                project=project, id=name, name=folder.name, resume="allow", dir=str(folder), config=config
            )
        except wandb.errors.Error as error:
            reason = " ".join(str(error).split())
            raise TrackerError(f"--wandb: {reason[:300]}: see `wandb login`, or leave --wandb out") from None
        # wandb's own step only rises; ours falls back when a run goes on from its last checkpoint.
        self._run.define_metric("*", step_metric="step")

    def write(self, step: int, split: str, metrics: dict[str, float]) -> None:
        self._run.log({"step": step} | {f"{split}/{name}": value for name, value in metrics.items()})

    def close(self) -> None:
        self._run.finish()
