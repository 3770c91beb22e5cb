"""A corpus and a tokenizer in, texts in which a model is asked for a label, or for the tag of each word, out.

What is asked for is a unit: a text, or a word of a CoNLL file. A unit that has no token, for it lies behind the window or
the vocabulary drops its characters, is not asked: it counts as told to be O, whatever its own tag is.
"""

import dataclasses
import logging
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from mmdiff.data.text_corpora import Corpus, CorpusError, Text
from mmdiff.data.text_tokens import TextTokenizer, TokenizedText

OUTSIDE = "O"
HEAD_OF = {"classification": "sequence", "entities": "token"}  # of a corpus' kind: the model's head

log_line = logging.getLogger(__name__)


class AskedText(NamedTuple):
    """One text, or with a first axis `b` a batch of them. All that is 0 where there is nothing: padding is zeros."""

    number: Int[np.ndarray, "*b"]  # place in its split
    tokens: Int[np.ndarray, "*b t"]
    valid: Bool[np.ndarray, "*b t"]
    label: Int[np.ndarray, "*b t"]  # place in the task's labels + 1, at the token that is asked; 0 elsewhere
    seed: Int[np.ndarray, "*b"]  # that dropout draws from, the same in a batch: one compiled step serves all seeds


@dataclasses.dataclass(frozen=True)
class TaskSplit:
    """A split of a task: `n` texts with `u` units."""

    texts: list[Text]
    examples: list[AskedText]
    gold: Int[np.ndarray, " u"]  # place in the task's labels
    first: Int[np.ndarray, " m"]  # first unit of each text, and behind them how many there are
    asked: Bool[np.ndarray, " u"]
    cut: int  # texts that are longer than the window

    def __len__(self) -> int:
        return len(self.texts)

    def units_of(self, number: int) -> Int[np.ndarray, " a"]:
        """The asked units of a text, in the order of their tokens."""
        units = np.arange(self.first[number], self.first[number + 1])
        return units[self.asked[units]]


@dataclasses.dataclass(frozen=True)
class Task:
    """What a head learns to tell apart, and from which texts."""

    name: str
    kind: str  # a key of HEAD_OF
    labels: tuple[str, ...]  # classes; or tags, O first
    splits: dict[str, TaskSplit]
    digest: str  # of the files


def tag_names(types: tuple[str, ...]) -> tuple[str, ...]:
    """The IOB2 tags of these types of entities."""
    return (OUTSIDE, *(f"{place}-{kind}" for kind in types for place in "BI"))


def task_labels(corpus: Corpus) -> tuple[str, ...]:
    """What a corpus asks to tell apart: classes; or tags, O first.

    Raises CorpusError where nothing in it is labelled, or there is no split to train on, to choose on or to report.
    """
    if corpus.kind not in HEAD_OF:
        raise CorpusError(
            f"the texts of {corpus.name} have no labels: a probe needs JSON lines with a label each, or CoNLL files"
        )
    lacking = [split for split in ("train", "validation", "test") if split not in corpus.splits]
    if lacking:
        raise CorpusError(
            f"{corpus.name} has no {' and no '.join(lacking)} texts: a probe trains on train, chooses on validation (dev) "
            "and reports test"
        )
    labels = corpus.labels if corpus.kind == "classification" else tag_names(corpus.labels)
    if len(labels) < 2:
        what = f"one label, {labels[0]}" if labels else "no label"
        raise CorpusError(f"{corpus.name} has {what}: there is nothing to tell apart")
    return labels


def make_task(corpus: Corpus, tokenizer: TextTokenizer) -> Task:
    """The texts of a corpus as a model reads them. Raises CorpusError as `task_labels` does."""
    labels = task_labels(corpus)
    splits = {split: _split(texts, tokenizer, labels) for split, texts in corpus.splits.items()}
    for name, split in splits.items():
        if split.cut:
            log_line.warning("%s: %d of %d %s texts are longer than the window and cut", corpus.name, split.cut,
                             len(split), name)  # fmt: skip
    return Task(corpus.name, corpus.kind, labels, splits, corpus.digest)


def _split(texts: list[Text], tokenizer: TextTokenizer, labels: tuple[str, ...]) -> TaskSplit:
    place = {label: i for i, label in enumerate(labels)}
    examples, gold, asked, first = [], [], [], [0]
    tokenized = tokenizer.encode([text.text for text in texts])
    for number, (text, found) in enumerate(zip(texts, tokenized, strict=True)):
        own = [place[label] for label in ([text.label] if text.tags is None else text.tags)]
        where = np.zeros(1, int) if text.tags is None else first_tokens(text.spans, found)
        label = np.zeros(len(found.tokens), np.int32)
        label[where[where >= 0]] = np.array(own)[where >= 0] + 1
        valid = np.ones(len(found.tokens), bool)
        examples.append(AskedText(np.int32(number), found.tokens.astype(np.int32), valid, label, np.int32(0)))
        gold += own
        asked += (where >= 0).tolist()
        first.append(len(gold))
    return TaskSplit(
        texts, examples, np.array(gold, np.int32), np.array(first), np.array(asked, bool), sum(x.cut for x in tokenized)
    )


def first_tokens(spans: tuple[tuple[int, int], ...], found: TokenizedText) -> Int[np.ndarray, " w"]:
    """The first token of each of these stretches of characters; -1 where none begins in it."""
    start, end = np.array(spans, int).reshape(-1, 2).T
    tokens = np.flatnonzero(found.start < found.end)
    word = np.searchsorted(start, found.start[tokens], side="right") - 1
    inside = (word >= 0) & (found.start[tokens] < end[np.maximum(word, 0)])
    first = np.full(len(start), -1)
    # Backwards, so that of several the first one stays.
    first[word[inside][::-1]] = tokens[inside][::-1]
    return first
