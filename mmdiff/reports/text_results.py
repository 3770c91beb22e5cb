"""Folders of continued pretraining and of probes on text in, what can stand in one table out.

A run is one seed of a method. Runs that differ in nothing but their seed are one row: its mean and deviation are over
runs. A probe's own seeds, its heads, are averaged first. Of a single run, or of a model as it came, there are only those.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mmdiff.errors import UserError
from mmdiff.reports import text_paper
from mmdiff.reports.collect import (
    CONFIG,
    METRICS,
    PREDICTIONS,
    PROBE,
    SUMMARY,
    LeftOut,
    TextFolder,
    field,
    read_json,
    read_lines,
)
from mmdiff.reports.hidden_words import HIDDEN_WORDS, HiddenWords, read_hidden_words
from mmdiff.reports.significance import Sample
from mmdiff.reports.text_predictions import pooled, read_sample
from mmdiff.training.text_presets import TEXT_METHODS, TEXT_PRESETS

SCORES = {"accuracy": "accuracy", "micro_f1": "micro F1", "macro_f1": "macro F1"}
# Of a configuration, what tells no methods apart: where things lie, how it was computed and looked at, and the seed.
APART = (
    "data.corpus",
    "data.threads",
    "model.checkpoint",
    "model.remat",
    "masking.classifier",
    "anchors.unigrams",
    "anchors.text_encoder",
    "train.seed",
    "train.fsdp",
    "train.expected_examples",
    "train.log_every",
    "train.save_every",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextProbe:
    """A result of `mmdiff probe` on text. Shares, not percent."""

    name: str
    path: str
    checkpoint: str
    model: str  # the folder's name of the model that was continued, or probed as it came
    dataset: str
    task: str  # classification or entities
    mode: str  # linear or finetune
    metric: str  # of SCORES: what epochs were chosen by; the paper's where it has one
    method: str  # as in `text_paper.TEXT_METHODS`
    settings: dict[str, object]  # of the run, {} for a model as it came
    probing: dict[str, object]  # of the probe
    pretraining_seed: int | None
    texts: dict[str, int]
    duplicates: dict[str, int]
    baseline: dict[str, float]
    scores: dict[str, list[float]]
    deduplicated: dict[str, list[float]] | None
    per_label: dict[str, dict]
    learning_rate: float
    epoch: list[int]
    records: str
    lines: list[dict]
    sample: Sample | None = None  # the test texts by `metric`; None where the predictions cannot be used

    def mean(self, metric: str, deduplicated: bool = False) -> float | None:
        """Over the probe's seeds."""
        found = self.deduplicated if deduplicated else self.scores
        return float(np.mean(found[metric])) if found else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextRun:
    """A finished run of `mmdiff pretrain` on text."""

    name: str
    path: str
    dataset: str
    method: str
    settings: dict[str, object]
    seed: int
    steps: int
    best_step: int | None
    best_loss: float | None
    anchors: tuple[str, ...]
    anchors_warning: str  # where some that it found are common words, or ""
    lines: list[dict]
    hidden: HiddenWords | None = None  # older runs did not list them
    variant: str = ""

    @property
    def title(self) -> str:
        return titled(self.method, self.variant)


