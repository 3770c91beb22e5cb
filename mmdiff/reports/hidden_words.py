"""A run's hidden_words.json in; which words its masks hid, how far beyond chance, and whether they are the labels' own, out."""

import dataclasses
import itertools
import math
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from mmdiff.errors import UserError
from mmdiff.reports.collect import field, read_json
from mmdiff.reports.label_words import words_of_labels

HIDDEN_WORDS = "hidden_words.json"
DEVIATIONS = 1.96  # of a normal distribution: 95 % lie within
OFTEN = 10  # Of a word that occurs less nothing can be said.
# Words of English grammar, and what stands in citations: in every text, whatever it is about.
STOP_WORDS = frozenset(
    [
        "a",
        "an",
        "the",
        "this",
        "that",
        "these",
        "those",
        "each",
        "every",
        "either",
        "neither",
        "both",
        "all",
        "any",
        "some",
        "no",
        "none",
        "such",
        "same",
        "other",
        "another",
        "one",
        "ones",
        "i",
        "me",
        "my",
        "mine",
        "we",
        "us",
        "our",
        "ours",
        "you",
        "your",
        "yours",
        "he",
        "him",
        "his",
        "she",
        "her",
        "hers",
        "it",
        "its",
        "they",
        "them",
        "their",
        "theirs",
        "itself",
        "themselves",
        "who",
        "whom",
        "whose",
        "which",
        "what",
        "when",
        "where",
        "why",
        "how",
        "whether",
        "there",
        "here",
        "and",
        "or",
        "but",
        "nor",
        "so",
        "yet",
        "if",
        "then",
        "than",
        "as",
        "because",
        "since",
        "while",
        "although",
        "though",
        "unless",
        "until",
        "once",
        "about",
        "above",
        "across",
        "after",
        "against",
        "along",
        "among",
        "amongst",
        "around",
        "at",
        "before",
        "behind",
        "below",
        "beneath",
        "beside",
        "between",
        "beyond",
        "by",
        "down",
        "during",
        "for",
        "from",
        "in",
        "inside",
        "into",
        "like",
        "near",
        "of",
        "off",
        "on",
        "onto",
        "out",
        "outside",
        "over",
        "per",
        "through",
        "throughout",
        "to",
        "toward",
        "towards",
        "under",
        "up",
        "upon",
        "via",
        "with",
        "within",
        "without",
        "am",
        "is",
        "are",
        "was",
        "were",
        "be",
        "been",
        "being",
        "have",
        "has",
        "had",
        "having",
        "do",
        "does",
        "did",
        "doing",
        "done",
        "can",
        "could",
        "may",
        "might",
        "must",
        "shall",
        "should",
        "will",
        "would",
        "cannot",
        "not",
        "only",
        "also",
        "too",
        "very",
        "more",
        "most",
        "much",
        "many",
        "few",
        "less",
        "least",
        "just",
        "even",
        "still",
        "again",
        "further",
        "however",
        "thus",
        "therefore",
        "hence",
        "moreover",
        "furthermore",
        "et",
        "al",
        "eg",
        "ie",
        "etc",
        "cf",
        "vs",
    ]
)


class ShownWord(NamedTuple):
    """A word of a sample."""

    start: int  # its first character
    end: int
    hidden: bool
    similarity: float  # to the anchors, 0 to 1; 0 where they are not looked at


class Sample(NamedTuple):
    """A text of the corpus as a run masked it."""

    name: str
    text: str
    label: str | None
    words: tuple[ShownWord, ...]  # those that the model reads


class Standing(NamedTuple):
    """How often a word was hidden, in parts of how often any word was: 1 is chance."""

    word: str
    hidden: int
    occurs: int
    times: float
    low: float  # a 95 % interval (Wilson's), as if each occurrence were drawn on its own
    high: float


class Share(NamedTuple):
    """Words of a kind among all that was hidden."""

    words: tuple[str, ...]  # most hidden first
    of_hidden: float
    of_all: float  # of all words there are

    @property
    def times(self) -> float | None:
        """What was hidden of them, in parts of chance."""
        return self.of_hidden / self.of_all if self.of_all else None


