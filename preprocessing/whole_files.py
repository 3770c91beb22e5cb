"""A path in, another to write to first out: a file that has its own name is whole, however the writing ended."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

UNFINISHED = ".unfinished"  # ends the name of a file until all of it is written


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Gives the path to write to, and renames it to `path` where the block ends without an error."""
    unfinished = path.with_name(path.name + UNFINISHED)
    yield unfinished
    os.replace(unfinished, path)
