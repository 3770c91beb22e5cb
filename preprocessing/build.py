"""A dataset's folder in, records on disk out; killed at any moment and started again it ends the same."""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import re
import shutil
import textwrap
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from tqdm import tqdm

from mmdiff.whole_files import UNFINISHED, whole
from preprocessing import staging
from preprocessing.clip import Clip
from preprocessing.datasets import open_dataset
from preprocessing.datasets.dataset import Dataset, Read
from preprocessing.detect_people import HUMAN, check_detector, check_device, digest_of_weights
from preprocessing.import_boxes import ImportedBoxes
from preprocessing.options import MANIFEST, TRANSFORMERS, Options
from preprocessing.problems import PreprocessError, Problem
from preprocessing.process_all import process_all
from preprocessing.progress import Progress
from preprocessing.score_frames import Scored, Wanted, score_all, wanted
from preprocessing.staged import (
    BOXES,
    COCO,
    Staged,
    digest_of_boxes,
    open_imported,
    refuse_changed_boxes,
    write_boxes_of,
)

SUMMARY, PROBLEMS, STAGING = "summary.json", "problems.jsonl", "staging"
LOCK = ".lock"  # held by the run that is at work
LAYOUT = 3  # Raise it when the same staged clips give other records, or another description of them.
VIDEOS_NAMED = 5
KINDS_SHOWN, MOST_TOLD = 8, 80  # of problems, and of the characters of each


@dataclasses.dataclass
class Summary:
    """What a run made; also written to `summary.json`."""

    out: str  # the folder that holds it
    dataset: str
    stage: str  # "detect": boxes; "build": records too
    version: str  # a digest of all that the boxes and records depend on
    videos: int  # used
    records: dict[str, int]  # by split
    coverage: dict[str, dict[str, int]]  # by split: questions `annotated`, and those `kept` in the records
    frames: int  # looked at by the detector
    boxes: dict[str, int]  # by part, over all these frames
    sources: dict[str, int]  # the same boxes, by where they come from
    tracks: int
    stored: dict[str, int]  # `frames` and their `bytes`; `frames_asked` and `bytes_asked`: as all questions see them
    seconds_of_video: float
    problems: int
    to_try_again: int  # videos that gave nothing for a reason that may pass: the next run looks at them again
    kinds_of_problems: list[dict]  # how many there are of each, and the first file that has it
    notices: list[str]  # what deserves a word but is nobody's mistake
    seconds_taken: dict[str, float]  # by stage of the run
    seconds_of_workers: dict[str, float]  # what the stages of all clips took, in all processes together
    detected: int  # videos whose detection was run now; the others were there already
    similarity: dict | None = None  # score_frames.Scored, where a CLIP model was named
    windows: int = 0  # of all records; a summary of an older version does not say it
    windows_without_people: dict[str, int] = dataclasses.field(default_factory=dict)  # by video
    already_done: bool = False

    def describe(self) -> str:
        """A few lines for the command line."""
        records = " and ".join(f"{count} {split}" for split, count in self.records.items()) or "none yet"
        lines = [
            f"videos: {self.videos}, records: {records}, faces: {self.boxes['face']}, bodies: {self.boxes['body']}"
            + f", others: {self.boxes['object']}" * bool(self.boxes["object"])
            + f", tracks: {self.tracks}"
            + " (all was there already)" * self.already_done
        ]
        if any(share["annotated"] for share in self.coverage.values()):
            kept = ", ".join(
                f"{split} {share['kept']} of {share['annotated']}" for split, share in self.coverage.items()
            )
            lines.append(f"questions kept: {kept}")
        if self.stored.get("bytes_asked", 0) > self.stored.get("bytes", 0):
            times, size = self.stored["bytes_asked"] / self.stored["bytes"], self.stored["bytes"] / 1e6
            lines.append(
                f"frames: {self.stored['frames']} stored once, {size:.1f} MB; a copy for each question would be "
                f"{self.stored['frames_asked']} ({times:.2f} times the bytes)"
            )
        if self.similarity:
            lines.append(Scored(**self.similarity).describe())
        lines += self.notices
        if self.problems:
            from mmdiff.reports.tables import to_markdown  # which takes its time to be there

            lines += [
                f"problems: {self.problems}, all of them in {Path(self.out) / PROBLEMS}"
                + f"; the next run tries {self.to_try_again} videos again" * bool(self.to_try_again),
                to_markdown(self.kinds_of_problems[:KINDS_SHOWN]).rstrip(),
            ]
        if self.windows:
            lines.append(self._describe_people())
        lines.append(f"boxes in {Path(self.out) / BOXES}, all numbers in {Path(self.out) / SUMMARY}")
        return "\n".join(lines)

    def _describe_people(self) -> str:
        """Which windows `difference` masks at random, since it finds nobody in them."""
        without, videos = sum(self.windows_without_people.values()), list(self.windows_without_people)
        line = f"windows without a person: {without} of {self.windows} ({100 * without / self.windows:.1f}%)"
        if not without:
            return line
        more = len(videos) - VIDEOS_NAMED
        named = ", ".join(videos[:VIDEOS_NAMED]) + f" and {more} more" * (more > 0)
        return f"{line}, which `difference` masks at random; in {named}"


