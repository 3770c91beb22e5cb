"""One clip in, its result staged out, in whatever process an engine has started: the same under all of them."""

import dataclasses
import errno
import functools
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from preprocessing import staging
from preprocessing.clip import Clip
from preprocessing.detect_people import Detector, build_detector
from preprocessing.options import Options
from preprocessing.problems import PreprocessError, Problem, VideoError, may_pass
from preprocessing.process_video import process

INSTALL = "`make setup`, or `pip install -c constraints.txt '.[preprocess]'` in the repository"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # of no use to try the next video
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0  # seconds before what failed is tried again; twice as long each time
GIVEN_UP = 3  # exit status of a process that ends itself because a video does not end


class Counters:
    """Is told how the work goes on. This one keeps nothing of it."""

    def advance(self, share: float, pictures: int) -> None:
        """A clip has advanced by a share of its length, and so many pictures have been looked at."""

    def add_times(self, took: dict[str, float]) -> None:
        """The stages of a clip took so many seconds."""

    def add_problem(self) -> None:
        """A clip gave nothing."""


@dataclasses.dataclass(frozen=True)
class _Failure:
    problem: Problem
    lasting: bool = False  # It would be so again with the same file and options.
    passing: bool = False  # It may be gone in a moment.


@dataclasses.dataclass
class _Current:
    """What a worker is at."""

    name: str
    staged: Path
    signature: dict
    heard_of: float  # when there was a picture last


class Worker:
    """Works on one clip after another, with one detector, which is built at the first that needs it."""

    def __init__(self, options: Options, counters: Counters, run: str = ""):
        """Nothing is loaded yet; the options leave nothing open, and failures are said to be of the run."""
        import cv2

        cv2.setNumThreads(1)  # One process per core is the parallelism here.
        self._options, self._counters, self._run = options, counters, run
        self._detector = functools.cache(lambda: _build(options))
        self._current: _Current | None = None

    def __call__(self, clip: Clip, staged: Path) -> None:
        """Leaves the result of a clip in `staged`, or beside it why there is none.

        Raises PreprocessError for what would be so with every clip.
        """
        detector = self._detector()
        _import_what_clips_need()
        self._current = _Current(clip.name, staged, {}, time.monotonic())
        done = 0.0

        def advance(share: float, pictures: int = 0) -> None:
            nonlocal done
            self._counters.advance(max(0.0, share - done), pictures)
            done = max(done, share)
            self._current.heard_of = time.monotonic()

        try:
            for attempt in range(self._options.retries + 1):
                failure = self._attempt(clip, staged, detector, advance)
                if not failure or not failure.passing:
                    break
                if attempt < self._options.retries:
                    time.sleep(min(FIRST_WAIT * 2**attempt, LONGEST_WAIT))
            if failure:
                tried = f", {attempt + 1} times" * (attempt > 0)
                problem = dataclasses.replace(failure.problem, problem=failure.problem.problem + tried)
                self._keep(problem, failure.lasting)
                self._counters.add_problem()
            else:
                staging.failed_path(staged).unlink(missing_ok=True)  # of an earlier run that has not quite ended
        finally:
            advance(1.0)
            self._current = None

    def _attempt(self, clip: Clip, staged: Path, detector: Detector | None, advance) -> _Failure | None:
        try:
            self._current.signature = staging.signature(clip, self._options)
            self._stage(clip, staged, detector, advance)
        except VideoError as error:
            self._refuse_full(error.__context__)
            problem = dataclasses.replace(error.problem, file=clip.name)
            # A detector that fails may be mended before the next run, but will not mend itself.
            return _Failure(problem, not error.transient, error.transient and problem.stage != "detect")
        except OSError as error:
            self._refuse_full(error)
            problem = Problem(
                clip.name, "decode", f"cannot be read ({error})", "check the file, its rights and the disk"
            )
            return _Failure(problem, passing=may_pass(error))
        except ImportError as error:  # It would be so with every clip.
            raise PreprocessError(f"{error}; run {INSTALL}") from error
        except PreprocessError:
            raise
        except Exception as error:  # noqa: BLE001  whatever it is, the other clips are not concerned
            advice = "convert it, and report this line to us"
            told = f"cannot be processed ({error!r})"
            return _Failure(Problem(clip.name, "process", told, advice), passing=may_pass(error))
        return None

    def _keep(self, problem: Problem, lasting: bool) -> None:
        at = self._current
        try:
            staging.save_failure(at.staged, staging.Failure(problem, lasting, at.signature, self._run))
        except OSError as error:
            self._refuse_full(error)
            raise

    def _refuse_full(self, error: BaseException | None) -> None:
        if getattr(error, "errno", None) in FULL:
            raise PreprocessError(
                f"{self._current.staged.parent} or the folder of temporary files, {tempfile.gettempdir()}, cannot be "
                f"written ({error.strerror}): free space there and start again; the videos that are done are kept"
            ) from error

    def _stage(self, clip: Clip, staged: Path, detector: Detector | None, advance) -> None:
        signature = self._current.signature
        with process(clip, self._options, detector, advance) as done:
            with done.took("write"):
                records = _telling(done.records, lambda: advance(1.0))
                staging.save(staged, signature, done.short, records, done.boxes.to_dict())
            self._counters.add_times(done.took)
        if staging.signature(clip, self._options) != signature:
            staged.unlink()
            advice = "wait until it is copied whole, and start again"
            raise VideoError(clip.name, "was changed while it was read", advice, transient=True)

    def end_if_stuck(self) -> None:
        """Starts a thread that ends the process when a clip gives no further picture for `options.patience`."""
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        patience = self._options.patience
        while True:
            time.sleep(min(1.0, patience / 4))
            at = self._current
            if at and time.monotonic() - at.heard_of > patience:
                told = f"gave no further picture for {patience:g} s"
                advice = "it may be damaged so that the decoder does not end: convert it, or give more --patience"
                try:
                    self._keep(Problem(at.name, "decode", told, advice), lasting=False)
                finally:
                    os._exit(GIVEN_UP)


def _telling(values: Iterable, tell: Callable[[], None]) -> Iterator:
    for value in values:
        tell()
        yield value


def _import_what_clips_need() -> None:
    """Before the first clip, which would else be thought to be slow."""
    import preprocessing.byte_track  # noqa: F401


def _build(options: Options) -> Detector | None:
    try:
        return build_detector(options)
    except PreprocessError:
        raise
    except Exception as error:
        raise PreprocessError(
            f"detector {options.detector!r} cannot be built ({error!r}); is everything installed that it needs "
            f"({INSTALL})?"
        ) from error
