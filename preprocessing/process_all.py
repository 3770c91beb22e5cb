"""Clips in, the result of each staged out: by the processes of this machine, or by an engine that has more machines.

Results are files that appear whole or not at all, so an engine only has to call `Worker` for every clip at least once.
"""

import concurrent.futures
import dataclasses
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from preprocessing import staging
from preprocessing.clip import Clip
from preprocessing.options import Options
from preprocessing.problems import PreprocessError, Problem
from preprocessing.progress import Done, Progress
from preprocessing.work import Counters, Worker

POLL = 0.5  # seconds between two looks at the workers' progress
LOCKED = 0.1  # seconds for which a worker waits to count what it did
TIMED = ("decode", "detect", "track", "sound", "write")  # stages of one clip

Job = tuple[Clip, Path]

_worker: Worker | None = None  # of this process


@dataclasses.dataclass
class Processed:
    """What is staged of all clips."""

    results: dict[str, dict]  # by clip, what is short; clips that gave nothing are not in it
    problems: list[Problem]  # of those
    to_try_again: int  # of those, as the reason may pass
    ran: int  # how many were run now
    seconds: dict[str, float]  # of this run's workers together, by stage; nothing where an engine has them


class SharedCounters(Counters):
    """What the workers have done so far, in memory that their processes share."""

    def __init__(self):
        self._values = multiprocessing.get_context("spawn").Array("d", 3 + len(TIMED))

    def _add(self, *values: float, first: int = 0) -> None:
        if self._values.get_lock().acquire(timeout=LOCKED):  # A process that was killed in here never lets go of it.
            try:
                for place, value in enumerate(values, first):
                    self._values.get_obj()[place] += value
            finally:
                self._values.get_lock().release()

    def advance(self, share: float, pictures: int) -> None:
        self._add(share, float(pictures))

    def add_problem(self) -> None:
        self._add(1.0, first=2)

    def add_times(self, took: dict[str, float]) -> None:
        self._add(*(took.get(stage, 0.0) for stage in TIMED), first=3)

    @property
    def done(self) -> Done:
        clips, pictures, problems = self._values.get_obj()[:3]
        return Done(clips, int(pictures), int(problems))

    def seconds(self) -> dict[str, float]:
        """By stage, of all workers together."""
        return dict(zip(TIMED, (round(value, 2) for value in self._values.get_obj()[3:]), strict=True))