def preprocess(data: Path, out: Path, options: Options, progress: bool = True) -> Summary:
    """Detects, then writes: `out` holds boxes, the dataset, `summary.json`, `problems.jsonl`, and `staging`.

    `progress` shows how the work goes on. Bad clips and questions become lines of `problems.jsonl`. Raises
    PreprocessError where the run as a whole cannot be done.
    """
    dataset = open_checked(data, out, options)
    out, options = dataset.out, dataset.options
    model, pipeline = wanted(options), _pipeline(options)
    read = dataset.read()
    manifest = manifest_of(dataset, read) | {"similarity": model and model.to_json(), "boxes": digest_of_boxes(options)}
    refuse_changed_boxes(out, options)
    if done := _already_done(out, manifest, options):
        return done
    with alone(out):
        return _preprocess(dataset, read, out, manifest, model, pipeline, progress)


def _preprocess(
    dataset: Dataset, read: Read, out: Path, manifest: dict, model: Wanted | None, pipeline, progress: bool
) -> Summary:
    """What is not done yet."""
    options = dataset.options
    try:
        (out / SUMMARY).unlink(missing_ok=True)  # first: from here on nothing is finished
        _write_json(out / MANIFEST, manifest)
    except OSError as error:
        raise PreprocessError(f"{out} cannot be written ({error}); give another folder for the records") from None
    taken = {}
    try:
        with _timed(taken, "detect"):
            staged = stage(dataset, read, out, progress, pipeline)
    except Unusable as error:
        _write_problems(out, error.problems)
        raise PreprocessError(f"{error}; all of them are in {out / PROBLEMS}") from None
    shutil.rmtree(out / dataset.name, ignore_errors=True)  # of other boxes; made from `staging`, which stays
    with _timed(taken, "boxes"):
        counted = write_boxes_of(staged, out, options)
    builder = None
    if options.stage != "detect":
        if model:
            with _timed(taken, "score"):
                score(staged, model, progress)
        with _timed(taken, "write"):
            builder = _write_dataset(out, staged, progress)
    problems = [*staged.problems, *staged.misplaced.values(), *(builder.problems if builder else [])]
    _write_problems(out, problems)
    results = staged.results.values()
    summary = Summary(
        out=str(out),
        dataset=dataset.name,
        stage="build" if builder else "detect",
        version=_version(manifest),
        videos=len(results),
        records={split: builder.info.splits[split].num_examples for split in staged.splits} if builder else {},
        coverage=builder.coverage if builder else {},
        frames=sum(result["frames"] for result in results),
        boxes=dict(counted.parts),
        sources=dict(counted.sources),
        tracks=counted.tracks,
        stored=dict(builder.stored) if builder else {},
        seconds_of_video=round(sum(result["seconds"] for result in results), 2),
        problems=len(problems),
        to_try_again=staged.to_try_again,
        kinds_of_problems=kinds_of(problems),
        notices=staged.notices,
        seconds_taken=taken,
        seconds_of_workers=staged.seconds,
        detected=staged.ran,
        similarity=staged.similarity and dataclasses.asdict(staged.similarity),
        windows=builder.windows if builder else 0,
        windows_without_people=dict(builder.without_people) if builder else {},
    )
    _write_json(out / SUMMARY, dataclasses.asdict(summary))  # Last: its presence says that all is finished.
    return summary


