"""Folders in, the finished runs and probes in them out, and one sentence for each that cannot be reported.

Only JSON and NumPy arrays are read, without JAX, so that a report starts at once.
"""

import dataclasses
import json
import math
import os
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from mmdiff.errors import UserError
from mmdiff.reports import paper

CONFIG, SUMMARY, RECORDS, METRICS = "config.json", "summary.json", "records.digest", "metrics.jsonl"  # of a run
TARGETS, ANCHORS = "targets.json", "anchors.json"  # of a run; older ones have none
BOX_BUDGET = "box_budget"  # in SUMMARY, where the strategy looks at boxes
PROBE, PREDICTIONS = "probe.json", "predictions.npz"  # of a probe, beside its METRICS
# What runs and probes fill in their own folders.
INSIDE = ("checkpoints", "damaged_checkpoints", "nonfinite", "tensorboard", "profile", "wandb", "features", "finetuned")
VIEWS = ("audio", "text", "joint")  # what an answer was predicted from
TOLERANCE = 1e-4  # between an accuracy and the mean of what was right: one may have been summed in float32


# What a run's configuration says of how it masked, what older versions did that lack a field, and where they have others.
MASKED_BY = ("masking", "anchors", "objective")
DEFAULTS = {
    "masking.unit": "patch",
    "masking.hide_at": "output",
    "masking.noise": 1.0,
    "masking.whole_tracks": True,
    "anchors.words": ("person",),
    "anchors.find": 0,
    "anchors.text_encoder": "",
    "anchors.compare": "nearest",
    "anchors.min_similarity": 0.0,
    "objective.target_momentum": 0.0,
}
MOVED = {"masking.anchors": "anchors.words"}


class LeftOut(NamedTuple):
    """A folder, or a part of one, that a report does without."""

    path: str
    why: str


class TextFolder(NamedTuple):
    """A run or a probe on text, not read yet; `file` is its CONFIG or its PROBE."""

    path: str
    name: str
    file: str


class Targets(NamedTuple):
    """What a run's masking does to each window of a split: `w` windows."""

    split: str
    window: tuple[str, ...]  # their ids
    patches: Int[np.ndarray, " w"]  # that could be hidden: real ones, and padding where the run hides that too
    hidden: Int[np.ndarray, " w"]  # of the patches
    pools: Int[np.ndarray, " w"]  # pooled tokens of these patches
    targets: Int[np.ndarray, " w"]  # of the pools: what the model has to tell
    hidden_inside: Float[np.ndarray, " w"]  # share of the hidden patches that lies inside boxes
    boxes_cover: Float[np.ndarray, " w"]  # share of the patches


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """A finished run of `mmdiff pretrain`."""

    name: str
    path: str  # as given, or as found under what was given
    dataset: str  # "unknown" for runs that did not yet write it down
    strategy: str  # as in `paper.METHODS`
    preset: str | None  # None for runs that did not yet write it down
    unit: str  # what is chosen to be hidden: patch or pooled
    hide_at: str  # output or input of the vision encoder
    ratio: float | None
    min_coverage: float | None
    anchors: tuple[str, ...]  # given and found
    settings: dict[str, object]  # "masking.ratio": 0.25 and all other fields of MASKED_BY; lists are tuples
    seed: int | None
    steps: int
    best_step: int | None  # the one whose model was kept; None where there was no validation
    records: str | None  # the digest of what it was trained on
    targets: Targets | None  # None for runs that did not yet count them
    box_budget: float | None  # share of the masking budget that goes into matching boxes; None where none are looked at
    lines: list[dict]
    variant: str = ""  # what tells it from other runs of the report that have its strategy

    @property
    def title(self) -> str:
        return paper.title(self.strategy, self.variant)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Probe:
    """A result of `mmdiff probe`. Shares, not percent."""

    name: str
    path: str
    checkpoint: str
    dataset: str
    protocol: str | None
    strategy: str  # as in `paper.METHODS`
    mode: str  # linear or finetune
    questions: int
    train_questions: int | None
    coverage: dict[str, dict]  # {split: {"annotated": 120, "kept": 118}}
    chance: float
    selection: str  # the split on which epoch and learning rate were chosen
    accuracy: dict[str, list[float]]  # of VIEWS, one for each seed
    last_epoch_accuracy: dict[str, list[float]]
    epoch: list[int]  # chosen, one for each seed
    learning_rate: float | None  # chosen
    records: str
    lines: list[dict]
    ids: Shaped[np.ndarray, " q"] | None  # of the questions; None without predictions
    correct: Bool[np.ndarray, "seeds q"] | None  # jointly
    video: Shaped[np.ndarray, " q"] | None  # that each question is about
    variant: str = ""  # of the run it is of, where that is in the report

    @property
    def title(self) -> str:
        return paper.title(self.strategy, self.variant)

    @property
    def joint(self) -> list[float]:
        return self.accuracy["joint"]


