"""Clips in, the result of each staged out: one process per core, a detector in each."""

import concurrent.futures
import dataclasses
import functools
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from preprocessing import staging
from preprocessing.clip import Clip
from preprocessing.detect_people import HUMAN, Detector, detector_class
from preprocessing.options import Options
from preprocessing.problems import PreprocessError, Problem, VideoError
from preprocessing.process_video import process

INSTALL = "`make setup`, or `pip install -c constraints.txt '.[preprocess]'` in the repository"
POLL = 0.5  # seconds between two looks at the workers' progress

_detector: Callable[[], Detector | None] | None = None  # one per worker process
_watched_share = None  # clips that all workers have gone through, in whole and in part, shared between the processes


def process_all(
    clips: Iterable[Clip], names: Sequence[str], folder: Path, options: Options, progress: bool
) -> tuple[dict[str, dict], list[Problem], int]:
    """What every clip gave, without its records; the problems of those that gave nothing; how many were run now.

    Args:
      clips: taken one after another, as workers become free.
      names: of all these clips.
      folder: of what is staged; results of other clips are removed from it.
      options: of the dataset, with nothing left open.
      progress: whether to show a bar.
    """
    staged = {name: staging.staged_path(folder, name) for name in names}
    staging.keep_only(folder, staged.values())
    counter = multiprocessing.get_context("spawn").Value("d", 0.0)
    problems, ran = [], 0

    def jobs() -> Iterator[tuple]:
        nonlocal ran
        for clip in clips:
            if staging.load_short(staged[clip.name], staging.signature(clip, options)) is None:
                staged[clip.name].unlink(missing_ok=True)
                ran += 1
                yield clip, staged[clip.name], options
            else:
                with counter.get_lock():
                    counter.value += 1

    form = "{l_bar}{bar}| {n:.1f}/{total} clips [{elapsed}<{remaining}{postfix}]"
    with tqdm(total=len(names), desc="finding people", disable=not progress, bar_format=form) as bar:
        for name, problem in _run(jobs(), options, counter, lambda: _show(bar, counter)):
            _show(bar, counter)
            bar.set_postfix_str(name[-30:])
            if problem:
                problems.append(problem)
        _show(bar, counter)
    problems.sort(key=lambda problem: problem.file)  # They came as the processes ended.
    results = {name: staging.load_short(staged[name]) for name in names}
    return {name: result for name, result in results.items() if result}, problems, ran


def _show(bar: tqdm, counter) -> None:
    bar.update(min(counter.value, bar.total) - bar.n)


def _run(jobs: Iterator[tuple], options: Options, counter, on_wait) -> Iterator[tuple[str, Problem | None]]:
    """Every job's problem or None, as they end. A clip that kills its process is a problem of that clip only."""
    if options.workers == 0:
        started = False
        for job in jobs:
            started = started or _start_worker(options.detector, counter)
            yield job[0].name, _work(*job)
        return
    suspects = []
    job = next(jobs, None)
    while job:
        running, jobs = yield from _run_pool(itertools.chain([job], jobs), options.workers, options, counter, on_wait)
        suspects += running
        job = next(jobs, None)
    for job in suspects:  # Each ran when a process died, of itself or beside the culprit: alone it shows.
        dead, _ = yield from _run_pool(iter([job]), 1, options, counter, on_wait)
        if dead:
            advice = "it may need more memory than there is, or be damaged so that the decoder crashes: convert it"
            yield job[0].name, Problem(job[0].name, "decode", "the process that read it was killed", advice)


def _run_pool(jobs: Iterator[tuple], workers: int, options: Options, counter, on_wait):
    """Runs jobs in fresh processes; returns those that ran, and those that waited, when the pool died."""
    threads = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    os.environ.update(dict.fromkeys(threads, "1"))  # Inherited: OpenMP reads it once, when the worker starts.
    waiting, running = next(jobs, None), {}
    others = set(multiprocessing.active_children())
    pool = concurrent.futures.ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), _start_pool_worker, (options.detector, counter)
    )
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                future = pool.submit(_work, *waiting)  # A dead pool refuses: the job stays where it is.
                running[future], waiting = waiting, next(jobs, None)
            ended, _ = concurrent.futures.wait(running, POLL, concurrent.futures.FIRST_COMPLETED)
            on_wait()
            for future in ended:
                problem = future.result()
                yield running.pop(future)[0].name, problem
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


def _start_worker(detector: str, counter) -> bool:
    import cv2

    global _detector, _watched_share
    cv2.setNumThreads(1)
    _watched_share = counter
    _detector = functools.cache(lambda: _build(detector))  # At the first job, which can tell of a failure.
    return True


def _build(name: str) -> Detector | None:
    if name == HUMAN:
        return None
    try:
        return detector_class(name)()
    except Exception as error:
        raise PreprocessError(
            f"detector {name!r} cannot be built ({error!r}); is everything installed that it needs ({INSTALL})?"
        ) from error


def _start_pool_worker(detector: str, counter) -> None:
    """Also sees to it that a worker ends with its parent, however that ends, and leaves Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=lambda: (multiprocessing.parent_process().join(), os._exit(1)), daemon=True).start()
    _start_worker(detector, counter)


def _work(clip: Clip, staged: Path, options: Options) -> Problem | None:
    """Processes one clip and keeps the result; a problem where it cannot be used."""
    detector = _detector()
    done = 0.0

    def advance(share: float) -> None:
        nonlocal done
        with _watched_share.get_lock():
            _watched_share.value += max(0.0, share - done)
        done = max(done, share)

    try:
        signature = staging.signature(clip, options)
        staging.save(staged, signature, process(clip, options, detector, advance))
    except VideoError as error:
        return dataclasses.replace(error.problem, file=clip.name)
    except OSError as error:
        return Problem(clip.name, "decode", f"cannot be read ({error})", "check the file, its rights and the disk")
    except ImportError as error:  # It would be so with every clip.
        raise PreprocessError(f"{error}; run {INSTALL}") from error
    except PreprocessError:
        raise
    except Exception as error:  # noqa: BLE001  whatever it is, the other clips are not concerned
        advice = "convert it, and report this line to us"
        return Problem(clip.name, "process", f"cannot be processed ({error!r})", advice)
    finally:
        advance(1.0)
    return None
