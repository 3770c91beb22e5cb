"""A path in, another to write to first out: a file that has its own name is whole, however the writing ended."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

UNFINISHED = ".unfinished"  # ends the name of a file until all of it is written


@contextlib.contextmanager
def whole(path: Path, writer: str = "") -> Iterator[Path]:
    """Gives the path to write to, and renames it to `path` where the block ends without an error.

    Where several may write the same file at once, each is a `writer` of another name.
    """
    unfinished = path.with_name(path.name + writer + UNFINISHED)
    yield unfinished
    os.replace(unfinished, path)


def write_whole(path: str | Path, data: bytes) -> None:
    """Writes a file, in a folder made if need be, that a kill leaves either whole or not there."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as unfinished:
        unfinished.write_bytes(data)


def is_taken(folder: Path) -> bool:
    """Whether a folder is there and holds more than files that a kill left unfinished."""
    return folder.exists() and any(not path.name.endswith(UNFINISHED) for path in folder.iterdir())