class Spread(NamedTuple):
    """A mean, and a deviation where there are several values."""

    mean: float
    std: float | None
    count: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """The probes of runs that differ in nothing but their seed."""

    method: str
    variant: str  # what tells it from other rows of the method
    probes: list[TextProbe]

    @property
    def title(self) -> str:
        return titled(self.method, self.variant)

    @property
    def name(self) -> str:
        return self.title

    @property
    def sample(self) -> Sample | None:
        """The test texts with the mean counts of all runs and seeds. Raises ValueError where their texts differ."""
        samples = [probe.sample for probe in self.probes]
        return None if None in samples else pooled(samples)

    @property
    def anchors_found(self) -> int | None:
        """K, where the method looks for anchors."""
        found = self.probes[0].settings.get("anchors.find")
        return found if isinstance(found, int) and self.method.startswith("difference") else None

    def spread(self, metric: str, deduplicated: bool = False) -> Spread | None:
        """Over runs; of one run over its probe's seeds."""
        if any(probe.deduplicated is None for probe in self.probes) and deduplicated:
            return None
        if len(self.probes) > 1:
            values = [probe.mean(metric, deduplicated) for probe in self.probes]
        else:
            values = (self.probes[0].deduplicated if deduplicated else self.probes[0].scores)[metric]
        return spread(values)

    @property
    def seeds(self) -> str:
        """How many of its own each probe has."""
        return " / ".join(map(str, sorted({len(probe.scores["accuracy"]) for probe in self.probes})))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Group:
    """Rows that can stand in one table: the same texts, probed alike."""

    title: str
    dataset: str
    mode: str
    metric: str
    rows: list[Row]

    @property
    def probes(self) -> list[TextProbe]:
        return [probe for row in self.rows for probe in row.probes]


@dataclasses.dataclass
class TextResults:
    runs: list[TextRun]
    groups: list[Group]


def titled(method: str, variant: str = "") -> str:
    """A method's name in a table, with what tells it from other rows of the method."""
    known = text_paper.TEXT_METHODS.get(method)
    name = known.title if known else method
    return f"{name}, {variant}" if variant else name


def spread(values: Sequence[float]) -> Spread:
    """Mean and sample deviation."""
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Spread(float(np.mean(values)), std, len(values))


def read_text_results(folders: list[TextFolder], left_out: list[LeftOut]) -> TextResults:
    """Reads every folder; one that cannot be used costs only itself, and is added to `left_out`."""
    runs, probes = [], []
    for folder in folders:
        read, into = (_read_probe, probes) if folder.file == PROBE else (_read_run, runs)
        try:
            into.append(read(folder, left_out))
        except (UserError, OSError) as error:
            left_out.append(LeftOut(folder.path, str(error)))
    variants = _variants(
        [(f"{run.dataset}: {run.method}", run.settings) for run in runs]
    )  # corpora are told apart anyway
    runs = [dataclasses.replace(run, variant=variant) for run, variant in zip(runs, variants, strict=True)]
    order = list(text_paper.TEXT_METHODS)
    runs.sort(key=lambda run: (_dataset_order(run.dataset), _place(run.method, order), run.variant, run.seed, run.name))
    return TextResults(runs, _groups(probes))


def method_of(config: dict | None) -> str:
    """The row of TEXT_METHODS that a run's configuration is, or its strategy; "none" where there was no run."""
    if config is None:
        return "none"
    flat = flattened(config)
    # What a preset sets is no method's choice.
    preset = TEXT_PRESETS.get(str(flat.get("preset")), {})
    said = {name: {p: v for p, v in fields.items() if p not in preset} for name, fields in TEXT_METHODS.items()}
    fitting = [name for name, fields in said.items() if all(flat.get(path) == value for path, value in fields.items())]
    # Of two that fit, the one that says more.
    best = max(fitting, key=lambda name: len(said[name]), default=None)
    return best or str(flat.get("masking.strategy", "unknown"))


def flattened(config: dict) -> dict[str, object]:
    """{"masking.ratio": 0.25, ...}, lists as tuples."""
    found = {}
    for section, fields in config.items():
        if isinstance(fields, dict):
            for name, value in fields.items():
                found[f"{section}.{name}"] = tuple(value) if isinstance(value, list) else value
        else:
            found[section] = fields
    return found


def _settings(config: dict) -> dict[str, object]:
    return {path: value for path, value in flattened(config).items() if path not in APART}