class StagedFiles:
    """What an engine has done so far, by the files that it has left; how many pictures they hold is not known."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._before = self._count(staging.STAGED)

    def _count(self, suffix: str) -> int:
        return sum(1 for _ in self._folder.glob("*" + suffix))

    @property
    def done(self) -> Done:
        failed = self._count(staging.FAILED)
        return Done(self._count(staging.STAGED) - self._before + failed, None, failed)

    def seconds(self) -> dict[str, float]:
        """Not known."""
        return {}


def process_all(
    names: Sequence[str],
    clip_of: Callable[[str], Clip],
    folder: Path,
    options: Options,
    progress: Progress,
    pipeline=None,
) -> Processed:
    """Stages every clip that is not staged yet.

    Args:
      names: of all clips; what is staged of others is removed.
      clip_of: what `Worker` must know of one.
      folder: of what is staged.
      options: of the dataset, with nothing left open.
      progress: is told how the work goes on.
      pipeline: options of an Apache Beam pipeline that is to do the work, else processes of this machine do it.
    """
    staged = {name: staging.staged_path(folder, name) for name in names}
    staging.keep_only(folder, staged.values())
    missing = _missing(names, clip_of, staged, options)
    if options.stage == "build" and missing:
        raise PreprocessError(
            f"{len(missing)} of {len(names)} videos have not been looked at as the options say ({missing[0]} ...): "
            "run `mmdiff preprocess` with the same options and `--stage detect` first, or give boxes made elsewhere as "
            "`--detector import:FILE`"
        )
    for name in missing:
        staged[name].unlink(missing_ok=True)
        staging.failed_path(staged[name]).unlink(missing_ok=True)
    jobs = ((clip_of(name), staged[name]) for name in missing)
    counters = SharedCounters() if pipeline is None else StagedFiles(folder)
    if missing:
        with progress.over(len(names), len(names) - len(missing), lambda: counters.done):
            if pipeline is None:
                _run(jobs, options, counters, progress.show)
            else:
                from preprocessing.run_on_beam import run_on_beam

                run_on_beam(jobs, options, pipeline, progress.show)
                _refuse_nothing(missing, staged)
    results, failures = {}, []
    for name in names:
        short = staging.load_short(staged[name])
        if short is None:
            failures.append(staging.load_failure(staged[name]) or _lost(name, {}))
        else:
            results[name] = short
    to_try_again = sum(not failure.lasting for failure in failures)
    return Processed(results, [failure.problem for failure in failures], to_try_again, len(missing), counters.seconds())


def _refuse_nothing(names: Sequence[str], staged: dict[str, Path]) -> None:
    """Raises PreprocessError where an engine left neither results nor reasons."""
    left = [name for name in names if not staged[name].exists() and staging.load_failure(staged[name]) is None]
    if left:
        raise PreprocessError(
            f"the pipeline ended and left nothing of {len(left)} videos ({left[0]} ...): do all its machines see "
            f"{staged[left[0]].parent} under this path? Mend that and start again"
        )


def _missing(
    names: Sequence[str], clip_of: Callable[[str], Clip], staged: dict[str, Path], options: Options
) -> list[str]:
    """The clips that are to be run: the largest first, lest one process is still at it when the others have nothing left."""
    sizes = {}
    for name in names:
        signature = staging.signature(clip_of(name), options)
        failure = staging.load_failure(staged[name])
        # What may pass is tried again, but not by a build, which looks at no video.
        failed = failure and failure.signature == signature and (failure.lasting or options.stage == "build")
        if not failed and staging.load_short(staged[name], signature) is None:
            sizes[name] = signature["sources"][0][2]
    return sorted(sizes, key=lambda name: (-sizes[name], name))


def _lost(name: str, signature: dict) -> staging.Failure:
    advice = "it may need more memory than there is, or be damaged so that the decoder crashes: convert it"
    problem = Problem(name, "decode", "the process that read it was killed", advice)
    return staging.Failure(problem, False, signature)


def _run(jobs: Iterator[Job], options: Options, counters: SharedCounters, on_wait: Callable[[], None]) -> None:
    """Runs every job. A clip that kills its process is a problem of that clip only."""
    if options.workers == 0:
        worker = Worker(options, counters)
        for job in jobs:
            worker(*job)
            on_wait()
        return
    suspects: list[Job] = []
    job = next(jobs, None)
    while job:
        running, jobs = _run_pool(itertools.chain([job], jobs), options.workers, options, counters, on_wait)
        if any(staging.load_failure(staged) for _, staged in running):  # One that did not end: it has told of itself.
            jobs = itertools.chain((job for job in running if staging.load_failure(job[1]) is None), jobs)
        else:
            suspects += running
        job = next(jobs, None)
    for clip, staged in suspects:  # Each ran when a process died, of itself or beside the culprit: alone it shows.
        if not staged.exists() and staging.load_failure(staged) is None:
            dead, _ = _run_pool(iter([(clip, staged)]), 1, options, counters, on_wait)
            if dead and staging.load_failure(staged) is None:
                staging.save_failure(staged, _lost(clip.name, staging.signature(clip, options)))


def _run_pool(
    jobs: Iterator[Job], workers: int, options: Options, counters: SharedCounters, on_wait: Callable[[], None]
) -> tuple[list[Job], Iterator[Job]]:
    """Runs jobs in fresh processes; returns those that ran, and those that waited, when the pool died."""
    threads = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    os.environ.update(dict.fromkeys(threads, "1"))  # Inherited: OpenMP reads it once, when the worker starts.
    waiting, running = next(jobs, None), {}
    others = set(multiprocessing.active_children())
    pool = concurrent.futures.ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), _start_pool_worker, (options, counters)
    )
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                future = pool.submit(_work, *waiting)  # A dead pool refuses: the job stays where it is.
                running[future], waiting = waiting, next(jobs, None)
            ended, _ = concurrent.futures.wait(running, POLL, concurrent.futures.FIRST_COMPLETED)
            on_wait()
            for future in ended:
                future.result()
                running.pop(future)
    except concurrent.futures.process.BrokenProcessPool:
        pass
    finally:
        if waiting or running:  # Interrupted. Staged files appear whole or not at all, so nothing is lost but time.
            for worker in set(multiprocessing.active_children()) - others:
                worker.terminate()
        pool.shutdown(cancel_futures=True)
        for name, value in threads.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
    return list(running.values()), itertools.chain([waiting] if waiting else [], jobs)


def _start_pool_worker(options: Options, counters: SharedCounters) -> None:
    """Also sees to it that a worker ends with its parent, however that ends, and leaves Ctrl-C to it."""
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=lambda: (multiprocessing.parent_process().join(), os._exit(1)), daemon=True).start()
    _worker = Worker(options, counters)
    _worker.end_if_stuck()


def _work(clip: Clip, staged: Path) -> None:
    _worker(clip, staged)
