"""An error of any library in, one sentence out where a disk was full."""

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from mmdiff.training.runs import RunError

CODES = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
TEXTS = tuple(f"os_error_code='{code}'" for code in CODES)  # how TensorStore, which writes checkpoints, says it


@contextlib.contextmanager
def full_disk_explained(folder: Path) -> Iterator[None]:
    """Raises RunError instead of an error inside that says that a disk is full, a quota used up or a file too large."""
    try:
        yield
    except Exception as error:
        if not _is_full(error):
            raise
        raise RunError(
            f"no space left to write in {folder}: make room, then the same command goes on from the last checkpoint, "
            "which is whole"
        ) from error


def _is_full(error: BaseException | None) -> bool:
    while error is not None:
        if getattr(error, "errno", None) in CODES or any(text in str(error) for text in TEXTS):
            return True
        error = error.__cause__ or error.__context__
    return False