@dataclasses.dataclass
class Collected:
    runs: list[Run]
    probes: list[Probe]
    left_out: list[LeftOut]
    texts: list[TextFolder] = dataclasses.field(default_factory=list)  # for `text_results`


def collect(paths: list[Path]) -> Collected:
    """Reads every run and probe at or below `paths`, each once, whichever way it was found.

    Raises UserError for a path that is not there. A folder that cannot be used costs only itself.
    """
    found: dict[Path, str] = {}
    collected = Collected([], [], [])
    for given in paths:
        if not given.is_dir():
            raise UserError(
                f"{given} is not a folder: give folders of `mmdiff pretrain` or `mmdiff probe`, or one above"
            )
        below = _search(given)
        if not below:
            collected.left_out.append(
                LeftOut(str(given), f"holds no run (with {CONFIG}) and no probe (with {PROBE}), and none lies below it")
            )
        for folder in below:
            found.setdefault(folder.resolve(), str(folder))
    names = short_names(list(found.values()))
    for path in found.values():
        folder = Path(path)
        # A probe in a run's own folder is two things.
        for file, read, into in ((CONFIG, _read_run, collected.runs), (PROBE, _read_probe, collected.probes)):
            if (folder / file).is_file():
                if _is_of_text(folder / file):
                    collected.texts.append(TextFolder(path, names[path], file))
                    continue
                try:
                    into.append(read(folder, names[path], collected.left_out))
                except (UserError, OSError) as error:
                    collected.left_out.append(LeftOut(path, str(error)))
        if not (folder / CONFIG).is_file() and not (folder / PROBE).is_file():
            collected.left_out.append(LeftOut(path, f"holds {METRICS} but neither {CONFIG} nor {PROBE}: unfinished"))
    return collected


def _search(top: Path) -> list[Path]:
    found = []
    for folder, below, files in os.walk(top):
        # Other programs call their files config.json, too.
        run = CONFIG in files and {METRICS, SUMMARY, RECORDS} & set(files)
        if run or PROBE in files or METRICS in files:
            found.append(Path(folder))
        passed_over = INSIDE if found and found[-1] == Path(folder) else ()
        below[:] = sorted(name for name in below if name not in passed_over and not name.startswith("."))
    return found


def _is_of_text(path: Path) -> bool:
    """Whether a run's or a probe's file is of text. What cannot be read is said where it is read as one of video."""
    try:
        found = read_json(path)
    except UserError:
        return False
    data = found.get("data")
    return found.get("kind") == "text" or (isinstance(data, dict) and "corpus" in data)


def short_names(paths: list[str]) -> dict[str, str]:
    """For each path as many of its last parts as tell it from the others."""
    parts = {path: Path(path).resolve().parts for path in paths}
    names = {}
    for path, mine in parts.items():
        others = [theirs for other, theirs in parts.items() if other != path]
        length = next(n for n in range(1, len(mine) + 1) if all(theirs[-n:] != mine[-n:] for theirs in others))
        names[path] = str(Path(*mine[-length:]))
    return names


def _read_run(folder: Path, name: str, left_out: list[LeftOut]) -> Run:
    config = read_json(folder / CONFIG)
    masking, train = (config.get(section) for section in ("masking", "train"))
    if not isinstance(masking, dict) or not isinstance(masking.get("strategy"), str):
        raise UserError(f"{CONFIG} names no masking.strategy: it is not that of `mmdiff pretrain`")
    if not (folder / SUMMARY).is_file():
        raise UserError(f"unfinished: it has no {SUMMARY}; the same `mmdiff pretrain` command goes on with it")
    summary = read_json(folder / SUMMARY)
    digest = folder / RECORDS
    settings = _settings(config)
    return Run(
        name=name,
        path=str(folder),
        dataset=field(summary, SUMMARY, "dataset", str, "unknown"),
        strategy=paper.strategy_id(masking["strategy"], masking.get("where")),
        preset=field(config, CONFIG, "preset", str, None),
        unit=field(settings, CONFIG, "masking.unit", str),
        hide_at=field(settings, CONFIG, "masking.hide_at", str),
        ratio=field(settings, CONFIG, "masking.ratio", float, None),
        min_coverage=field(settings, CONFIG, "masking.min_coverage", float, None),
        anchors=_anchors(folder, settings, left_out),
        settings=settings,
        seed=field(train if isinstance(train, dict) else {}, CONFIG, "seed", int, None),
        steps=field(summary, SUMMARY, "step", int),
        best_step=field(summary, SUMMARY, "best_step", int, None),
        records=digest.read_text(encoding="utf-8", errors="replace").strip() if digest.is_file() else None,
        targets=_targets_or_none(folder, left_out),
        box_budget=field(field(summary, SUMMARY, BOX_BUDGET, dict, {}), SUMMARY, "share", float, None),
        lines=read_lines(folder, left_out),
    )


