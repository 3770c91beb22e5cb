"""A folder of videos in, records on disk out; killed at any moment and started again it ends the same."""

import concurrent.futures
import dataclasses
import hashlib
import json
import math
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from mmdiff.data.records import BUILDER_NAME, PARTS
from preprocessing import staging
from preprocessing.detect_people import Detector, detector_class
from preprocessing.options import Options
from preprocessing.problems import PreprocessError, Problem, VideoError
from preprocessing.process_video import process
from preprocessing.questions import FILE_NAME, read_questions

MANIFEST, SUMMARY, PROBLEMS, STAGING = "preprocess.json", "summary.json", "problems.jsonl", "staging"
POLL = 0.5  # seconds between two looks at the workers' progress


@dataclasses.dataclass
class Summary:
    """What a run made; also written to `summary.json`."""

    videos: int  # used
    records: dict[str, int]  # by split
    frames: int  # looked at by the detector
    boxes: dict[str, int]  # by part, over all these frames
    seconds_of_video: float
    problems: int
    notices: list[str]  # what deserves a word but is nobody's mistake
    seconds_taken: dict[str, float]  # by stage
    detected: int  # videos whose detection was run now; the others were there already
    already_done: bool = False


def preprocess(videos: Path, out: Path, options: Options, progress: bool = True) -> Summary:
    """Detects, then writes: `out` holds the dataset, `summary.json`, `problems.jsonl`, and `staging` for next time.

    `progress` shows bars. Bad videos and questions become lines of `problems.jsonl`. Raises PreprocessError where the
    run as a whole cannot be done.
    """
    videos, out = Path(videos), Path(out)
    options.check()
    try:
        detector_class(options.detector)
    except ValueError as error:
        raise PreprocessError(str(error)) from None
    files, problems = find_videos(videos, options, out)
    asked_in = _questions_file(videos, options)
    manifest = _manifest(videos, files, asked_in, options)
    if done := _already_done(out, manifest):
        return done
    out.mkdir(parents=True, exist_ok=True)
    _write_json(out / MANIFEST, manifest)

    began = time.monotonic()
    results, failures, detected = _detect_all(files, out / STAGING, options, progress)
    taken = {"detect": round(time.monotonic() - began, 2)}
    problems += failures
    for result in results.values():
        problems += [Problem(**problem) for problem in result["problems"]]
    if not results:
        _write_problems(out, problems)
        raise PreprocessError(
            f"none of the {len(files) + len(problems) - len(failures)} videos in {videos} could be used; the first "
            f"problem: {problems[0].file}: {problems[0].problem}; all of them are in {out / PROBLEMS}"
        )
    questions = {}
    if asked_in:
        questions, wrong = read_questions(asked_in, sorted(results))
        problems += wrong

    began = time.monotonic()
    splits, notices = split_videos(sorted(results), options.validation_share)
    counts, wrong = _write_dataset(out, splits, questions, manifest, progress)
    taken["write"] = round(time.monotonic() - began, 2)
    problems += [dataclasses.replace(p, file=p.file.replace("questions", asked_in.name, 1)) for p in wrong]
    _write_problems(out, problems)
    summary = Summary(
        videos=len(results),
        records=counts,
        frames=sum(result["frames"] for result in results.values()),
        boxes={part: sum(result["boxes"][part] for result in results.values()) for part in PARTS},
        seconds_of_video=round(sum(result["seconds"] for result in results.values()), 2),
        problems=len(problems),
        notices=notices,
        seconds_taken=taken,
        detected=detected,
    )
    _write_json(out / SUMMARY, dataclasses.asdict(summary))  # Last: its presence says that all is finished.
    return summary


def find_videos(folder: Path, options: Options, out: Path) -> tuple[dict[str, Path], list[Problem]]:
    """Every video in the folder and below by its path inside it, sorted; and those whose name cannot be stored.

    Hidden files and folders are passed over, and so is `out`. Raises PreprocessError where there is none.
    """
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise PreprocessError(f"{folder} {what}; give the folder that holds the videos")
    found, problems = {}, []
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name[0] != "." and (Path(root) / name).resolve() != out.resolve()]
        for file in names:
            path = Path(root, file)
            if file[0] == "." or path.suffix.lower() not in options.extensions:
                continue
            name = path.relative_to(folder).as_posix()
            try:
                name.encode()
                found[name] = path
            except UnicodeEncodeError:
                readable = os.fsencode(name).decode(errors="replace")
                problems.append(Problem(readable, "names", "its name is not valid UTF-8", "rename the file"))
    if not found and not problems:
        raise PreprocessError(
            f"{folder} holds no video; looked for {' '.join(options.extensions)} in it and in its folders"
        )
    return dict(sorted(found.items())), problems


def split_videos(names: list[str], share: float) -> tuple[dict[str, list[str]], list[str]]:
    """Which videos are for training and which for validation, by the hash of their names; and what to tell about it.

    The same names give the same split on every machine. One video at least is left for training.
    """
    order = sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    count = min(math.ceil(share * len(order)), len(order) - 1)
    if share and not count:
        return {"train": names}, ["there is only one video: all of it is for training, nothing for validation"]
    validation = set(order[:count])
    splits = {"train": [name for name in names if name not in validation]}
    return (splits | {"validation": sorted(validation)} if validation else splits), []


def _questions_file(videos: Path, options: Options) -> Path | None:
    if options.questions is None:
        beside = videos / FILE_NAME
        return beside if beside.is_file() else None
    if not Path(options.questions).is_file():
        raise PreprocessError(f"there is no file of questions {options.questions}; correct --questions or leave it out")
    return Path(options.questions)


