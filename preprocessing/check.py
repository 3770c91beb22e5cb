"""A dataset's folder in, what it holds and what it lacks out, before any long work: `mmdiff check`."""

import concurrent.futures
import dataclasses
import json
import multiprocessing
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from mmdiff.reports.tables import to_markdown
from mmdiff.whole_files import write_whole
from preprocessing.clip import Media
from preprocessing.datasets import open_dataset
from preprocessing.datasets.dataset import Dataset, Read
from preprocessing.inspect_media import Inspected, inspect
from preprocessing.options import Options
from preprocessing.plan_windows import is_outside
from preprocessing.problems import Problem
from preprocessing.questions import Asked

SHOWN = 5  # kinds of problem of a stage, and names of a kind, that are printed; the JSON file has them all
AT_ONCE = 256  # clips that wait for a worker


@dataclasses.dataclass
class SplitReport:
    """One split. Of `questions` there are so many in the annotation, `official_questions` in the released one."""

    questions: int
    clips: int
    official_questions: int | None = None
    official_clips: int | None = None
    usable_questions: int = 0  # well-formed, about a clip that has pictures and, if opened, the time asked for
    answered: int = 0  # of the usable ones, those whose right answer is told
    choices: int = 0  # that the protocol makes of the usable ones
    chance: float = 0.0  # of making the right choice by guessing
    without: dict[str, int] = dataclasses.field(default_factory=lambda: {"pictures": 0, "audio": 0, "subtitles": 0})


@dataclasses.dataclass
class Report:
    """All that was found."""

    dataset: str
    data: str
    protocol: str
    opened: bool  # whether videos, images and sound were opened, or only looked for
    splits: dict[str, SplitReport]
    notices: list[str]
    problems: list[Problem]

    def write(self, path: Path) -> None:
        """As JSON."""
        write_whole(path, (json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False) + "\n").encode())

    def describe(self) -> str:
        """For people."""
        rows = [
            {
                "split": split or "all",
                "questions": _of(found.questions, found.official_questions),
                "clips": _of(found.clips, found.official_clips),
                "usable questions": f"{found.usable_questions} ({_percent(found.usable_questions, found.questions)})",
                "with an answer": found.answered,
                **({"choices": found.choices} if self.protocol else {}),
                "chance": f"{100 * found.chance:.1f}%" if found.choices else "–",
                **{f"clips without {what}": count for what, count in found.without.items()},
            }
            for split, found in self.splits.items()
        ]
        title = f"{self.dataset}{f', protocol {self.protocol}' if self.protocol else ''}, in {self.data}"
        looked = "Files were opened." if self.opened else "Files were looked for, not opened."
        lines = [title, "", to_markdown(rows), looked, *self.notices]
        alike: dict[str, dict[tuple[str, str], list[str]]] = {}
        for problem in self.problems:
            kinds = alike.setdefault(problem.stage, {})
            kinds.setdefault((problem.problem, problem.advice), []).append(problem.file)
        for stage, kinds in sorted(alike.items()):
            often = sorted(kinds.items(), key=lambda item: -len(item[1]))
            for (told, advice), files in often[:SHOWN]:
                lines += ["", f"{stage}, {len(files)}: {told}; {advice}"]
                lines.append("  " + ", ".join(files[:SHOWN]) + f" and {len(files) - SHOWN} more" * (len(files) > SHOWN))
            if rest := [file for _, files in often[SHOWN:] for file in files]:
                lines += ["", f"{stage}, {len(rest)} others: see --json"]
        return "\n".join(lines)