def _settings(config: dict) -> dict[str, object]:
    """Every field of how a run masked, by its path; older runs did what DEFAULTS does."""
    found = {
        f"{section}.{name}": tuple(map(str, value)) if isinstance(value, list) else value
        for section in MASKED_BY
        if isinstance(config.get(section), dict)
        for name, value in config[section].items()
        if isinstance(value, str | int | float | list)
    }
    return DEFAULTS | {MOVED.get(path, path): value for path, value in found.items()}


def _anchors(folder: Path, settings: dict[str, object], left_out: list[LeftOut]) -> tuple[str, ...]:
    """The words that a run kept, or else those it was given."""
    given = field(settings, CONFIG, "anchors.words", tuple)
    if not (folder / ANCHORS).is_file():
        return given
    try:
        return tuple(map(str, field(read_json(folder / ANCHORS), ANCHORS, "words", list)))
    except UserError as error:
        left_out.append(LeftOut(str(folder), f"no anchors but those given: {error}"))
        return given


def read_targets(path: Path) -> Targets:
    """A run's targets.json. Raises UserError where it is not whole, or counts what cannot be."""
    found = read_json(path)
    columns = {}
    for name in ("window", "patches", "hidden", "pools", "targets", "hidden_inside", "boxes_cover"):
        values = field(found, path.name, name, list)
        kind = {"window": str | int, "hidden_inside": int | float, "boxes_cover": int | float}.get(name, int)
        wrong = [x for x in values if isinstance(x, bool) or not isinstance(x, kind) or not _is_sane(x)]
        if wrong:
            raise UserError(f"{path.name}: {name!r} holds {wrong[0]!r}")
        columns[name] = tuple(map(str, values)) if name == "window" else np.array(values, int if kind is int else float)
    counts = {name: len(column) for name, column in columns.items()}
    if len(set(counts.values())) > 1:
        raise UserError(f"{path.name}: its lists differ in length ({', '.join(f'{k} {n}' for k, n in counts.items())})")
    if not columns["window"]:
        raise UserError(f"{path.name} holds no window")
    targets = Targets(field(found, path.name, "split", str), **columns)
    for name in ("patches", "hidden", "pools", "targets"):
        if (columns[name] < 0).any():
            raise UserError(f"{path.name}: {name!r} holds a count below 0")
    for part, whole in (("hidden", "patches"), ("targets", "pools")):
        if (columns[part] > columns[whole]).any():
            raise UserError(f"{path.name}: a window has more {part!r} than {whole!r}")
    for name in ("hidden_inside", "boxes_cover"):
        # Sums in float32 may end a little over 1.
        if not ((columns[name] >= 0) & (columns[name] <= 1 + TOLERANCE)).all():
            raise UserError(f"{path.name}: {name!r} holds what is no share from 0 to 1")
    return targets


def _is_sane(value) -> bool:
    """Not nan, not infinite, and an integer in any array."""
    return isinstance(value, str) or abs(value) < 2**53


def _targets_or_none(folder: Path, left_out: list[LeftOut]) -> Targets | None:
    if not (folder / TARGETS).is_file():
        return None
    try:
        return read_targets(folder / TARGETS)
    except UserError as error:
        left_out.append(LeftOut(str(folder), f"no numbers of each window: {error}"))
        return None


def _read_probe(folder: Path, name: str, left_out: list[LeftOut]) -> Probe:
    result = read_json(folder / PROBE)
    if "strategy" not in result:  # null would mean that there was none
        raise UserError(f"{PROBE} lacks 'strategy': an older mmdiff wrote it, or it is of something else")
    strategy = field(result, PROBE, "strategy", str, None)
    accuracy = _accuracies(result, "accuracy")
    if not accuracy.get("joint"):
        raise UserError(f"{PROBE} holds no joint accuracy")
    chance = field(result, PROBE, "chance", float)
    if not 0 <= chance <= 1:
        raise UserError(f"{PROBE}: chance is {chance!r}, not a share from 0 to 1")
    probe = Probe(
        name=name,
        path=str(folder),
        checkpoint=field(result, PROBE, "checkpoint", str),
        dataset=field(result, PROBE, "dataset", str),
        protocol=field(result, PROBE, "protocol", str, None),
        strategy=paper.strategy_id(strategy, field(result, PROBE, "where", str, None)),
        mode=field(result, PROBE, "mode", str),
        questions=field(result, PROBE, "questions", int),
        train_questions=field(result, PROBE, "train_questions", int, None),
        coverage={
            split: {key: field(counts, PROBE, key, int) for key in ("annotated", "kept")}
            for split, counts in field(result, PROBE, "coverage", dict, {}).items()
            if isinstance(counts, dict)
        },
        chance=chance,
        selection=field(result, PROBE, "selection", str),
        accuracy=accuracy,
        last_epoch_accuracy=_accuracies(result, "last_epoch_accuracy"),
        epoch=[epoch for epoch in field(result, PROBE, "epoch", list, []) if isinstance(epoch, int)],
        learning_rate=field(result, PROBE, "learning_rate", float, None),
        records=field(result, PROBE, "records", str),
        lines=read_lines(folder, left_out),
        ids=None,
        correct=None,
        video=None,
    )
    try:
        predictions = _read_predictions(folder / PREDICTIONS, probe)
    except UserError as error:
        left_out.append(LeftOut(str(folder), f"no paired test: {error}"))
        return probe
    return dataclasses.replace(probe, **predictions)