def _manifest(videos: Path, files: dict[str, Path], questions: Path | None, options: Options) -> dict:
    """All that the dataset depends on, as JSON."""
    return {
        "videos": str(videos.resolve()),
        "options": options.of_dataset(),
        "format": staging.FORMAT,
        "sources": {name: staging.signature(path, options)["sources"] for name, path in files.items()},
        "questions": hashlib.sha256(questions.read_bytes()).hexdigest() if questions else None,
    }


def _already_done(out: Path, manifest: dict) -> Summary | None:
    """The summary of a finished run on the same; None where there is something to do.

    Raises PreprocessError where `out` belongs to something else.
    """
    if out.exists() and not out.is_dir():
        raise PreprocessError(f"{out} is a file; give a new folder for the records")
    if not out.exists() or not any(out.iterdir()):
        return None
    try:
        before = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        some = ", ".join(sorted(path.name for path in out.iterdir())[:3])
        raise PreprocessError(
            f"{out} already holds other things ({some}); give a new or empty folder for the records"
        ) from None
    if not (out / SUMMARY).is_file():
        return None  # An interrupted run: staged videos that fit are used again, the others are made again.
    differing = [
        f"{name} was {before['options'].get(name)!r} and is now {value!r}"
        for name, value in manifest["options"].items()
        if before["options"].get(name) != value
    ]
    if before["videos"] != manifest["videos"]:
        differing.append(f"the videos were {before['videos']} and are now {manifest['videos']}")
    if differing:
        raise PreprocessError(
            f"{out} holds records that were made otherwise: {'; '.join(differing)}. "
            f"Give another folder, or remove {out} to make them anew"
        )
    if before != manifest:
        return None
    summary = json.loads((out / SUMMARY).read_text(encoding="utf-8"))
    return Summary(**{**summary, "already_done": True})


# --- detection -------------------------------------------------------------------------------------------------------

_detector: Detector | None = None  # one per worker process
_watched_share = None  # bytes of video that all workers have gone through, shared between the processes


def _start_worker(detector: str, counter) -> None:
    import cv2

    global _detector, _watched_share
    cv2.setNumThreads(1)
    _detector, _watched_share = detector_class(detector)(), counter


def _start_pool_worker(detector: str, counter) -> None:
    """Also sees to it that a worker ends with its parent, however that ends, and leaves Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=lambda: (multiprocessing.parent_process().join(), os._exit(1)), daemon=True).start()
    _start_worker(detector, counter)


def _work(path: Path, name: str, staged: Path, options: Options) -> Problem | None:
    """Processes one video and keeps the result; a problem where it cannot be used."""
    size, done = path.stat().st_size, 0.0

    def advance(share: float) -> None:
        nonlocal done
        with _watched_share.get_lock():
            _watched_share.value += max(0.0, share - done) * size
        done = max(done, share)

    try:
        signature = staging.signature(path, options)
        staging.save(staged, signature, process(path, options, _detector, name, advance))
    except VideoError as error:
        return dataclasses.replace(error.problem, file=name)
    except OSError as error:
        return Problem(name, "decode", f"cannot be read ({error})", "check the file, its rights and the disk")
    finally:
        advance(1.0)
    return None


def _detect_all(
    files: dict[str, Path], folder: Path, options: Options, progress: bool
) -> tuple[dict[str, dict], list[Problem], int]:
    """What every video gave, without its windows; the problems of those that gave nothing; how many were run now."""
    staged = {name: staging.staged_path(folder, name) for name in files}
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
    suspects = yield from _run_pool(jobs, min(options.workers, len(jobs)), options, counter, on_wait)
    for job in suspects:  # One of them killed the pool: each gets a process of its own.
        if (yield from _run_pool([job], 1, options, counter, on_wait)):
            advice = "it may need more memory than there is, or be damaged so that the decoder crashes: convert it"
            yield job[1], Problem(job[1], "decode", "the process that read it was killed", advice)


def _run_pool(jobs: list[tuple], workers: int, options: Options, counter, on_wait):
    """Runs jobs in fresh processes, one per core; returns those that are left when the pool dies."""
    if not jobs:
        return []
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
                job = waiting.pop()
                running[pool.submit(_work, *job)] = job
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
    return [*running.values(), *reversed(waiting)]


# --- writing ---------------------------------------------------------------------------------------------------------


def _write_dataset(
    out: Path, splits: dict[str, list[str]], questions: dict, manifest: dict, progress: bool
) -> tuple[dict[str, int], list[Problem]]:
    from preprocessing.write_records import write

    (out / SUMMARY).unlink(missing_ok=True)
    shutil.rmtree(out / BUILDER_NAME, ignore_errors=True)  # made from `staging`, which stays
    staged = {split: [staging.staged_path(out / STAGING, name) for name in names] for split, names in splits.items()}
    metadata = {"options": manifest["options"], "detector": manifest["options"]["detector"]}
    with tqdm(total=sum(map(len, splits.values())), unit="video", desc="writing", disable=not progress) as bar:
        builder = write(out, splits=staged, questions=questions, metadata=metadata, on_video=bar.update)
    return {split: info.num_examples for split, info in builder.info.splits.items()}, builder.problems


def _write_problems(out: Path, problems: list[Problem]) -> None:
    lines = [json.dumps(dataclasses.asdict(problem), ensure_ascii=False) + "\n" for problem in problems]
    _write_text(out / PROBLEMS, "".join(lines))


def _write_json(path: Path, values: dict) -> None:
    _write_text(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n")


def _write_text(path: Path, text: str) -> None:
    unfinished = path.with_name(path.name + ".unfinished")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, path)