@contextlib.contextmanager
def alone(out: Path) -> Iterator[None]:
    """Makes the folder, and holds it against other runs. Raises PreprocessError where one is at work in it."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = (out / LOCK).open("a")
    except OSError as error:
        raise PreprocessError(f"{out} cannot be written ({error}); give another folder for the records") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PreprocessError(f"another run is at work in {out}: wait for it, or give another folder") from None
        except OSError:
            pass  # A file system without locks.
        yield


@contextlib.contextmanager
def _timed(taken: dict[str, float], name: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    taken[name] = round(time.monotonic() - began, 2)


def kinds_of(problems: Iterable[Problem]) -> list[dict]:
    """Problems by what went wrong, numbers in it aside: the most frequent first."""
    kinds: dict[tuple[str, str], list[Problem]] = {}
    for problem in problems:
        kinds.setdefault((problem.stage, re.sub(r"\d+(\.\d+)?", "N", problem.problem)), []).append(problem)
    often = sorted(kinds.values(), key=lambda alike: (-len(alike), alike[0].file))
    return [
        {
            "problems": len(alike),
            "stage": alike[0].stage,
            "such as": textwrap.shorten(alike[0].problem, MOST_TOLD, placeholder=" ..."),
            "in": alike[0].file,
        }
        for alike in often
    ]


def _version(manifest: dict) -> str:
    """A digest of what decides the boxes and records, wherever the videos lie."""
    decides = {name: value for name, value in manifest.items() if name != "videos"}
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]


def _pipeline(options: Options):
    """The options of the Beam pipeline that is to do the work; None for none."""
    if not options.beam:
        return None
    try:
        from preprocessing.run_on_beam import parse
    except ImportError as error:
        raise PreprocessError(
            f"--beam-options needs Apache Beam ({error}): `pip install -c constraints.txt '.[preprocess,beam]'`"
        ) from None
    return parse(options.beam)


def open_checked(data: Path, out: Path, options: Options) -> Dataset:
    """The dataset, whose `options` leave nothing open. Raises PreprocessError where an option has no meaning."""
    options.check()
    if options.boxes and not options.boxes.exists():
        raise PreprocessError(f"there is no file of boxes {options.boxes}; correct --boxes or leave it out")
    if options.beam:  # Its machines need not be where we are.
        data, out = Path(data).absolute(), Path(out).absolute()
    dataset = open_dataset(data, options, out)
    detector = _whole_path(dataset.options.detector)
    if detector != HUMAN:
        check_detector(detector)
    if not options.beam:  # whose machines may have what this one has not
        check_device(options.device)
    dataset.options = dataclasses.replace(dataset.options, detector=detector, weights=digest_of_weights(detector))
    return dataset


def _whole_path(detector: str) -> str:
    """The detector, whose model, if it lies in a folder, is found from anywhere."""
    folder = Path(detector.removeprefix(TRANSFORMERS)).expanduser()
    return f"{TRANSFORMERS}{folder.absolute()}" if detector.startswith(TRANSFORMERS) and folder.is_dir() else detector


class Unusable(PreprocessError):
    """Not one clip could be used."""

    def __init__(self, message: str, problems: list[Problem]):
        super().__init__(message)
        self.problems = problems


def stage(dataset: Dataset, read: Read, out: Path, progress: bool, pipeline=None) -> Staged:
    """Processes every clip that has pictures. Raises Unusable where none of them can be used."""
    imported = open_imported(dataset.options)
    names, problems = [], dataset.passed_over() + read.problems
    for name in read.annotations.clips():
        lack = dataset.lack(name)
        if lack:
            problems.append(lack)
        else:
            names.append(name)
    done = process_all(
        names,
        lambda name: clip_of(dataset, read, name),
        out / STAGING,
        dataset.options,
        Progress(progress),
        pipeline,
    )
    problems += sorted(done.problems, key=lambda problem: problem.file)
    for result in done.results.values():
        problems += [Problem(**problem) for problem in result["problems"]]
    if not done.results:
        first = f"the first problem: {problems[0].file}: {problems[0].problem}" if problems else "there is none"
        raise Unusable(f"none of the {_clips(read)} videos in {dataset.data} could be used; {first}", problems)
    if imported:
        problems += imported.problems
    splits, notices = dataset.splits(read.annotations, sorted(done.results))
    paths = {name: staging.staged_path(out / STAGING, name) for name in sorted(done.results)}
    splits = {split: [paths[name] for name in kept] for split, kept in splits.items()}
    if imported:
        notices += _notices_of(imported, names, dataset.options.imported)
    return Staged(
        splits=splits,
        dataset=dataset,
        read=read,
        results=done.results,
        paths=paths,
        problems=problems,
        notices=notices,
        to_try_again=done.to_try_again,
        ran=done.ran,
        seconds=done.seconds,
        imported=imported,
    )


def _notices_of(imported: ImportedBoxes, names: list[str], file: Path) -> list[str]:
    found = []
    if unknown := imported.unknown(names):
        found.append(f"{len(unknown)} videos of {file} are none of these: {', '.join(unknown[:3])}")
    for called, several in imported.shared(names).items():
        found.append(f"{file} has boxes of {called}, which {' and '.join(several[:3])} all get: name them by folder")
    return found


def score(staged: Staged, model: Wanted, progress: bool) -> None:
    """Scores the frames of what is staged, and notes that it is done."""
    clips = [path for paths in staged.splits.values() for path in paths]
    staged.similarity = score_all(list(dict.fromkeys(clips)), model, progress)


def clip_of(dataset: Dataset, read: Read, name: str) -> Clip:
    """What processing needs to know of a clip."""
    spans = ()
    if dataset.options.windows != "tiles":
        spans = tuple(dict.fromkeys(asked.span for asked in read.annotations.questions(name)))
    boxes = read.annotations.boxes(name) if dataset.options.detector == HUMAN else None
    return Clip(name, dataset.media(name), spans, boxes)


def _clips(read: Read) -> int:
    return sum(1 for _ in read.annotations.clips())


def manifest_of(dataset: Dataset, read: Read) -> dict:
    """All that the records depend on, as JSON."""

    def sources() -> Iterator[tuple[str, str]]:
        for name in read.annotations.clips():
            clip = clip_of(dataset, read, name)
            found = clip.sources() if clip.media.pictures else []
            yield name, hashlib.sha256(json.dumps(found).encode()).hexdigest()[:16]

    annotation = {}
    for path in dataset.annotation_files():
        inside = path.resolve().is_relative_to(dataset.data.resolve())
        place = path.resolve().relative_to(dataset.data.resolve()).as_posix() if inside else "given"
        with path.open("rb") as file:
            annotation[place] = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "videos": str(dataset.data.resolve()),
        "options": dataset.options.of_dataset(),
        "format": staging.FORMAT,
        "layout": LAYOUT,
        "sources": dict(sources()),
        "questions": annotation,
    }


def _already_done(out: Path, manifest: dict, options: Options) -> Summary | None:
    """The summary of a finished run on the same; None where there is something to do.

    Raises PreprocessError where `out` belongs to something else.
    """
    if out.exists() and not out.is_dir():
        raise PreprocessError(f"{out} is a file; give a new folder for the records")
    there = sorted(path.name for path in out.iterdir() if path.suffix != UNFINISHED) if out.exists() else []
    there = [name for name in there if name != LOCK]
    if not there:
        return None
    try:
        before = {"layout": 1, "similarity": None, "boxes": None} | json.loads(
            (out / MANIFEST).read_text(encoding="utf-8")
        )
        if set(before) != set(manifest):
            raise ValueError("a file of that name, but not ours")
    except (OSError, ValueError, TypeError):
        raise PreprocessError(
            f"{out} already holds other things ({', '.join(there[:3])}); give a new or empty folder for the records"
        ) from None
    finished = (out / SUMMARY).is_file()
    if not finished and not any((out / STAGING).glob("*" + staging.STAGED)):
        return None  # It ended before it made anything.
    differing = [
        f"{name} was {before['options'][name]!r} and is now {value!r}"
        for name, value in manifest["options"].items()
        if name in before["options"] and before["options"][name] != value
    ]
    if before["videos"] != manifest["videos"]:
        differing.append(f"the videos were {before['videos']} and are now {manifest['videos']}")
    if differing:
        raise PreprocessError(
            f"{out} holds records, or the start of them, that were made otherwise: {'; '.join(differing)}. "
            "Give the same options as before, or another folder"
        )
    if not manifest["questions"] and "given" in before["questions"]:
        manifest = manifest | {"questions": before["questions"]}  # Who names no file leaves the one given before.
    if not finished or before != manifest:
        return None  # Staged clips that fit are used again, the others are made again.
    summary = json.loads((out / SUMMARY).read_text(encoding="utf-8"))
    if summary["stage"] == "detect" and options.stage != "detect":
        return None
    if not (out / BOXES).exists() or summary["to_try_again"]:
        return None
    if options.coco and not (out / COCO).exists():
        return None
    if summary["similarity"]:
        summary["similarity"]["scored"] = 0
    return Summary(**{**summary, "out": str(out), "already_done": True})


def _write_dataset(out: Path, staged: Staged, progress: bool):
    from preprocessing.write_records import write

    with tqdm(
        total=sum(map(len, staged.splits.values())), unit="clip", desc="writing", disable=None if progress else True
    ) as bar:
        try:
            return write(out, staged, on_clip=bar.update)
        except (OSError, RuntimeError) as error:  # ArrayRecord's writer tells of a full disk by a RuntimeError.
            shutil.rmtree(out / staged.dataset.name, ignore_errors=True)
            told = " ".join(str(error).split())
            raise PreprocessError(
                f"the records cannot be written to {out} ({textwrap.shorten(told, 200, placeholder=' ...')}): free space "
                "there if it is full, and start again; the videos that are done are kept"
            ) from error


def _write_problems(out: Path, problems: list[Problem]) -> None:
    lines = [json.dumps(dataclasses.asdict(problem), ensure_ascii=False) + "\n" for problem in problems]
    _write_text(out / PROBLEMS, "".join(lines))


def _write_json(path: Path, values: dict) -> None:
    _write_text(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n")


def _write_text(path: Path, text: str) -> None:
    with whole(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