@dataclasses.dataclass(frozen=True)
class HiddenWords:
    """What a run's masks hid of its training texts. Words are casefolded."""

    texts: int
    hidden: dict[str, int]  # how often each of the commonest words was, most hidden first
    occurs: dict[str, int]  # the same words
    words_hidden: int  # of every kind
    words: int
    labels: tuple[str, ...]
    samples: tuple[Sample, ...]

    @property
    def chance(self) -> float:
        """The share of all words that was hidden."""
        return self.words_hidden / self.words

    @property
    def content(self) -> list[str]:
        """The listed words that stand for something, most hidden first: two letters or more, and none of STOP_WORDS."""
        return [word for word in self.hidden if sum(map(str.isalpha, word)) > 1 and word not in STOP_WORDS]

    def standing(self, word: str) -> Standing:
        """Of a listed word."""
        hidden, occurs = self.hidden[word], self.occurs[word]
        low, high = _wilson(hidden, occurs)
        return Standing(word, hidden, occurs, *(x / self.chance for x in (hidden / occurs, low, high)))

    def beyond_chance(self, count: int) -> list[Standing]:
        """The content words that most surely were hidden more often than by chance: the highest `low` of those seen OFTEN."""
        found = [self.standing(word) for word in self.content if self.occurs[word] >= OFTEN]
        return sorted(found, key=lambda standing: (-standing.low, standing.word))[:count]

    def share(self, words: Iterable[str]) -> Share:
        """Of those of the words that are listed."""
        listed = set(words) & self.hidden.keys()
        found = tuple(word for word in self.hidden if word in listed)
        return Share(
            found,
            sum(self.hidden[word] for word in found) / self.words_hidden,
            sum(self.occurs[word] for word in found) / self.words,
        )

    def of_labels(self) -> dict[str, Share]:
        """Of each label, the words of its stem."""
        of_label = words_of_labels(self.labels, self.content, STOP_WORDS)
        return {label: self.share(words) for label, words in of_label.items()}

    def of_any_label(self) -> Share:
        """The words of any label's stem, each once."""
        return self.share(itertools.chain(*(share.words for share in self.of_labels().values())))

    def most_hidden(self, words: Iterable[str], count: int) -> list[str]:
        """Those of `words` that are among the `count` most hidden content words."""
        wanted = set(words)
        return [word for word in self.content[:count] if word in wanted and self.hidden[word]]


def read_hidden_words(path: Path) -> HiddenWords:
    """What `mmdiff pretrain` wrote at its end. Raises UserError with one sentence for a file that is something else."""
    found, name = read_json(path), path.name
    hidden, occurs = _counts(found, name, "hidden", 0), _counts(found, name, "occurs", 1)
    hidden = dict(sorted(hidden.items(), key=lambda item: (-item[1], item[0])))
    words_hidden, words = field(found, name, "words_hidden", int), field(found, name, "words", int)
    for word in hidden | occurs:
        if word not in hidden or hidden[word] > occurs.get(word, 0):
            counts = f"hidden {hidden.get(word)} times and occurs {occurs.get(word)} times"
            raise UserError(f"{name}: {word!r} was {counts}; the run was changed by hand, or is of another program")
    if not 0 < words_hidden <= words or sum(hidden.values()) > words_hidden or sum(occurs.values()) > words:
        raise UserError(f"{name}: {words_hidden} of {words} words hidden does not fit what is said of each word")
    return HiddenWords(
        field(found, name, "texts", int),
        hidden,
        occurs,
        words_hidden,
        words,
        tuple(map(str, field(found, name, "labels", list, []))),
        tuple(_sample(sample, name) for sample in field(found, name, "samples", list)),
    )


def _counts(found: dict, file: str, name: str, least: int) -> dict[str, int]:
    counts = field(found, file, name, dict)
    for word, count in counts.items():
        if isinstance(count, bool) or not isinstance(count, int) or count < least:
            raise UserError(f"{file}: {name} says {count!r} of {word!r}, which is no count")
    return counts


def _sample(found: object, file: str) -> Sample:
    try:
        words, before = [], 0
        for start, end, hidden, similarity in found["words"]:
            if not before <= start < end <= len(found["text"]) or not 0 <= similarity <= 1:
                raise ValueError(f"a word at {start} to {end} of similarity {similarity}")
            words.append(ShownWord(start, end, bool(hidden), float(similarity)))
            before = end
        label = found.get("label")
        return Sample(str(found["name"]), found["text"], None if label is None else str(label), tuple(words))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file} holds a sample that is no masked text ({type(error).__name__}: {error})") from None


def _wilson(hits: int, trials: int) -> tuple[float, float]:
    square, share = DEVIATIONS**2, hits / trials
    middle = (share + square / (2 * trials)) / (1 + square / trials)
    half = DEVIATIONS * math.sqrt(share * (1 - share) / trials + square / (4 * trials**2)) / (1 + square / trials)
    return max(middle - half, 0.0), min(middle + half, 1.0)
