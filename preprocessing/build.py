"""A folder of videos in, records on disk out; killed at any moment and started again it ends the same."""

import dataclasses
import hashlib
import json
import os
import shutil
import time
from pathlib import Path

from tqdm import tqdm

from mmdiff.data.records import BUILDER_NAME, PARTS
from mmdiff.whole_files import UNFINISHED, whole
from preprocessing import staging
from preprocessing.detect_people import detector_class
from preprocessing.options import Options
from preprocessing.problems import PreprocessError, Problem
from preprocessing.process_all import process_all
from preprocessing.questions import FILE_NAME, Asked, read_questions

MANIFEST, SUMMARY, PROBLEMS, STAGING = "preprocess.json", "summary.json", "problems.jsonl", "staging"


@dataclasses.dataclass
class Summary:
    """What a run made; also written to `summary.json`."""

    out: str  # the folder that holds it
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

    def describe(self) -> str:
        """A line or two for the command line."""
        records = " and ".join(f"{count} {split}" for split, count in self.records.items())
        lines = [
            f"videos: {self.videos}, records: {records}, faces: {self.boxes['face']}, bodies: {self.boxes['body']}"
            + " (all was there already)" * self.already_done
        ]
        remarks = [f"problems: {self.problems}, see {Path(self.out) / PROBLEMS}"] if self.problems else []
        if remarks := remarks + self.notices:
            lines.append("; ".join(remarks))
        return "\n".join(lines)


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
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / SUMMARY).unlink(missing_ok=True)  # first: from here on nothing is finished
        _write_json(out / MANIFEST, manifest)
    except OSError as error:
        raise PreprocessError(f"{out} cannot be written ({error}); give another folder for the records") from None

    began = time.monotonic()
    results, failures, detected = process_all(files, out / STAGING, options, progress)
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
    counts, outside = _write_dataset(out, splits, questions, manifest, progress)
    taken["write"] = round(time.monotonic() - began, 2)
    advice = "correct its start and end, in seconds"
    problems += [Problem(f"{asked_in.name}:{asked.line}", "questions", text, advice) for asked, text in outside]
    _write_problems(out, problems)
    summary = Summary(
        out=str(out),
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
            readable = os.fsencode(name).decode(errors="replace")
            if readable != name:
                problems.append(Problem(readable, "names", "its name is not valid UTF-8", "rename the file"))
            elif not path.is_file():
                problems.append(Problem(name, "names", "is not a file, or a link to nothing", "remove or mend it"))
            else:
                found[name] = path
    if not found and not problems:
        raise PreprocessError(
            f"{folder} holds no video; looked for {' '.join(options.extensions)} in it and in its folders"
        )
    return dict(sorted(found.items())), problems


def split_videos(names: list[str], share: float) -> tuple[dict[str, list[str]], list[str]]:
    """Which videos are for training and which for validation, and what to tell about it.

    The hash of a video's name, a number from 0 to 1, is held against the share: the other videos have no say, so that
    a video that is added moves none. Only where a split would be empty, the nearest video fills it.
    """
    if not share:
        return {"train": names}, []
    if len(names) == 1:
        return {"train": names}, ["there is only one video: all of it is for training, nothing for validation"]
    place = {name: _hash(f"validation:{name}") for name in names}
    first, *_, last = sorted(names, key=place.get)
    validation = {name for name in names if place[name] < share} - {last} | {first}
    return {"train": [name for name in names if name not in validation], "validation": sorted(validation)}, []


def _hash(text: str) -> float:
    """A number from 0 to below 1, the same on every machine."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6]) / 2**48


def _questions_file(videos: Path, options: Options) -> Path | None:
    if options.questions is None:
        beside = videos / FILE_NAME
        return beside if beside.is_file() else None
    if not Path(options.questions).is_file():
        raise PreprocessError(f"there is no file of questions {options.questions}; correct --questions or leave it out")
    return Path(options.questions)


def _manifest(videos: Path, files: dict[str, Path], questions: Path | None, options: Options) -> dict:
    """All that the dataset depends on, as JSON."""
    asked = None
    if questions:
        where = "beside" if questions.resolve() == (videos / FILE_NAME).resolve() else "given"
        asked = {where: hashlib.sha256(questions.read_bytes()).hexdigest()}
    return {
        "videos": str(videos.resolve()),
        "options": options.of_dataset(),
        "format": staging.FORMAT,
        "sources": {name: staging.signature(path, options)["sources"] for name, path in files.items()},
        "questions": asked,
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
        before = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
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
    if manifest["questions"] is None and "given" in (before["questions"] or {}):
        manifest = manifest | {"questions": before["questions"]}  # Who names no file leaves the one given before.
    if not finished or before != manifest:
        return None  # Staged videos that fit are used again, the others are made again.
    summary = json.loads((out / SUMMARY).read_text(encoding="utf-8"))
    return Summary(**{**summary, "out": str(out), "already_done": True})


def _write_dataset(
    out: Path, splits: dict[str, list[str]], questions: dict, manifest: dict, progress: bool
) -> tuple[dict[str, int], list[tuple[Asked, str]]]:
    from preprocessing.write_records import write

    shutil.rmtree(out / BUILDER_NAME, ignore_errors=True)  # made from `staging`, which stays
    staged = {split: [staging.staged_path(out / STAGING, name) for name in names] for split, names in splits.items()}
    metadata = {"options": manifest["options"], "detector": manifest["options"]["detector"]}
    with tqdm(total=sum(map(len, splits.values())), unit="video", desc="writing", disable=not progress) as bar:
        try:
            builder = write(out, splits=staged, questions=questions, metadata=metadata, on_video=bar.update)
        except OSError as error:
            raise PreprocessError(
                f"the records cannot be written to {out} ({error}); start again after that"
            ) from error
    return {split: info.num_examples for split, info in builder.info.splits.items()}, builder.outside


def _write_problems(out: Path, problems: list[Problem]) -> None:
    lines = [json.dumps(dataclasses.asdict(problem), ensure_ascii=False) + "\n" for problem in problems]
    _write_text(out / PROBLEMS, "".join(lines))


def _write_json(path: Path, values: dict) -> None:
    _write_text(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n")


def _write_text(path: Path, text: str) -> None:
    with whole(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
