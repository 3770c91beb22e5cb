"""Similarity of a box's label, or of a word of a text, to the anchors, the words that make a domain different.

Anchors are given, or found by TF-ICF in what the records' training videos say and are asked, or in the training texts.
"""

import dataclasses
import functools
import json
import logging
import math
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from mmdiff.data.corpus import POSSESSIVE, count_record_words, count_words
from mmdiff.data.records import PARTS, metadata
from mmdiff.data.text_examples import GLUED
from mmdiff.errors import UserError
from mmdiff.masking.text_vectors import POOLS, TextEncoder, load_text_encoder
from mmdiff.masking.tf_icf import FoundWord, WordRules, common_words_warning, find_words, read_general

PERSON = "person"  # what every part of a person is, whatever name its label gives
COMMONEST = 5  # labels named in a message
WORDS_AT_ONCE = 1024  # between two moves of the progress bar

log_line = logging.getLogger(__name__)


class AnchorError(UserError):
    """The anchors mean nothing for these records, or those that a run kept cannot be used."""


def _nearest(labels: Float[np.ndarray, "n d"], anchors: Float[np.ndarray, "k d"]) -> Float[np.ndarray, " n"]:
    """The cosine with the nearest anchor (arXiv 2305.14577, equations 3 and 4)."""
    return (labels @ anchors.T).max(axis=1)


def _centroid(labels: Float[np.ndarray, "n d"], anchors: Float[np.ndarray, "k d"]) -> Float[np.ndarray, " n"]:
    """The cosine with the mean of the anchors."""
    mean = anchors.mean(axis=0)
    return labels @ (mean / max(np.linalg.norm(mean), 1e-12))


# Unit vectors of labels and of anchors in, the similarity of each label out.
COMPARE = {"nearest": _nearest, "centroid": _centroid}


