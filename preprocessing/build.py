"""A dataset's folder in, records on disk out; killed at any moment and started again it ends the same."""

import dataclasses
import hashlib
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from mmdiff.data.records import PARTS
from mmdiff.whole_files import UNFINISHED, whole
from preprocessing import staging
from preprocessing.clip import Clip
from preprocessing.datasets import open_dataset
from preprocessing.datasets.dataset import Dataset, Read
from preprocessing.detect_people import HUMAN, detector_class
from preprocessing.options import Options
from preprocessing.problems import PreprocessError, Problem
from preprocessing.process_all import process_all
from preprocessing.score_frames import Scored, Wanted, score_all, wanted

MANIFEST, SUMMARY, PROBLEMS, STAGING = "preprocess.json", "summary.json", "problems.jsonl", "staging"
LAYOUT = 2  # Raise it when the same staged clips give other records, or another description of them.


@dataclasses.dataclass
class Summary:
    """What a run made; also written to `summary.json`."""

    out: str  # the folder that holds it
    dataset: str
    videos: int  # used
    records: dict[str, int]  # by split
    coverage: dict[str, dict[str, int]]  # by split: questions `annotated`, and those `kept` in the records
    frames: int  # looked at by the detector
    boxes: dict[str, int]  # by part, over all these frames
    stored: dict[str, int]  # `frames` and their `bytes`; `frames_asked` and `bytes_asked`: as all questions see them
    seconds_of_video: float
    problems: int
    notices: list[str]  # what deserves a word but is nobody's mistake
    seconds_taken: dict[str, float]  # by stage
    detected: int  # videos whose detection was run now; the others were there already
    similarity: dict | None = None  # score_frames.Scored, where a CLIP model was named
    already_done: bool = False

    def describe(self) -> str:
        """A few lines for the command line."""
        records = " and ".join(f"{count} {split}" for split, count in self.records.items())
        lines = [
            f"videos: {self.videos}, records: {records}, faces: {self.boxes['face']}, bodies: {self.boxes['body']}"
            + " (all was there already)" * self.already_done
        ]
        if any(share["annotated"] for share in self.coverage.values()):
            kept = ", ".join(
                f"{split} {share['kept']} of {share['annotated']}" for split, share in self.coverage.items()
            )
            lines.append(f"questions kept: {kept}")
        if self.stored["bytes_asked"]:
            times, size = self.stored["bytes_asked"] / self.stored["bytes"], self.stored["bytes"] / 1e6
            lines.append(
                f"frames: {self.stored['frames']} stored once, {size:.1f} MB; a copy for each question would be "
                f"{self.stored['frames_asked']} ({times:.2f} times the bytes)"
            )
        if self.similarity:
            lines.append(Scored(**self.similarity).describe())
        remarks = [f"problems: {self.problems}, see {Path(self.out) / PROBLEMS}"] if self.problems else []
        if remarks := remarks + self.notices:
            lines.append("; ".join(remarks))
        return "\n".join(lines)


@dataclasses.dataclass
class Staged:
    """All that is to be written, one file for each clip."""

    splits: dict[str, list[Path]]
    dataset: Dataset
    read: Read
    results: dict[str, dict]  # by clip, without records
    problems: list[Problem]
    notices: list[str]
    detected: int
    similarity: Scored | None = None


def preprocess(data: Path, out: Path, options: Options, progress: bool = True) -> Summary:
    """Detects, then writes: `out` holds the dataset, `summary.json`, `problems.jsonl`, and `staging` for next time.

    `progress` shows bars. Bad clips and questions become lines of `problems.jsonl`. Raises PreprocessError where the
    run as a whole cannot be done.
    """
    out = Path(out)
    dataset = open_checked(data, out, options)
    model = wanted(dataset.options)
    read = dataset.read()
    manifest = manifest_of(dataset, read) | {"similarity": model and model.to_json()}
    if done := _already_done(out, manifest):
        return done
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / SUMMARY).unlink(missing_ok=True)  # first: from here on nothing is finished
        _write_json(out / MANIFEST, manifest)
    except OSError as error:
        raise PreprocessError(f"{out} cannot be written ({error}); give another folder for the records") from None

    began = time.monotonic()
    try:
        staged = stage(dataset, read, out, progress)
    except Unusable as error:
        _write_problems(out, error.problems)
        raise PreprocessError(f"{error}; all of them are in {out / PROBLEMS}") from None
    taken = {"detect": round(time.monotonic() - began, 2)}
    if model:
        began = time.monotonic()
        score(staged, model, progress)
        taken["score"] = round(time.monotonic() - began, 2)
    began = time.monotonic()
    builder = _write_dataset(out, staged, progress)
    taken["write"] = round(time.monotonic() - began, 2)
    problems = staged.problems + builder.problems
    _write_problems(out, problems)
    results = staged.results.values()
    summary = Summary(
        out=str(out),
        dataset=dataset.name,
        videos=len(results),
        records={split: builder.info.splits[split].num_examples for split in staged.splits},
        coverage=builder.coverage,
        frames=sum(result["frames"] for result in results),
        boxes={part: sum(result["boxes"][part] for result in results) for part in PARTS},
        stored=dict(builder.stored),
        seconds_of_video=round(sum(result["seconds"] for result in results), 2),
        problems=len(problems),
        notices=staged.notices,
        seconds_taken=taken,
        detected=staged.detected,
        similarity=staged.similarity and dataclasses.asdict(staged.similarity),
    )
    _write_json(out / SUMMARY, dataclasses.asdict(summary))  # Last: its presence says that all is finished.
    return summary


