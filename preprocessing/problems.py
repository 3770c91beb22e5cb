"""What went wrong with one file, in words for the person who owns it."""

import dataclasses
import errno

from mmdiff.errors import UserError

# What a disk, a network folder or a busy machine may say now and not a moment later.
PASSING = {
    *(errno.EIO, errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.ESTALE),
    *(errno.ETIMEDOUT, errno.ECONNRESET, errno.ECONNABORTED, errno.EHOSTDOWN, errno.EHOSTUNREACH),
    *(errno.ENETDOWN, errno.ENETRESET, errno.ENETUNREACH, errno.ENOTCONN),
    *(errno.ENOMEM, errno.ENOBUFS, errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT),
}


@dataclasses.dataclass(frozen=True)
class Problem:
    """One line of `problems.jsonl`: the run goes on without the file, or without the part that is bad."""

    file: str
    stage: str
    problem: str
    advice: str


class VideoError(Exception):
    """One video cannot be used. The other videos are not concerned.

    `transient` where the reason may pass (see `may_pass`), so that it is worth trying again.
    """

    def __init__(self, file, problem: str, advice: str, stage: str = "decode", transient: bool = False):
        super().__init__(f"{file}: {problem}; {advice}")
        self.problem = Problem(str(file), stage, problem, advice)
        self.transient = transient

    def __reduce__(self):  # It crosses from a worker process to its parent.
        told = self.problem
        return type(self), (told.file, told.problem, told.advice, told.stage, self.transient)


class PreprocessError(UserError):
    """The whole run cannot start or cannot end well; the message says what to do."""


def may_pass(error: BaseException) -> bool:
    """Whether reading failed for a reason that is not the file's: a disk, a network, a lack of memory or of room."""
    return isinstance(error, MemoryError) or getattr(error, "errno", None) in PASSING
