"""Videos in, the result of each staged out: one process per core, a detector in each."""

import concurrent.futures
import dataclasses
import functools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from tqdm import tqdm

from preprocessing import staging
from preprocessing.detect_people import Detector, detector_class
from preprocessing.options import Options
from preprocessing.problems import PreprocessError, Problem, VideoError
from preprocessing.process_video import process

INSTALL = "`make setup`, or `pip install -c constraints.txt '.[preprocess]'` in the repository"
POLL = 0.5  # seconds between two looks at the workers' progress

_detector: Callable[[], Detector] | None = None  # one per worker process
_watched_share = None  # bytes of video that all workers have gone through, shared between the processes


def process_all(
    files: dict[str, Path], folder: Path, options: Options, progress: bool
) -> tuple[dict[str, dict], list[Problem], int]:
    """What every video gave, without its windows; the problems of those that gave nothing; how many were run now."""
    staged = {name: staging.staged_path(folder, name) for name in files}
    staging.keep_only(folder, staged.values())
    waiting, problems = {}, []
    for name, path in files.items():
        if staging.load_short(staged[name], staging.signature(path, options)) is None:
            staged[name].unlink(missing_ok=True)
            waiting[name] = path
    counter = multiprocessing.get_context("spawn").Value("d", 0.0)
    total = sum(path.stat().st_size for path in waiting.values())
    with tqdm(
        total=total, unit="B", unit_scale=True, desc="finding people", disable=not progress or not waiting
    ) as bar:
        jobs = [(path, name, staged[name], options) for name, path in waiting.items()]
        for name, problem in _run(jobs, options, counter, lambda: _show(bar, counter)):
            _show(bar, counter)
            bar.set_postfix_str(name[-30:])
            if problem:
                problems.append(problem)
    problems.sort(key=lambda problem: problem.file)  # They came as the processes ended.
    results = {name: staging.load_short(staged[name]) for name in files}
    return {name: result for name, result in results.items() if result}, problems, len(waiting)


def _show(bar: tqdm, counter) -> None:
    bar.update(min(counter.value, bar.total) - bar.n)


def _run(jobs: list[tuple], options: Options, counter, on_wait) -> Iterator[tuple[str, Problem | None]]:
    """Every job's problem or None, as they end. A video that kills its process is a problem of that video only."""
    if options.workers == 0:
        if jobs:
            _start_worker(options.detector, counter)
        for job in jobs:
            yield job[1], _work(*job)
        return
    suspects = []
    while jobs:
        running, jobs = yield from _run_pool(jobs, min(options.workers, len(jobs)), options, counter, on_wait)
        suspects += running
    for job in suspects:  # Each ran when a process died, of itself or beside the culprit: alone it shows.
        if any((yield from _run_pool([job], 1, options, counter, on_wait))):
            advice = "it may need more memory than there is, or be damaged so that the decoder crashes: convert it"
            yield job[1], Problem(job[1], "decode", "the process that read it was killed", advice)


def _run_pool(jobs: list[tuple], workers: int, options: Options, counter, on_wait):
    """Runs jobs in fresh processes, one per core; returns those that ran, and those that waited, when the pool died."""
    threads = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    os.environ.update(dict.fromkeys(threads, "1"))  # Inherited: OpenMP reads it once, when the worker starts.
    waiting, running = list(reversed(jobs)), {}
    others = set(multiprocessing.active_children())
    pool = concurrent.futures.ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), _start_pool_worker, (options.detector, counter)
    )
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                future = pool.submit(_work, *waiting[-1])  # A dead pool refuses: the job stays where it is.
                running[future] = waiting.pop()
            ended, _ = concurrent.futures.wait(running, POLL, concurrent.futures.FIRST_COMPLETED)
            on_wait()
            for future in ended:
                problem = future.result()
                yield running.pop(future)[1], problem
    except concurrent.futures.process.BrokenProcessPool:
        pass
    finally:
        if waiting or running:  # Interrupted. Staged files appear whole or not at all, so nothing is lost but time.
            for worker in set(multiprocessing.active_children()) - others:
                worker.terminate()
        pool.shutdown(cancel_futures=True)
        for name, value in threads.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
    return list(running.values()), waiting[::-1]


def _start_worker(detector: str, counter) -> None:
    import cv2

    global _detector, _watched_share
    cv2.setNumThreads(1)
    _watched_share = counter
    _detector = functools.cache(lambda: _build(detector))  # At the first job, which can tell of a failure.


def _build(name: str) -> Detector:
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


def _work(path: Path, name: str, staged: Path, options: Options) -> Problem | None:
    """Processes one video and keeps the result; a problem where it cannot be used."""
    detector = _detector()
    size, done = 0, 0.0

    def advance(share: float) -> None:
        nonlocal done
        with _watched_share.get_lock():
            _watched_share.value += max(0.0, share - done) * size
        done = max(done, share)

    try:
        size = path.stat().st_size
        signature = staging.signature(path, options)
        staging.save(staged, signature, process(path, options, detector, name, advance))
    except VideoError as error:
        return dataclasses.replace(error.problem, file=name)
    except OSError as error:
        return Problem(name, "decode", f"cannot be read ({error})", "check the file, its rights and the disk")
    except ImportError as error:  # It would be so with every video.
        raise PreprocessError(f"{error}; run {INSTALL}") from error
    except PreprocessError:
        raise
    except Exception as error:  # noqa: BLE001  whatever it is, the other videos are not concerned
        return Problem(name, "process", f"cannot be processed ({error!r})", "convert it, and report this line to us")
    finally:
        advance(1.0)
    return None