def _read_run(folder: TextFolder, left_out: list[LeftOut]) -> TextRun:
    path = Path(folder.path)
    config = read_json(path / CONFIG)
    if not (path / SUMMARY).is_file():
        raise UserError(f"unfinished: it has no {SUMMARY}; the same `mmdiff pretrain` command goes on with it")
    summary = read_json(path / SUMMARY)
    flat = flattened(config)
    anchors = read_json(path / "anchors.json") if (path / "anchors.json").is_file() else {}
    return TextRun(
        name=folder.name,
        path=folder.path,
        dataset=field(summary, SUMMARY, "dataset", str, "unknown"),
        method=method_of(config),
        settings=_settings(config) | {"model": _base_model(config)},
        seed=field(flat, CONFIG, "train.seed", int, 0),
        steps=field(summary, SUMMARY, "step", int),
        best_step=field(summary, SUMMARY, "best_step", int, None),
        best_loss=field(summary, SUMMARY, "best_loss", float, None),
        anchors=tuple(map(str, anchors.get("words", []))),
        anchors_warning=str(anchors.get("warning", "")),
        lines=read_lines(path, left_out),
        hidden=_hidden_words(path, left_out),
    )


def _hidden_words(folder: Path, left_out: list[LeftOut]) -> HiddenWords | None:
    if not (folder / HIDDEN_WORDS).is_file():
        return None
    try:
        return read_hidden_words(folder / HIDDEN_WORDS)
    except UserError as error:
        left_out.append(LeftOut(str(folder), f"the words that it hid are left out: {error}"))
        return None


def _base_model(config: dict) -> str:
    return Path(str(flattened(config).get("model.checkpoint", ""))).name


def _read_probe(folder: TextFolder, left_out: list[LeftOut]) -> TextProbe:
    path = Path(folder.path)
    found = read_json(path / PROBE)
    run = field(found, PROBE, "pretraining", dict, None)
    metric = field(found, PROBE, "metric", str)
    if metric not in SCORES:
        raise UserError(f"{PROBE}: metric is {metric!r}; known: {', '.join(SCORES)}")
    checkpoint = field(found, PROBE, "checkpoint", str)
    probing = flattened(field(found, PROBE, "config", dict, {}))
    mode = field(found, PROBE, "mode", str)
    # Of the other mode's settings nothing was used.
    unused = ("optimizer.", "train.", "model.dropout") if mode == "linear" else ("probe.",)
    scores = _scores(found, "scores")
    return TextProbe(
        name=folder.name,
        path=folder.path,
        checkpoint=checkpoint,
        model=_base_model(run) if run else Path(checkpoint).name,
        dataset=field(found, PROBE, "dataset", str),
        task=field(found, PROBE, "task", str),
        mode=mode,
        metric=metric,
        method=method_of(run),
        settings=(_settings(run) if run else {}) | {"model": _base_model(run) if run else Path(checkpoint).name},
        probing={k: v for k, v in probing.items() if k not in (*APART, "preset", "mode") and not k.startswith(unused)},
        pretraining_seed=field(flattened(run), CONFIG, "train.seed", int, 0) if run else None,
        texts=field(found, PROBE, "texts", dict),
        duplicates=field(found, PROBE, "duplicates", dict),
        baseline=field(found, PROBE, "baseline", dict),
        scores=scores,
        deduplicated=_scores(found, "deduplicated_scores") if found.get("deduplicated_scores") else None,
        per_label=field(found, PROBE, "per_label", dict, {}),
        learning_rate=field(found, PROBE, "learning_rate", float),
        epoch=field(found, PROBE, "epoch", list, []),
        records=field(found, PROBE, "records", str),
        lines=read_lines(path, left_out) if (path / METRICS).is_file() else [],
        sample=_sample(path, found, metric, scores[metric], left_out),
    )


def _sample(path: Path, found: dict, metric: str, scores: list[float], left_out: list[LeftOut]) -> Sample | None:
    task, labels = field(found, PROBE, "task", str), field(found, PROBE, "labels", list)
    try:
        return read_sample(path / PREDICTIONS, task, labels, metric, scores)
    except UserError as error:
        left_out.append(LeftOut(str(path), f"no paired test: {error}"))
        return None


