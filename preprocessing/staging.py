"""What one clip gave, kept in a file until the dataset is written: never half-written, never pickled."""

import hashlib
import re
from collections.abc import Collection
from pathlib import Path

from mmdiff.whole_files import UNFINISHED, whole
from preprocessing.clip import Clip
from preprocessing.options import Options

FORMAT = 2  # Raise it when the same clip and options give something else than before.


def staged_path(folder: Path, name: str) -> Path:
    """Where the result of the clip called `name` is kept; any name gives a safe file name of its own."""
    readable = re.sub(r"[^A-Za-z0-9]+", "_", Path(name).stem).strip("_")[:40]
    return folder / f"{readable}-{hashlib.sha256(name.encode()).hexdigest()[:16]}.msgpack"


def keep_only(folder: Path, staged: Collection[Path]) -> None:
    """Removes from the folder what is unfinished, and the results of clips that are no longer there."""
    for path in {*folder.glob("*.msgpack"), *folder.glob("*" + UNFINISHED)} - set(staged):
        path.unlink()


def signature(clip: Clip, options: Options) -> dict:
    """What the result depends on: the choices, the files of the clip, and what came with it."""
    return {"format": FORMAT, "options": options.of_staged(), "sources": clip.sources()}


def save(path: Path, signature: dict, result: dict) -> None:
    """Writes the file under another name first, so that a killed run leaves the whole of it or nothing.

    It holds two messages, first what is short and then the records, so that the first can be read alone.
    """
    import msgpack
    from flax.serialization import msgpack_serialize

    short = {name: value for name, value in result.items() if name != "records"}
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as unfinished:
        unfinished.write_bytes(
            msgpack.packb({"signature": signature, "result": short}) + msgpack_serialize({"records": result["records"]})
        )


def load_short(path: Path, signature: dict | None = None) -> dict | None:
    """The result but for its records; None where there is none, or where it was made from something else."""
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


def load(path: Path) -> dict:
    """The whole result."""
    import msgpack
    from flax.serialization import msgpack_restore

    with path.open("rb") as file:
        messages = msgpack.Unpacker(file)
        short = messages.unpack()["result"]
        file.seek(messages.tell())
        return short | msgpack_restore(file.read())