def _accuracies(result: dict, name: str) -> dict[str, list[float]]:
    found = field(result, PROBE, name, dict, {})
    shares = {view: field(found, PROBE, view, list, []) for view in VIEWS}
    for view, seeds in shares.items():
        for share in seeds:
            if not isinstance(share, int | float) or not 0 <= share <= 1:  # neither is nan
                raise UserError(f"{PROBE}: {name}.{view} holds {share!r}, not a share from 0 to 1")
    return {view: [float(share) for share in seeds] for view, seeds in shares.items()}


def read_arrays(path: Path, *names: str) -> list[np.ndarray]:
    """These arrays of a probe's predictions. Raises UserError where the file is missing, damaged, or lacks one."""
    if not path.is_file():
        raise UserError(f"there is no {path.name}")
    try:
        with np.load(path, allow_pickle=False) as archive:
            lacking = [name for name in names if name not in archive.files]
            if lacking:
                raise UserError(
                    f"{path.name} does not say the {lacking[0]} of each answer, for an older mmdiff wrote it: run the same "
                    "`mmdiff probe` command again, which uses what is there"
                )
            return [archive[name] for name in names]
    except UserError:
        raise
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path.name} cannot be read ({' '.join(str(error).split())})") from None


def _read_predictions(path: Path, probe: Probe) -> dict[str, np.ndarray]:
    ids, video, correct = read_arrays(path, "id", "video", "correct")
    wanted = (len(probe.joint), probe.questions, len(VIEWS))
    if ids.shape != wanted[1:2] or video.shape != ids.shape or correct.shape != wanted or correct.dtype != bool:
        raise UserError(
            f"{path.name} holds {ids.shape} ids, {video.shape} videos and {correct.shape} {correct.dtype} answers where "
            f"{PROBE} asks for {wanted}"
        )
    joint = correct[:, :, VIEWS.index("joint")]
    if np.abs(joint.mean(axis=1) - probe.joint).max() > TOLERANCE:
        raise UserError(f"{path.name} gives other accuracies than {PROBE}: they are not of the same probe")
    return {"ids": ids, "video": video, "correct": joint}


def read_lines(folder: Path, left_out: list[LeftOut]) -> list[dict]:
    """The lines of metrics; a kill may have cut the last one short, any other broken one is told of."""
    path = folder / METRICS
    if not path.is_file():
        left_out.append(LeftOut(str(folder), f"no curves: there is no {METRICS}"))
        return []
    lines, broken = [], []
    written = path.read_text(encoding="utf-8", errors="replace").splitlines()
    for number, line in enumerate(written, start=1):
        try:
            found = json.loads(line)
        except ValueError:
            found = None
        if isinstance(found, dict) and isinstance(found.get("step"), int):
            lines.append({key: x for key, x in found.items() if key == "split" or isinstance(x, int | float)})
        elif number < len(written):
            broken.append(number)
    if broken:
        left_out.append(
            LeftOut(str(folder), f"line {broken[0]} of {METRICS}{' and others' * (len(broken) > 1)}: broken")
        )
    return lines


def read_json(path: Path) -> dict:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path.name} cannot be read ({error})") from None
    if not isinstance(found, dict):
        raise UserError(f"{path.name} holds no JSON object")
    return found


REQUIRED = object()


def field(found: dict, file: str, name: str, kind: type, otherwise=REQUIRED):
    """`found[name]`; what is not there, or null, is `otherwise` if that is given.

    Raises UserError where it is missing or of another kind.
    """
    value = found.get(name)
    if value is None:
        if otherwise is REQUIRED:
            raise UserError(f"{file} lacks {name!r}: an older mmdiff wrote it, or it is of something else")
        return otherwise
    allowed = (int, float) if kind is float else kind
    if isinstance(value, bool) or not isinstance(value, allowed) or (kind is float and not math.isfinite(value)):
        raise UserError(f"{file}: {name!r} is {value!r}, which is no {kind.__name__}")
    return float(value) if kind is float else value
