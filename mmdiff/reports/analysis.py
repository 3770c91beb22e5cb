"""Runs and probes in, what can be compared of them and how it compares out."""

import dataclasses
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from mmdiff.reports import paper, tables
from mmdiff.reports.collect import Collected, Probe, Run
from mmdiff.reports.plots import Curve
from mmdiff.reports.significance import Paired, Sample, answers_sample, compare_samples, holm
from mmdiff.training.presets import PRETRAIN_PRESETS

SEED = 0  # of the resampling: the same runs give the same report


class Pair(NamedTuple):
    """The first probe, or row of a table, against the second; `adjusted` is the p-value after Holm's correction."""

    first: Any
    second: Any
    test: Paired
    adjusted: float


def in_order(measured: Run | Probe) -> tuple:
    """Sorts by dataset and strategy as the paper has them, then by name."""
    dataset = paper.order(measured.dataset, paper.DATASETS)
    return dataset, paper.order(measured.strategy, paper.METHODS), measured.variant, measured.name


def same_records(probes: list[Probe]) -> dict[str, list[Probe]]:
    """Probes that can stand in one table, by its title: those of one dataset, protocol and content of records."""
    kinds: dict[tuple[str, str | None], dict[str, list[Probe]]] = {}
    for probe in sorted(probes, key=in_order):
        kinds.setdefault((probe.dataset, probe.protocol), {}).setdefault(probe.records, []).append(probe)
    return {
        tables.dataset_title(*kind) + (f", records {digest}" if len(digests) > 1 else ""): members
        for kind, digests in kinds.items()
        for digest, members in digests.items()
    }


def compare(
    groups: dict[str, list[Probe]], run_of: dict[str, Run], progress_bar: bool
) -> tuple[dict[str, list[Pair]], list[str]]:
    """Every two strategies, or variants of one, that answered the same questions in the same way.

    Also why others were not compared. `run_of` is as `made_by` gives it.
    """
    wanted: dict[str, list[tuple[Probe, Probe]]] = {}
    refused = []
    for title, probes in groups.items():
        for second, first in itertools.combinations(probes, 2):
            alike = (first.mode, first.selection) == (second.mode, second.selection)
            if not alike or first.title == second.title or first.correct is None or second.correct is None:
                continue
            lacking = [probe for probe in (first, second) if probe.path not in run_of]
            if first.strategy == second.strategy and lacking:
                refused.append(
                    f"{first.name} and {second.name} were not compared: the run that {lacking[0].name} is of is not among "
                    "the folders, so that nothing says whether they were masked differently."
                )
            else:
                wanted.setdefault(f"{title}: {first.mode}, chosen on {first.selection}", []).append((first, second))
    tested, others = paired_tests(wanted, _sample_of, progress_bar)
    return tested, refused + others


def _sample_of(probe: Probe) -> Sample:
    return answers_sample(probe.ids, probe.video, probe.correct.mean(axis=0))


def paired_tests(
    wanted: dict[str, list[tuple[Any, Any]]], sample_of: Callable[[Any], Sample], progress_bar: bool
) -> tuple[dict[str, list[Pair]], list[str]]:
    """The paired tests of each family of pairs, by its title, and why some were not made.

    `sample_of` gives the sample of a member of a pair, whose `name` is for messages. Holm's correction is over a family.
    """
    tested, refused = {}, []
    with tqdm(
        total=sum(map(len, wanted.values())), desc="paired tests", unit="pair", disable=not (progress_bar and wanted)
    ) as bar:
        for title, family in wanted.items():
            done = []
            for first, second in family:
                try:
                    done.append((first, second, compare_samples(sample_of(first), sample_of(second), SEED)))
                except ValueError as error:
                    refused.append(f"{first.name} and {second.name} were not compared: {error}.")
                bar.update()
            adjusted = holm([test.p_value for _, _, test in done])
            if done:
                tested[title] = [Pair(*pair, p_value) for pair, p_value in zip(done, adjusted, strict=True)]
    return tested, refused


