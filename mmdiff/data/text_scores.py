"""Labels and what was told in, accuracy and F1 scores out: of classes, or of entities that count only whole."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int
from sklearn.metrics import precision_recall_fscore_support

from mmdiff.data.text_corpora import entity_spans
from mmdiff.data.text_tasks import OUTSIDE, Task, TaskSplit

SCORES = ("accuracy", "micro_f1", "macro_f1")


class LabelScore(NamedTuple):
    precision: float
    recall: float
    f1: float
    support: int  # how often the label is right


class Scores(NamedTuple):
    """Shares. See `score_classes` and `score_entities` for what they are of."""

    accuracy: float
    micro_f1: float
    macro_f1: float
    per_label: dict[str, LabelScore]


def score(
    task: Task, split: TaskSplit, predicted: Int[np.ndarray, " u"], of: Bool[np.ndarray, " n"] | None = None
) -> Scores:
    """The scores of a prediction for every unit of a split, `of` some of its texts.

    A unit that was not asked has -1, which is O for a tag and no class at all.
    """
    texts = np.arange(len(split)) if of is None else np.flatnonzero(of)
    if task.kind == "classification":
        return score_classes(split.gold[texts], predicted[texts], task.labels)
    names = np.array(task.labels)
    outside = task.labels.index(OUTSIDE)
    gold, told = names[split.gold].tolist(), names[np.where(predicted < 0, outside, predicted)].tolist()
    places = [slice(split.first[i], split.first[i + 1]) for i in texts]
    return score_entities([gold[place] for place in places], [told[place] for place in places])


def score_classes(gold: Int[np.ndarray, " n"], predicted: Int[np.ndarray, " n"], labels: tuple[str, ...]) -> Scores:
    """Of texts with one class each.

    Micro F1 is then the accuracy. Macro F1 is the mean over the classes that the gold labels hold, whatever was told: a
    class of the training texts that none of these has cannot be found in them.
    """
    numbers = np.arange(len(labels))
    parts = precision_recall_fscore_support(gold, predicted, labels=numbers, zero_division=0.0)
    per_label = {
        label: LabelScore(float(p), float(r), float(f), int(n))
        for label, p, r, f, n in zip(labels, *parts, strict=True)
    }
    accuracy = float((gold == predicted).mean()) if len(gold) else 0.0
    return Scores(accuracy, accuracy, _mean_f1(per_label), per_label)


def score_entities(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> Scores:
    """Of texts with an IOB2 tag for each word: an entity is found where its type, first and last word are right.

    Accuracy is the share of words with the right tag, most of which is O. Micro F1 is over all entities, macro F1 the mean
    over the types that the gold tags hold.
    """
    right, told, there = Counter(), Counter(), Counter()
    for tags, said in zip(gold, predicted, strict=True):
        wanted, found = set(entity_spans(tags)), set(entity_spans(said))
        for counts, spans in ((there, wanted), (told, found), (right, wanted & found)):
            counts.update(kind for _, _, kind in spans)
    per_label = {kind: _found(right[kind], told[kind], there[kind]) for kind in sorted(there | told)}
    words = sum(map(len, gold))
    same = sum(x == y for tags, said in zip(gold, predicted, strict=True) for x, y in zip(tags, said, strict=True))
    micro = _found(right.total(), told.total(), there.total())
    return Scores(same / words if words else 0.0, micro.f1, _mean_f1(per_label), per_label)


def _found(right: int, told: int, there: int) -> LabelScore:
    precision, recall = right / told if told else 0.0, right / there if there else 0.0
    return LabelScore(precision, recall, 2 * right / (told + there) if told + there else 0.0, there)


def _mean_f1(per_label: dict[str, LabelScore]) -> float:
    there = [found.f1 for found in per_label.values() if found.support]
    return float(np.mean(there)) if there else 0.0
