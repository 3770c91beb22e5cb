"""What one clip gave, kept in a file until the dataset is written: never half-written, never pickled.

The file is a row of msgpack messages: what is short, the boxes, and then one message for each record, so that each can
be read without the others. Why a clip gave nothing is kept beside it, as JSON.
"""

import dataclasses
import hashlib
import itertools
import json
import re
import uuid
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

import numpy as np

from mmdiff.whole_files import UNFINISHED, whole
from preprocessing.clip import Clip
from preprocessing.options import Options
from preprocessing.problems import Problem

FORMAT = 4  # Raise it when the same clip and options give something else than before.
ARRAY = 1  # msgpack's number for what it does not know
STAGED, FAILED = ".msgpack", ".failed.json"


def staged_path(folder: Path, name: str) -> Path:
    """Where the result of the clip called `name` is kept; any name gives a safe file name of its own."""
    readable = re.sub(r"[^A-Za-z0-9]+", "_", Path(name).stem).strip("_")[:40]
    return folder / f"{readable}-{hashlib.sha256(name.encode()).hexdigest()[:16]}{STAGED}"


def keep_only(folder: Path, staged: Collection[Path]) -> None:
    """Removes from the folder what is unfinished, and what is kept of clips that are no longer there."""
    ours = {path for suffix in (STAGED, FAILED, UNFINISHED) for path in folder.glob("*" + suffix)}
    for path in ours - set(staged) - {failed_path(path) for path in staged}:
        path.unlink(missing_ok=True)


def signature(clip: Clip, options: Options) -> dict:
    """What the result depends on: the choices, the files of the clip, and what came with it."""
    return {"format": FORMAT, "options": options.of_staged(), "sources": clip.sources()}


def save(path: Path, signature: dict, short: dict, records: Iterable, boxes: dict | None = None) -> None:
    """Writes what is short, the boxes and the records, taken one by one.

    Under another name first, so that a killed run leaves the whole of it or nothing, and under one of its own, since an
    engine may run the same clip twice at once.
    """
    import msgpack

    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path, f".{uuid.uuid4().hex}") as unfinished, unfinished.open("wb") as file:
        file.write(msgpack.packb({"signature": signature, "result": short}))
        for values in itertools.chain([boxes or {}], records):
            file.write(msgpack.packb(values, default=_packed))


def load_short(path: Path, signature: dict | None = None) -> dict | None:
    """What is short; None where there is nothing, or where it was made from something else."""
    made_from, result = _load_first(path) or (None, None)
    return result if signature in (None, made_from) else None


def load_signature(path: Path) -> dict | None:
    """What the result was made from; None where there is none."""
    return (_load_first(path) or (None, None))[0]


def _load_first(path: Path) -> tuple[dict, dict] | None:
    import msgpack

    try:
        with path.open("rb") as file:
            kept = next(iter(msgpack.Unpacker(file)))
        return kept["signature"], kept["result"]
    except (OSError, ValueError, LookupError, TypeError, StopIteration, msgpack.UnpackException):
        return None  # Missing, or damaged by hand: it is made again.


def load_boxes(path: Path) -> dict:
    """The boxes, as they were given to `save`."""
    return next(_messages(path))


def load_records(path: Path) -> Iterator:
    """The records, one at a time."""
    messages = _messages(path)
    next(messages)
    return messages


def _messages(path: Path) -> Iterator:
    """What was written behind the first message."""
    import msgpack

    with path.open("rb") as file:
        messages = msgpack.Unpacker(file, max_buffer_size=0, ext_hook=_unpacked)
        messages.skip()
        yield from messages


def _packed(array: np.ndarray):
    """An array, or one of its numbers, for msgpack, which has no form of its own for it."""
    import msgpack

    array = np.asarray(array)
    return msgpack.ExtType(ARRAY, msgpack.packb((array.dtype.str, array.shape, array.tobytes())))


def _unpacked(code: int, data: bytes) -> np.ndarray:
    import msgpack

    if code != ARRAY:
        raise ValueError(f"a staged file holds something of kind {code}")
    dtype, shape, content = msgpack.unpackb(data)
    return np.frombuffer(content, dtype).reshape(shape)


def failed_path(staged: Path) -> Path:
    """Where it is kept why a clip has no result."""
    return staged.with_name(staged.name.removesuffix(STAGED) + FAILED)


@dataclasses.dataclass(frozen=True)
class Failure:
    """Why a clip gave nothing."""

    problem: Problem
    lasting: bool  # It would be so again with the same file and options.
    signature: dict  # what failed
    run: str = ""  # in which it failed


def save_failure(staged: Path, failure: Failure) -> None:
    """Keeps why a clip gave nothing."""
    staged.parent.mkdir(parents=True, exist_ok=True)
    with whole(failed_path(staged), f".{uuid.uuid4().hex}") as unfinished:
        unfinished.write_text(json.dumps(dataclasses.asdict(failure), ensure_ascii=False), encoding="utf-8")


def load_failure(staged: Path) -> Failure | None:
    """Why a clip gave nothing; None where that is not kept."""
    try:
        kept = json.loads(failed_path(staged).read_text(encoding="utf-8"))
        return Failure(**kept | {"problem": Problem(**kept["problem"])})
    except (OSError, ValueError, LookupError, TypeError):
        return None