def variants(runs: list[Run]) -> dict[str, str]:
    """For each run's path what tells it, beside its strategy, from the others: "official_code, hidden at input".

    A field that differs between runs of one strategy is named, unless each run has it from its preset.
    """
    several = len({_preset(run) for run in runs}) > 1
    strategies: dict[str, list[Run]] = {}
    for run in runs:
        strategies.setdefault(run.strategy, []).append(run)
    found = {}
    for members in strategies.values():
        named = {run.path: [_preset(run)] if several else [] for run in members}
        for path in sorted({path for run in members for path in run.settings}):
            having = [run for run in members if path in run.settings]
            if _says_nothing(path, having[0]) or len({_setting(run, path) for run in having}) < 2:
                continue
            # Within one preset there is nothing but the field itself that tells two runs apart.
            free = [run for run in having if PRETRAIN_PRESETS.get(_preset(run), {}).get(path) != _setting(run, path)]
            differ = len({_setting(run, path) for run in free}) > 1
            for run in free:
                if differ or path in PRETRAIN_PRESETS.get(_preset(run), {}):
                    named[run.path].append(_said(path, _setting(run, path)))
        found |= {path: ", ".join(parts) for path, parts in named.items()}
    return found


def _preset(run: Run) -> str:
    return run.preset or "paper"  # what older versions did


def _setting(run: Run, path: str) -> object:
    # Words may have been found, and an encoder may have been moved.
    if path == "anchors.words":
        return run.anchors
    return Path(str(run.settings[path])).name if path == "anchors.text_encoder" else run.settings[path]


def _says_nothing(path: str, run: Run) -> bool:
    """Whether the strategy's name says it already, or it is only where something lies."""
    aimed = path == "masking.where" and run.strategy in paper.METHODS
    return aimed or path in ("masking.strategy", "anchors.unigrams")


def _said(path: str, value: object) -> str:
    """As "hidden at input", "ratio 0.5", "not static"."""
    name = {"masking.hide_at": "hidden at", "anchors.words": "anchors"}.get(path, path.split(".")[1].replace("_", " "))
    if isinstance(value, bool):
        return name if value else f"not {name}"
    if isinstance(value, tuple):
        return f"{name} {' / '.join(value)}"
    return f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}" if value != "" else f"no {name}"


def told_apart(found: Collected) -> Collected:
    """The same with each run's and probe's `variant` set, in the order of a report."""
    variant, run_of = variants(found.runs), made_by(found)
    return Collected(
        sorted((dataclasses.replace(run, variant=variant[run.path]) for run in found.runs), key=in_order),
        sorted(
            (
                dataclasses.replace(probe, variant=variant[run_of[probe.path].path]) if probe.path in run_of else probe
                for probe in found.probes
            ),
            key=in_order,
        ),
        found.left_out,
    )


def joint_by_epoch(probe: Probe) -> Curve:
    """Validation accuracy at the chosen learning rate, as far as every seed was trained."""
    seen: dict[int, dict[int, float]] = {}
    for line in probe.lines:
        share, rate = line.get("joint"), line.get("learning_rate")
        chosen = rate is None or probe.learning_rate is None or math.isclose(rate, probe.learning_rate, rel_tol=1e-6)
        if line.get("split") == "validation" and chosen and isinstance(share, int | float) and math.isfinite(share):
            seen.setdefault(line["step"], {})[line.get("seed", 0)] = share
    seeds = max(map(len, seen.values()), default=0)
    full = {epoch: list(shares.values()) for epoch, shares in sorted(seen.items()) if len(shares) == seeds}
    # Of one seed there is no deviation: the band has no width.
    deviations = [float(np.std(shares, ddof=1)) if seeds > 1 else 0.0 for shares in full.values()]
    return Curve(list(full), [float(np.mean(shares)) for shares in full.values()], deviations)


def made_by(found: Collected) -> dict[str, Run]:
    """For each probe's path the run that made its checkpoint, where it is among those found."""
    folders = {Path(run.path).resolve(): run for run in found.runs}
    made = {}
    for probe in found.probes:
        checkpoint = Path(probe.checkpoint)
        run = folders.get(checkpoint) or folders.get(checkpoint.parent)
        if run:
            made[probe.path] = run
    return made