def check(data: Path, options: Options, media: bool = True, progress: bool = True) -> Report:
    """Reads the annotation, looks for every file and, with `media`, opens them all in parallel.

    Raises PreprocessError where there is no such dataset.
    """
    options.check()
    dataset = open_dataset(data, options)
    read = dataset.read()
    problems = dataset.passed_over() + read.problems
    report = Report(dataset.name, str(data), dataset.options.protocol, media, {}, [], problems)
    for split in [*dataset.official, *(split for split in read.annotations.splits() if split not in dataset.official)]:
        official = dataset.official.get(split)
        questions, clips = read.rows[split], read.annotations.count("clips", split)
        told = (official.questions, official.clips) if official else (None, None)
        report.splits[split] = SplitReport(questions, clips, *told)
    names = list(read.annotations.clips())
    with tqdm(total=len(names), unit="clip", desc="looking", disable=not progress) as bar:
        for found in _inspected(dataset, names, media):
            bar.update()
            problems += found.problems
            for split in read.annotations.splits(found.clip):
                _count(report.splits[split], found, read.annotations.questions(found.clip, split), problems)
    for counts in report.splits.values():
        counts.chance /= max(counts.choices, 1)
    report.notices = _notices(dataset, read, report)
    return report


def _inspected(dataset: Dataset, names: list[str], media: bool) -> Iterator[Inspected]:
    """Every clip, as it was found or, without `media`, as far as its files are there."""
    workers = dataset.options.workers
    if not media or workers == 0:
        for name in names:
            files = dataset.media(name)
            yield _look_for(dataset, name, files) if not media else _inspect(dataset, name, files)
        return
    with concurrent.futures.ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        for first in range(0, len(names), AT_ONCE):
            files = {name: dataset.media(name) for name in names[first : first + AT_ONCE]}
            there = [name for name in files if files[name].pictures]
            opened = dict(
                zip(there, pool.map(inspect, there, [files[name] for name in there], chunksize=4), strict=True)
            )
            for name in files:
                yield opened.get(name) or _look_for(dataset, name, files[name])


def _inspect(dataset: Dataset, name: str, files: Media) -> Inspected:
    return inspect(name, files) if files.pictures else _look_for(dataset, name, files)


def _look_for(dataset: Dataset, name: str, files: Media) -> Inspected:
    lack = dataset.lack(name)
    # What a video file holds beside its pictures is not known before it is opened.
    video = files.pictures is not None and not files.pictures.is_dir()
    return Inspected(
        name,
        readable=lack is None,
        audio=video or files.audio is not None,
        subtitles=video or files.subtitles is not None or bool(files.cues),
        problems=[lack] if lack else [],
    )


def _count(counts: SplitReport, found: Inspected, asked: list[Asked], problems: list[Problem]) -> None:
    """Adds one clip to one of its splits."""
    for what, there in (("pictures", found.readable), ("audio", found.audio), ("subtitles", found.subtitles)):
        counts.without[what] += not there
    usable = []
    for question in asked if found.readable else []:
        if found.seconds is not None and is_outside(question.span, found.seconds):
            start, end = question.span
            where = f"{question.where} ({start:g} to {end:g} s of {found.seconds:.1f} s)"
            problems.append(Problem(where, "questions", "asks about a time that its clip has not", "it is left out"))
        else:
            usable.append(question)
    counts.usable_questions += len({question.where for question in usable})
    counts.answered += len({question.where for question in usable if question.label >= 0})
    counts.choices += len(usable)
    counts.chance += sum(1 / len(question.answers) for question in usable)


def _notices(dataset: Dataset, read: Read, report: Report) -> list[str]:
    notices = []
    for split, found in report.splits.items():
        if renamed := sum(count for (of, _), count in read.annotations.renamed.items() if of == split):
            notices.append(f"{split}: {renamed} questions have the id of another and get a number behind it")
        if found.official_questions and not found.questions:
            notices.append(f"{split}: its annotation is not there, or holds no question")
            continue
        for what, count, official in (
            ("questions", found.questions, found.official_questions),
            ("clips", found.clips, found.official_clips),
        ):
            if official is not None and count != official:
                told = f"{abs(count - official)} {'fewer' if count < official else 'more'} than the official {official}"
                notices.append(f"{split}: {count} {what}, {told}")
    for (one, other), count in read.annotations.shared_clips().items():
        notices.append(f"{count} clips are in {one} and in {other}: what is learned from one is known in the other")
    return notices + dataset.notices(read.annotations)


def _of(count: int, official: int | None) -> str:
    return str(count) if official is None else f"{count} of {official}"


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f}%" if whole else "–"