def _scores(found: dict, name: str) -> dict[str, list[float]]:
    scores = field(found, PROBE, name, dict)
    for metric in SCORES:
        for share in field(scores, PROBE, metric, list):
            if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:  # neither is nan
                raise UserError(f"{PROBE}: {name}.{metric} holds {share!r}, not a share from 0 to 1")
        if not scores[metric]:
            raise UserError(f"{PROBE}: {name}.{metric} holds no seed")
    return {metric: [float(share) for share in scores[metric]] for metric in SCORES}


def _groups(probes: list[TextProbe]) -> list[Group]:
    """Probes by corpus, content, mode and settings; within them rows by method and settings of the run."""
    kinds: dict[tuple, list[TextProbe]] = {}
    for probe in probes:
        kinds.setdefault((probe.dataset, probe.records, probe.mode, probe.metric, _key(probe.probing)), []).append(
            probe
        )
    contents: dict[str, set[str]] = {}
    for dataset, records, *_ in kinds:
        contents.setdefault(dataset, set()).add(records)
    alike: dict[tuple, list[list[TextProbe]]] = {}
    for (dataset, records, mode, *_), members in kinds.items():
        alike.setdefault((dataset, records, mode), []).append(members)
    groups = []
    for (dataset, records, mode), parts in alike.items():
        told = _variants([("", members[0].probing | {"metric": members[0].metric}) for members in parts])
        for members, variant in zip(parts, told, strict=True):
            title = f"{text_paper.text_dataset(dataset).title}, {mode}" + (f", {variant}" if variant else "")
            title += f", texts {records}" if len(contents[dataset]) > 1 else ""
            groups.append(Group(title=title, dataset=dataset, mode=mode, metric=members[0].metric, rows=_rows(members)))
    return sorted(groups, key=lambda group: (_dataset_order(group.dataset), group.mode != "linear", group.title))


def _rows(probes: list[TextProbe]) -> list[Row]:
    rows: dict[tuple, list[TextProbe]] = {}
    for probe in sorted(probes, key=lambda probe: (probe.pretraining_seed or 0, probe.name)):
        rows.setdefault((probe.method, _key(probe.settings)), []).append(probe)
    variants = _variants([(members[0].method, members[0].settings) for members in rows.values()])
    found = [
        Row(method=members[0].method, variant=variant, probes=members)
        for members, variant in zip(rows.values(), variants, strict=True)
    ]
    order = list(text_paper.TEXT_METHODS)
    return sorted(found, key=lambda row: (_place(row.method, order), row.anchors_found or 0, row.variant))


def _variants(named: list[tuple[str, dict[str, object]]]) -> list[str]:
    """For each (method, settings) what of the settings differs between those of its method: "find 5, ratio 0.15"."""
    found = []
    for method, settings in named:
        others = [theirs for other, theirs in named if other == method]
        differ = sorted(
            path
            for path in {path for theirs in others for path in theirs}
            if len({_key(theirs.get(path)) for theirs in others}) > 1
        )
        # A preset says what it sets, where it says enough.
        if "preset" in differ and len({theirs.get("preset") for theirs in others}) == len(others):
            differ = ["preset"]
        found.append(", ".join(_said(path, settings.get(path)) for path in differ))
    return found


def _said(path: str, value: object) -> str:
    name = {"anchors.find": "K", "preset": "", "model": ""}.get(path, path.split(".")[-1].replace("_", " "))
    if isinstance(value, bool):
        return name if value else f"not {name}"
    if isinstance(value, tuple):
        value = " / ".join(map(str, value)) or "none"
    shown = f"{value:g}" if isinstance(value, float) else str(value)
    return f"{name} {shown}".strip()


def _key(value: object) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _place(name: str, order: list[str]) -> tuple[int, str]:
    return (order.index(name) if name in order else len(order), name)


def _dataset_order(name: str) -> tuple[int, str]:
    return _place(name, list(text_paper.TEXT_DATASETS))