@dataclasses.dataclass
class AnchorsConfig:
    """The words that make the domain different, and how a box's label is compared with them."""

    words: tuple[str, ...] = (PERSON,)
    find: int = 0  # so many more, by TF-ICF over the subtitles and questions of the training records
    unigrams: str = ""  # counts of words in general for `find`: a file such as count_1w.txt(.gz); "": wordfreq's
    shortlist: int = 5  # TF-ICF ranks `find` times so many words, those most in excess of general; 0: all words
    min_count: int = 1  # of a found word in the training records; with shortlist=0 words that occur once come first
    min_length: int = 3  # letters of a found word
    alphabetic: bool = True  # a found word has letters only
    stop_words: tuple[str, ...] = ()  # never found
    floor: int = 0  # the least that a word counts in general; 0: the smallest count of `unigrams`
    listed: bool = False  # a found word is in `unigrams`; others are as rare as the floor says, which puts them first
    text_encoder: str = ""  # folder of a BERT or RoBERTa; without, a label must equal an anchor, in any case
    pool: str = "mean"  # of a text's tokens is its vector, or what BERT's pooler makes of the first, "pooler"
    compare: str = "nearest"  # anchor, or "centroid" of all anchors
    min_similarity: float = 0.0  # less counts as 0; words that have nothing to do with each other may have 0.3

    def validate(self) -> None:
        """Raises ValueError, with what is allowed, for a value that means nothing."""
        for name in ("words", "stop_words"):
            words = getattr(self, name)
            listed = isinstance(words, tuple | list) and all(isinstance(word, str) for word in words)
            if not listed or any("," in word or not word.strip() for word in words):
                raise ValueError(f"anchors.{name}={words!r} must be labels, as in \"('person', 'hand')\"")
        for name, least in (("find", 0), ("shortlist", 0), ("min_count", 1), ("min_length", 1), ("floor", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"anchors.{name}={getattr(self, name)} must be at least {least}")
        if not 0 <= self.min_similarity <= 1:
            raise ValueError(f"anchors.min_similarity={self.min_similarity} must lie from 0 to 1")
        if not self.words and not self.find:
            raise ValueError("anchors.words=() leaves no anchors: give some, or how many to find as anchors.find")
        if self.compare not in COMPARE:
            raise ValueError(f"anchors.compare={self.compare!r} is unknown; known: {', '.join(COMPARE)}")
        if self.pool not in POOLS:
            raise ValueError(f"anchors.pool={self.pool!r} is unknown; known: {', '.join(POOLS)}")
        if self.compare == "centroid" and not self.text_encoder:
            raise ValueError("anchors.compare='centroid' needs anchors.text_encoder: only embeddings have a mean")

    def rules(self) -> WordRules:
        """Which words may be found."""
        return WordRules(
            self.shortlist,
            self.min_count,
            self.min_length,
            self.alphabetic,
            tuple(self.stop_words),
            self.floor,
            self.listed,
        )


def word_anchors_config(**changed) -> AnchorsConfig:
    """What text starts from: 20 anchors, all of them found.

    Words that general English lacks are not found. Their ratio would be a guess, and they would come first; of the
    anchors that the authors published none is such a word, although their corpora hold 18 that occur 30 times.
    """
    return AnchorsConfig(**{"words": (), "find": 20, "listed": True} | changed)


class Anchors:
    """The weight of a box by its label and part. Threads may share it.

    With "nearest", a label that is an anchor, in any case, has similarity 1; every other has the cosine of its
    embedding with that of the nearest anchor, or 0 without an encoder. With "centroid" every label, an anchor too, has
    its cosine with the anchors' mean: an anchor far from the others is not what the domain is about. Below 0 counts
    as 0.

    A box of a person, body or face, is called "person" as well as by its own label, and the higher similarity counts.
    With the anchor "person" this is the paper's setting for video (arXiv 2305.14577, section 4.2). Boxes that people
    drew are labelled with names: the anchor "person" means them all, the anchor "Sheldon" one of them.
    """

    def __init__(
        self,
        words: Sequence[str],
        found: Sequence[FoundWord] = (),
        compare: str = "nearest",
        encoder: Callable[[], TextEncoder] | None = None,
        described: dict | None = None,
        similarities: dict[str, float] | None = None,
        min_similarity: float = 0.0,
    ):
        """`encoder` opens the text encoder that `described` describes, when the first label needs it."""
        self.words, self.found = tuple(words), tuple(found)  # all anchors, and what is known about those found
        self._compare, self._described, self._least = compare, described, min_similarity
        self._encoder = functools.cache(encoder) if encoder else None
        self._similarity: dict[str, float] = dict(similarities or {})
        self._lock = threading.Lock()

    def __call__(self, label: str, part: str) -> float:
        """0 to 1. Raises AnchorError or CheckpointError where a new label needs an encoder that is not there."""
        return max(self.similarity(name) for name in ({label} if part == "object" else {label, PERSON}))

    def similarity(self, label: str) -> float:
        """Of a label on its own, whatever it is the label of."""
        if label not in self._similarity:  # Known from the start, but for records that do not list their labels.
            self.learn([label])
        return self._similarity[label]

    def __contains__(self, label: str) -> bool:
        """Whether a label has been compared."""
        return label in self._similarity

    def learn(self, labels: Iterable[str]) -> None:
        """Compares all labels that are new with the anchors, at once."""
        with self._lock:
            new = [label for label in dict.fromkeys(labels) if label not in self._similarity]
            if not new:
                return
            named = {self._name(word) for word in self.words}
            similarity = np.zeros(len(new))
            if self._encoder:
                vectors = self._encoder().embed([in_running_text(word) for word in (*self.words, *new)])
                similarity = COMPARE[self._compare](vectors[len(self.words) :], vectors[: len(self.words)])
            if self._compare == "nearest":
                similarity = np.where([self._name(label) in named for label in new], 1.0, similarity)
            similarity = np.where(similarity < self._least, 0.0, np.clip(similarity, 0, 1))
            self._similarity.update(zip(new, similarity.tolist(), strict=True))

    @staticmethod
    def _name(label: str) -> str:
        """What a label and an anchor that are the same share."""
        return label.casefold()

    @property
    def warning(self) -> str:
        """A sentence where found anchors are common words, or ""."""
        return common_words_warning(self.found)

    def to_json(self) -> dict:
        """What a run keeps of them: `labels` holds the similarity of each label, highest first.

        A label's similarity is the weight of an object's box; that of a person's box is at least the `person` there.
        """
        best_first = sorted(self._similarity.items(), key=lambda item: (-item[1], item[0]))
        return {
            "words": list(self.words),
            "found": [word._asdict() for word in self.found],
            "warning": self.warning,
            "compare": self._compare,
            "text_encoder": self._described,
            "labels": dict(best_first),
        }


def open_anchors(
    config: AnchorsConfig,
    records: str,
    kept: Path | None = None,
    *,
    where: str | None = "both",
    progress_bar: bool = True,
) -> Anchors:
    """The anchors of a configuration for these records, all of whose labels are compared with them now.

    Args:
      config: valid.
      records: the output folder of `mmdiff preprocess`.
      kept: where a run keeps `to_json()`; if the file is there, nothing is searched or compared again.
      where: which boxes are aimed at, as `MaskingConfig.where`; one of them, or of an object, must match. With None
        nothing aims at boxes, and anchors that match none are only warned of.
      progress_bar: of the search for words.

    Raises:
      AnchorError: no box of the records matches any anchor, or what the run kept cannot be used.
      TfIcfError: the general frequencies cannot be read, or no word can be found.
      CheckpointError: the text encoder cannot be used.
      RecordError: the records cannot be read.
    """
    if kept is not None and kept.is_file():
        encoder = functools.partial(load_text_encoder, config.text_encoder, config.pool)
        return _reopen(Anchors, config, kept, encoder if config.text_encoder else None)
    labels = metadata(records)["labels"]
    encoder = load_text_encoder(config.text_encoder, config.pool) if config.text_encoder else None
    anchors = _make(Anchors, config, lambda: count_record_words(records, progress_bar), encoder)
    anchors.learn([PERSON, *(labels or {})])
    if labels is not None:
        _check_matches(anchors, labels, records, config, where)
    return anchors


class WordAnchors(Anchors):
    """The weight of a word of a text, as `standing_words` writes it. Words are compared by the tokens that the text has.

    A word is an anchor in any case, and with a possessive's 's.
    """

    @staticmethod
    def _name(label: str) -> str:
        return POSSESSIVE.sub("", label.removeprefix(GLUED).casefold())


def in_running_text(word: str) -> str:
    """The characters to give to a vocabulary for the tokens that a word has inside a text.

    Byte-level vocabularies (RoBERTa's) have other tokens for a word after white space than for the word alone.
    """
    return word.removeprefix(GLUED) if word.startswith(GLUED) else f" {word}"


def open_word_anchors(
    config: AnchorsConfig,
    texts: Sequence[str],
    words: Iterable[str],
    kept: Path | None = None,
    encoder: TextEncoder | None = None,
    progress_bar: bool = True,
) -> WordAnchors:
    """The anchors of a configuration for these texts, and the similarity of every word to them.

    Args:
      config: valid.
      texts: those to train on, in which anchors are looked for.
      words: every word that will be asked for; each is embedded once, however often it occurs.
      kept: where a run keeps `to_json()`; if the file is there, nothing is searched or compared again.
      encoder: compares words by meaning; without, only a word that is an anchor has a similarity above 0.
      progress_bar: of the counting and of the comparing.

    Raises:
      AnchorError: what the run kept cannot be used, or was made with another encoder.
      TfIcfError: the general frequencies cannot be read, or no word can be found.
    """
    if kept is not None and kept.is_file():
        anchors = _reopen(WordAnchors, config, kept, None if encoder is None else lambda: encoder)
    else:

        def count() -> Mapping[str, int]:
            return count_words(tqdm(texts, desc="words of texts", unit="text", disable=not progress_bar))

        anchors = _make(WordAnchors, config, count, encoder)
    new = [word for word in dict.fromkeys(words) if word not in anchors]
    if new:
        with tqdm(total=len(new), desc="similarity of words", unit="word", disable=not progress_bar) as bar:
            for first in range(0, len(new), WORDS_AT_ONCE):
                anchors.learn(new[first : first + WORDS_AT_ONCE])
                bar.update(len(new[first : first + WORDS_AT_ONCE]))
    return anchors


def _make(
    kind: type[Anchors], config: AnchorsConfig, count: Callable[[], Mapping[str, int]], encoder: TextEncoder | None
) -> Anchors:
    """The anchors given and found, with nothing compared yet. `count` counts the words to find some in."""
    given = {word.casefold(): word for word in reversed(config.words)}  # the first spelling of each
    words = tuple(dict.fromkeys(given[word.casefold()] for word in config.words))
    found = _find(config, words, count) if config.find else []
    return kind(
        words + tuple(word.word for word in found),
        found,
        config.compare,
        encoder=None if encoder is None else lambda: encoder,
        described=None if encoder is None else _describe(encoder),
        min_similarity=config.min_similarity,
    )


def _describe(encoder: TextEncoder) -> dict[str, str]:
    """What a run keeps of an encoder."""
    return {"name": encoder.name, "digest": encoder.digest} | ({"pool": encoder.pool} if encoder.pool != "mean" else {})


def _find(config: AnchorsConfig, given: Sequence[str], count: Callable[[], Mapping[str, int]]) -> list[FoundWord]:
    general = read_general(config.unigrams)  # before the long search
    counts = count()
    known = {word.casefold() for word in given}
    found = find_words(counts, general, config.find, config.rules(), known)
    few = f" (only {len(found)} words are allowed)" if len(found) < config.find else ""
    listed = ", ".join(f"{word.word} ({word.count} times, {word.tf_icf:.3g})" for word in found)
    log_line.info("anchors found by TF-ICF%s: %s", few, listed)
    if warning := common_words_warning(found):
        log_line.warning(warning)
    return found


def _check_matches(
    anchors: Anchors, labels: dict[str, dict[str, int]], records: str, config: AnchorsConfig, where: str | None
) -> None:
    """Raises AnchorError where boxes must be like an anchor and none is; warns of anchors without a box."""
    aimed = (where, "object") if where in ("body", "face") else PARTS
    if not labels:
        log_line.warning("%s holds no boxes at all: anchors choose nothing there", records)
    elif any(anchors(label, part) for label, parts in labels.items() for part in parts if part in aimed):
        called = {label.casefold() for label in labels}
        if any(part != "object" for parts in labels.values() for part in parts):
            called.add(PERSON)
        idle = [word for word in anchors.words if word.casefold() not in called]
        if idle and not config.text_encoder:
            log_line.warning("no box of %s is labelled %s", records, _either(idle))
    else:

        def described(label: str) -> str:
            parts = [part for part in labels[label] if part != "object"]
            return f"{label} ({', '.join(parts)})" if parts else label

        commonest = sorted(labels, key=lambda label: (-sum(labels[label].values()), label))[:COMMONEST]
        advice = (
            f"lower anchors.min_similarity={config.min_similarity} or name some as anchors.words"
            if config.text_encoder
            else "name some as anchors.words, or give a folder as anchors.text_encoder to compare labels by meaning"
        )
        if aimed is not PARTS:
            advice = f"aim elsewhere with masking.where, {advice}"
        message = (
            f"no {'' if aimed is PARTS else where + ' '}box of {records} is labelled {_either(anchors.words)}"
            f"{' or alike' if config.text_encoder else ''}; its commonest labels are {', '.join(map(described, commonest))}: {advice}"
        )
        if where is not None:
            raise AnchorError(message)
        log_line.warning(message)


def _either(words: Sequence[str]) -> str:
    return " or ".join(map(repr, words))


def _reopen(kind: type[Anchors], config: AnchorsConfig, kept: Path, load: Callable[[], TextEncoder] | None) -> Anchors:
    """The anchors that a run was started with. `load` gives the encoder, when a new label needs it."""
    try:
        stored = json.loads(kept.read_text(encoding="utf-8"))
        words, compare, described = stored["words"], stored["compare"], stored["text_encoder"]
        found = [FoundWord(**word) for word in stored["found"]]
        similarities = {str(label): float(similarity) for label, similarity in stored["labels"].items()}
        if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
            raise ValueError(f"its words are {words!r}")
        if compare not in COMPARE:
            raise ValueError(f"it compares by {compare!r}")
        for word in found:
            counts = word.count, word.general_count, word.tf_icf
            numbers = all(isinstance(x, int | float) and math.isfinite(x) for x in counts)
            if not isinstance(word.word, str) or not numbers:
                raise ValueError(f"it found {word!r}")
        outside = [label for label, similarity in similarities.items() if not 0 <= similarity <= 1]
        if outside:
            raise ValueError(f"the similarity of {outside[0]!r} does not lie from 0 to 1")
        name, digest, pool = None, None, None
        if described:
            name, digest, pool = described["name"], described["digest"], described.get("pool", "mean")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise AnchorError(
            f"{kept} is not what a run keeps of its anchors ({type(error).__name__}: {error}): it was changed by hand, or "
            "is of another program"
        ) from None

    if bool(described) != bool(load):
        raise AnchorError(
            f"{kept} was made with "
            + (f"the text encoder {name}: give its folder as" if described else "no text encoder: leave out")
            + " anchors.text_encoder"
        )

    def encoder() -> TextEncoder:
        opened = load()
        if opened.digest != digest:
            raise AnchorError(
                f"{config.text_encoder or opened.name} no longer holds the text encoder {name} that {kept} was made with"
            )
        if opened.pool != pool:
            raise AnchorError(f"{kept} was made with anchors.pool={pool!r}, and anchors.pool is now {opened.pool!r}")
        return opened

    return kind(words, found, compare, encoder if described else None, described, similarities, config.min_similarity)
