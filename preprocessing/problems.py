"""What went wrong with one file, in words for the person who owns it."""

import dataclasses

from mmdiff.errors import UserError


@dataclasses.dataclass(frozen=True)
class Problem:
    """One line of `problems.jsonl`: the run goes on without the file, or without the part that is bad."""

    file: str
    stage: str
    problem: str
    advice: str


class VideoError(Exception):
    """One video cannot be used. The other videos are not concerned."""

    def __init__(self, file, problem: str, advice: str, stage: str = "decode"):
        super().__init__(f"{file}: {problem}; {advice}")
        self.problem = Problem(str(file), stage, problem, advice)

    def __reduce__(self):  # It crosses from a worker process to its parent.
        return type(self), (self.problem.file, self.problem.problem, self.problem.advice, self.problem.stage)


class PreprocessError(UserError):
    """The whole run cannot start or cannot end well; the message says what to do."""
