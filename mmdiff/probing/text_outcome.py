"""What was told of the test texts, seed by seed, in; probe.json, predictions.npz and metrics.jsonl out."""

import dataclasses
from pathlib import Path

import numpy as np
from jaxtyping import Int

from mmdiff.data.text_scores import SCORES, LabelScore, Scores, score
from mmdiff.data.text_tasks import Task
from mmdiff.probing.outcome import write_probe
from mmdiff.probing.text_duplicates import documents_of, seen_in


@dataclasses.dataclass(frozen=True)
class TextOutcome:
    """One probe: `k` seeds on the `u` units of the test split."""

    predicted: Int[np.ndarray, "k u"]  # by the chosen epoch: places in the task's labels, -1 where nothing was asked
    last_predicted: Int[np.ndarray, "k u"]  # by the last epoch that ran
    epoch: list[int]  # the chosen one of each seed, counted from 1
    learning_rate: float
    selection: list[float]  # each seed's score on the validation split
    grid: list[dict]  # {"learning_rate", "selection_score": [for each seed]}
    lines: list[dict]  # of metrics.jsonl


def write_text_outcome(folder: Path, task: Task, outcome: TextOutcome, metric: str, about: dict) -> dict:
    """Writes the three files, probe.json last, and returns what is in it: `about` and all scores."""
    test, train = task.splits["test"], task.splits["train"]
    seen = seen_in([text.text for text in train.texts], [text.text for text in test.texts])
    scores = [score(task, test, told) for told in outcome.predicted]
    unseen = [score(task, test, told, ~seen) for told in outcome.predicted] if seen.any() and not seen.all() else []
    common = np.bincount(train.gold, minlength=len(task.labels)).argmax()
    result = about | {
        "kind": "text",
        "task": task.kind,
        "labels": list(task.labels),
        "metric": metric,
        "texts": {name: len(split) for name, split in task.splits.items()},
        "cut_texts": {name: split.cut for name, split in task.splits.items()},
        "duplicates": {"test": len(test), "in_train": int(seen.sum())},
        # Of always telling what is right most often in training; for tags that is O, and finds no entity.
        "baseline": _shares(score(task, test, np.full(len(test.gold), common, np.int32))),
        "scores": _for_each_seed(scores),
        "deduplicated_scores": _for_each_seed(unseen) if unseen else None,
        "last_epoch_scores": _for_each_seed([score(task, test, told) for told in outcome.last_predicted]),
        "per_label": per_label(scores),
        "selection_scores": outcome.selection,
        "epoch": outcome.epoch,
        "learning_rate": outcome.learning_rate,
        "grid": outcome.grid,
        "seeds": list(range(len(outcome.epoch))),
    }
    names = np.array([text.name for text in test.texts], str)
    write_probe(
        folder,
        result,
        outcome.lines,
        id=names,
        document=documents_of(test.texts),
        first=test.first,
        gold=test.gold,
        predicted=outcome.predicted,
        seen=seen,
    )
    return result


def per_label(scores: list[Scores]) -> dict[str, dict]:
    """Of each label that a seed's scores have: precision, recall and F1, one for each seed, and the support."""
    names = list(dict.fromkeys(label for found in scores for label in found.per_label))
    nothing = LabelScore(0.0, 0.0, 0.0, 0)
    return {
        label: {
            **{part: [getattr(found.per_label.get(label, nothing), part) for found in scores]
               for part in ("precision", "recall", "f1")},
            "support": max(found.per_label.get(label, nothing).support for found in scores),
        }
        for label in names
    }  # fmt: skip


def _shares(found: Scores) -> dict[str, float]:
    return {name: getattr(found, name) for name in SCORES}


def _for_each_seed(scores: list[Scores]) -> dict[str, list[float]]:
    return {name: [getattr(found, name) for found in scores] for name in SCORES}