def open_checked(data: Path, out: Path, options: Options) -> Dataset:
    """The dataset, whose `options` leave nothing open. Raises PreprocessError where an option has no meaning."""
    options.check()
    dataset = open_dataset(data, options, out)
    if dataset.options.detector != HUMAN:
        try:
            detector_class(dataset.options.detector)
        except ValueError as error:
            raise PreprocessError(str(error)) from None
    return dataset


class Unusable(Exception):
    """Not one clip could be used."""

    def __init__(self, message: str, problems: list[Problem]):
        super().__init__(message)
        self.problems = problems


def stage(dataset: Dataset, read: Read, out: Path, progress: bool) -> Staged:
    """Processes every clip that has pictures. Raises Unusable where none of them can be used."""
    names, problems = [], dataset.passed_over() + read.problems
    for name in read.annotations.clips():
        lack = dataset.lack(name)
        if lack:
            problems.append(lack)
        else:
            names.append(name)
    clips = (clip_of(dataset, read, name) for name in names)
    results, failures, detected = process_all(clips, names, out / STAGING, dataset.options, progress)
    problems += failures
    for result in results.values():
        problems += [Problem(**problem) for problem in result["problems"]]
    if not results:
        first = f"the first problem: {problems[0].file}: {problems[0].problem}" if problems else "there is none"
        raise Unusable(f"none of the {_clips(read)} videos in {dataset.data} could be used; {first}", problems)
    splits, notices = dataset.splits(read.annotations, sorted(results))
    splits = {split: [staging.staged_path(out / STAGING, name) for name in kept] for split, kept in splits.items()}
    return Staged(splits, dataset, read, results, problems, notices, detected)


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


def _already_done(out: Path, manifest: dict) -> Summary | None:
    """The summary of a finished run on the same; None where there is something to do.

    Raises PreprocessError where `out` belongs to something else.
    """
    if out.exists() and not out.is_dir():
        raise PreprocessError(f"{out} is a file; give a new folder for the records")
    there = sorted(path.name for path in out.iterdir() if path.suffix != UNFINISHED) if out.exists() else []
    if not there:
        return None
    try:
        before = {"layout": 1, "similarity": None} | json.loads((out / MANIFEST).read_text(encoding="utf-8"))
        if set(before) != set(manifest):
            raise ValueError("a file of that name, but not ours")
    except (OSError, ValueError, TypeError):
        raise PreprocessError(
            f"{out} already holds other things ({', '.join(there[:3])}); give a new or empty folder for the records"
        ) from None
    finished = (out / SUMMARY).is_file()
    if not finished and not any((out / STAGING).glob("*.msgpack")):
        return None  # It ended before it made anything.
    differing = [
        f"{name} was {before['options'].get(name)!r} and is now {value!r}"
        for name, value in manifest["options"].items()
        if before["options"].get(name) != value
    ]
    if before["videos"] != manifest["videos"]:
        differing.append(f"the videos were {before['videos']} and are now {manifest['videos']}")
    if differing:
        raise PreprocessError(
            f"{out} holds records, or the start of them, that were made otherwise: {'; '.join(differing)}. "
            f"Give another folder, or remove {out} to make them anew"
        )
    if not manifest["questions"] and "given" in before["questions"]:
        manifest = manifest | {"questions": before["questions"]}  # Who names no file leaves the one given before.
    if not finished or before != manifest:
        return None  # Staged clips that fit are used again, the others are made again.
    summary = json.loads((out / SUMMARY).read_text(encoding="utf-8"))
    if summary["similarity"]:
        summary["similarity"]["scored"] = 0
    return Summary(**{**summary, "out": str(out), "already_done": True})


def _write_dataset(out: Path, staged: Staged, progress: bool):
    from preprocessing.write_records import write

    shutil.rmtree(out / staged.dataset.name, ignore_errors=True)  # made from `staging`, which stays
    with tqdm(total=sum(map(len, staged.splits.values())), unit="clip", desc="writing", disable=not progress) as bar:
        try:
            return write(out, staged, on_clip=bar.update)
        except OSError as error:
            raise PreprocessError(
                f"the records cannot be written to {out} ({error}); start again after that"
            ) from error


def _write_problems(out: Path, problems: list[Problem]) -> None:
    lines = [json.dumps(dataclasses.asdict(problem), ensure_ascii=False) + "\n" for problem in problems]
    _write_text(out / PROBLEMS, "".join(lines))


def _write_json(path: Path, values: dict) -> None:
    _write_text(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n")


def _write_text(path: Path, text: str) -> None:
    with whole(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
