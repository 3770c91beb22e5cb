"""Folders of runs and probes in; one report as HTML, Markdown, LaTeX and JSON out: `mmdiff report`.

Every number is that of a named folder. Numbers of different datasets, protocols, records, modes or ways of choosing are
never pooled; neither are two runs.
"""

import dataclasses
import itertools
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mmdiff.errors import UserError
from mmdiff.reports import paper, sections, tables, text_sections
from mmdiff.reports.analysis import (
    SEED,
    Pair,
    compare,
    joint_by_epoch,
    made_by,
    same_records,
    told_apart,
)
from mmdiff.reports.collect import Collected, Probe, Run, collect
from mmdiff.reports.documents import write_documents
from mmdiff.reports.hidden_share import Hidden, inside_boxes
from mmdiff.reports.plots import Curve
from mmdiff.reports.significance import CONFIDENCE, RESAMPLES
from mmdiff.reports.text_results import read_text_results
from mmdiff.whole_files import write_whole

JSON = "report.json"


class Written(NamedTuple):
    """What `mmdiff report` shows at its end."""

    page: Path
    main_table: str  # Markdown


def report(runs: list[Path], out: Path, progress_bar: bool = True) -> Written:
    """Writes report.html, report.md, report.tex and report.json into `out`.

    Args:
      runs: folders of `mmdiff pretrain` and `mmdiff probe`, or folders above, in any order.
      out: the report's folder, made if need be; an earlier report there is replaced.
      progress_bar: whether to show one over the paired tests, which take seconds each for thousands of questions.

    Raises UserError where a path is not there, or none of them holds anything finished.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: give a folder as --out")
    found = collect(runs)
    text = read_text_results(found.texts, found.left_out)
    of_text, of_video = bool(text.runs or text.groups), bool(found.runs or found.probes)
    if not of_text and not of_video:
        raise UserError("nothing to report: " + "; ".join(f"{path}: {why}" for path, why in found.left_out))
    found = told_apart(found)
    groups = same_records(found.probes)
    found.probes = [*itertools.chain(*groups.values())]
    run_of = made_by(found)
    pairs, refused = compare(groups, run_of, progress_bar)
    text_tests = text_sections.compare_rows(text, progress_bar)
    hidden = [inside_boxes(run) for run in found.runs]
    curves = {probe.path: joint_by_epoch(probe) for probe in found.probes}

    accuracy = {title: tables.accuracy_table(probes) for title, probes in groups.items()}
    parts = [
        sections.accuracy(groups, accuracy),
        sections.paired_tests(pairs, refused),
        sections.curves(groups, curves, found.runs),
        sections.hidden(hidden),
        *sections.small_tables(groups),
        sections.sources(found, run_of),
    ]
    parts = (parts if of_video else []) + (text_sections.text_parts(text, text_tests) if of_text else [])
    parts.append(sections.left_out(found))
    notes = warnings(found, run_of) + text_sections.text_notes(text)
    page = write_documents(out, "mmdiff: what was measured", notes, parts)
    content = as_json(found, pairs, refused, hidden, curves, run_of, notes)
    content |= {"text": text_sections.as_json(text, text_tests)} if of_text else {}
    write_whole(out / JSON, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())
    shown = accuracy | text_sections.main_tables(text)
    main = "\n".join(f"{title}\n\n{tables.to_markdown(rows)}" for title, rows in shown.items())
    return Written(page, main or "no probe was measured\n")


def warnings(found: Collected, run_of: dict[str, Run]) -> list[str]:
    """What changes how the numbers are to be read."""
    notes = []
    kinds = {(probe.dataset, probe.protocol): set() for probe in found.probes}
    for probe in found.probes:
        kinds[probe.dataset, probe.protocol].add(probe.records)
    for kind, digests in kinds.items():
        if len(digests) > 1:
            notes.append(
                f"{tables.dataset_title(*kind)} was probed on different records ({', '.join(sorted(digests))}): numbers "
                "from different tables are of different questions and cannot be compared."
            )
    if any(probe.selection == "validation" for probe in found.probes):
        notes.append(
            'Where "chosen on" says validation, epoch and learning rate were chosen on the very questions that the '
            "accuracy is of: that is somewhat too high, for every strategy."
        )
    single = [probe.name for probe in found.probes if len(probe.joint) == 1]
    if single:
        notes.append(f"One seed only, which says nothing about spread: {', '.join(single)}.")
    unusable = {Path(path).resolve(): why for path, why in found.left_out}
    for probe in found.probes:
        why = unusable.get(Path(probe.checkpoint)) or unusable.get(Path(probe.checkpoint).parent)
        if why and probe.path not in run_of:
            notes.append(f"{probe.name} is a probe of a run that is left out: {probe.checkpoint} ({why}).")
    return notes


def as_json(
    found: Collected,
    pairs: dict[str, list[Pair]],
    refused: list[str],
    hidden: list[Hidden],
    curves: dict[str, Curve],
    run_of: dict[str, Run],
    notes: list[str],
) -> dict:
    """All numbers, as shares but for the paper's; folders are named by their paths."""
    return {
        "probes": [
            {
                **_plain(probe, without=("lines", "ids", "correct", "video")),
                "strategy_title": probe.title,
                "mean": float(np.mean(probe.joint)),
                "std": float(np.std(probe.joint, ddof=1)) if len(probe.joint) > 1 else None,
                "paper_percent": _cell(paper.cell(probe.strategy, probe.dataset, paper.ACCURACY)),
                "paper_note": paper.dataset(probe.dataset).note,
                "pretraining_run": run_of[probe.path].path if probe.path in run_of else None,
                "validation_by_epoch": curves[probe.path]._asdict(),
            }
            for probe in found.probes
        ],
        "runs": [
            {
                **_plain(row.run, without=("lines", "targets")),
                "strategy_title": row.run.title,
                "hidden_inside_person": row.share,
                "hidden_inside_person_split": row.split or None,
                "hidden_inside_person_lines": row.lines,
                "hidden_inside_person_windows": row.windows,
                "boxes_cover": row.boxes_cover,
                "targets": row.targets and row.targets._asdict(),
                "targets_of_each_window": row.run.targets
                and {"window": row.run.targets.window, "targets": row.run.targets.targets.tolist()},
                "paper_percent": _cell(tables.paper_share(row.run)),
            }
            for row in hidden
        ],
        "paired_tests": {
            "resamples": RESAMPLES,
            "seed": SEED,
            "confidence": CONFIDENCE,
            "families": {
                title: [
                    {
                        "first": pair.first.path,
                        "second": pair.second.path,
                        **pair.test._asdict(),
                        "questions": pair.first.questions,
                        "p_value_holm": pair.adjusted,
                    }
                    for pair in family
                ]
                for title, family in pairs.items()
            },
            "refused": refused,
        },
        "left_out": [row._asdict() for row in found.left_out],
        "warnings": notes,
        "paper": {name: paper.facts()[name] for name in ("paper", "arxiv", "trials")},
    }


def _plain(record: Run | Probe, without: tuple[str, ...]) -> dict:
    names = [field.name for field in dataclasses.fields(record) if field.name not in without]
    return {name: getattr(record, name) for name in names}


def _cell(cell: paper.Cell | None) -> dict | None:
    return cell._asdict() if cell else None
