"""What one video gave, kept in a file until the dataset is written: never half-written, never pickled."""

import hashlib
import os
import re
from pathlib import Path

from preprocessing.options import Options
from preprocessing.subtitles import subtitle_file

FORMAT = 1  # Raise it when the same video and options give something else than before.


def staged_path(folder: Path, name: str) -> Path:
    """Where the result of the video called `name` is kept; any name gives a safe file name of its own."""
    readable = re.sub(r"[^A-Za-z0-9]+", "_", Path(name).stem).strip("_")[:40]
    return folder / f"{readable}-{hashlib.sha256(name.encode()).hexdigest()[:16]}.msgpack"


def signature(video: Path, options: Options) -> dict:
    """What the result depends on: the choices, and size and time of the video and of the subtitles beside it."""
    sources = [video, subtitle_file(video)]
    stats = [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in sources if path]
    return {"format": FORMAT, "options": options.of_staged(), "sources": stats}


def save(path: Path, signature: dict, result: dict) -> None:
    """Writes the file under another name first, so that a killed run leaves the whole of it or nothing."""
    from flax.serialization import msgpack_serialize

    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}.unfinished")
    unfinished.write_bytes(msgpack_serialize({"signature": signature, "result": result}))
    os.replace(unfinished, path)


def load(path: Path, signature: dict | None = None) -> dict | None:
    """The result kept in a file; None where there is none, or where it was made from something else."""
    from flax.serialization import msgpack_restore

    try:
        kept = msgpack_restore(path.read_bytes())
        same = signature is None or kept["signature"] == signature
        return kept["result"] if same else None
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
    ):  # Missing, or damaged by a full disk or by hand: it is made again.
        return None
