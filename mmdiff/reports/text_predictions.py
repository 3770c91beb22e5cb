"""What a probe predicted of each test text, as counts that sum over texts to those of an F1 score."""

import functools
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from mmdiff.data.text_corpora import entity_spans
from mmdiff.errors import UserError
from mmdiff.reports.collect import TOLERANCE, read_arrays
from mmdiff.reports.significance import Sample, same_questions

OUTSIDE = "O"
COUNTED = 3  # numbers of each label: predicted rightly, predicted, and in the gold labels


def read_sample(path: Path, task: str, labels: Sequence[str], metric: str, scores: list[float]) -> Sample:
    """The test texts of a probe, each with its counts averaged over the probe's seeds.

    Args:
      path: predictions.npz.
      task: classification or entities.
      labels: classes, or IOB2 tags.
      metric: accuracy, micro_f1 or macro_f1.
      scores: that each seed has by probe.json.

    Raises UserError where the file cannot be used, or is not of the same probe.
    """
    ids, document, first, gold, predicted = read_arrays(path, "id", "document", "first", "gold", "predicted")
    texts, units, known = len(ids), len(gold), len(labels)
    shapes = document.shape == (texts,) and first.shape == (texts + 1,) and predicted.shape == (len(scores), units)
    if not texts or not shapes or (np.diff(first) < 1).any() or (first[0], first[-1]) != (0, units):
        raise UserError(
            f"{path.name} does not hold one prediction for each unit of {texts} texts and {len(scores)} seeds"
        )
    if gold.min() < 0 or gold.max() >= known or predicted.min() < -1 or predicted.max() >= known:
        raise UserError(f"{path.name} holds labels that probe.json does not name")
    if metric == "accuracy" or (task, metric) == ("classification", "micro_f1"):
        count = functools.partial(count_units, gold, first=first)
    elif task == "classification":
        count = functools.partial(count_classes, gold, classes=known)
    else:
        count = functools.partial(count_entities, gold, first=first, tags=labels)
    score = macro_f1 if metric == "macro_f1" else micro_f1
    counts = [count(of_seed) for of_seed in predicted]
    found = [float(score(of_seed.sum(axis=0, keepdims=True))[0]) for of_seed in counts]
    if np.abs(np.subtract(found, scores)).max() > TOLERANCE:
        raise UserError(f"{path.name} gives other scores than probe.json: they are not of the same probe")
    return Sample(ids, document, np.mean(counts, axis=0), score)


def pooled(samples: Sequence[Sample]) -> Sample:
    """The same texts with the mean counts of several probes. Raises ValueError where the texts are not the same."""
    first, total = samples[0], samples[0].counts
    for other in samples[1:]:
        order, theirs = same_questions(first.ids, other.ids)
        total = total + other.counts[theirs[np.argsort(order)]]
    return first._replace(counts=total / len(samples))


def count_units(
    gold: Int[np.ndarray, " u"], predicted: Int[np.ndarray, " u"], first: Int[np.ndarray, " b"]
) -> Float[np.ndarray, "n 3"]:
    """Of units as if of one label, so that micro F1 is the accuracy."""
    right = np.add.reduceat((gold == predicted).astype(float), first[:-1])
    units = np.diff(first).astype(float)
    return np.stack([right, units, units], axis=1)


def count_classes(
    gold: Int[np.ndarray, " n"], predicted: Int[np.ndarray, " n"], classes: int
) -> Float[np.ndarray, "n m"]:
    """Of texts with one class each."""
    one_hot = np.eye(classes + 1)[:, :classes]  # The last row is of a text that no class was predicted for: -1.
    return np.concatenate([one_hot[gold] * one_hot[predicted], one_hot[predicted], one_hot[gold]], axis=1)


def count_entities(
    gold: Int[np.ndarray, " u"], predicted: Int[np.ndarray, " u"], first: Int[np.ndarray, " b"], tags: Sequence[str]
) -> Float[np.ndarray, "n m"]:
    """Of texts with an IOB2 tag for each word: an entity is right where its type, first and last word are."""
    types = sorted({tag.partition("-")[2] for tag in tags if tag != OUTSIDE})
    place = {kind: i for i, kind in enumerate(types)}
    names = np.array(tags)
    outside = list(tags).index(OUTSIDE)
    wanted, told = names[gold].tolist(), names[np.where(predicted < 0, outside, predicted)].tolist()
    counts = np.zeros((len(first) - 1, COUNTED, len(types)))
    for text, (start, end) in enumerate(itertools.pairwise(first)):
        in_gold, in_told = set(entity_spans(wanted[start:end])), set(entity_spans(told[start:end]))
        for number, spans in enumerate((in_gold & in_told, in_told, in_gold)):
            for *_, kind in spans:
                counts[text, number, place[kind]] += 1
    return counts.reshape(len(counts), -1)


def micro_f1(counts: Float[np.ndarray, "r m"]) -> Float[np.ndarray, " r"]:
    """F1 of all labels together; 0 where there is nothing to find and nothing was found."""
    return _f1(_by_label(counts).sum(axis=2, keepdims=True))[:, 0]


def macro_f1(counts: Float[np.ndarray, "r m"]) -> Float[np.ndarray, " r"]:
    """The mean F1 of the labels that the gold labels hold."""
    counts = _by_label(counts)
    there = counts[:, 2] > 0
    return (_f1(counts) * there).sum(axis=1) / np.maximum(there.sum(axis=1), 1)


def _by_label(counts: Float[np.ndarray, "r m"]) -> Float[np.ndarray, "r 3 l"]:
    return counts.reshape(len(counts), COUNTED, -1)


def _f1(counts: Float[np.ndarray, "r 3 l"]) -> Float[np.ndarray, "r l"]:
    both = counts[:, 1] + counts[:, 2]
    return 2 * counts[:, 0] / np.where(both > 0, both, 1)
