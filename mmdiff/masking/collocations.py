"""Sentences in, the runs of words that belong together out, and where they are in a text (PMI-masking, arXiv 2010.01825).

"natural language processing" is easy to fill in where only one of its words is hidden; so its words fall together.
"""

import dataclasses
import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

Ngram = tuple[str, ...]

LENGTHS = (2, 3, 4, 5)
SHARES = {2: 0.5, 3: 0.25, 4: 0.125, 5: 0.125}  # of the vocabulary, by length


@dataclasses.dataclass
class CollocationsConfig:
    """Which runs of words count as one. The published vocabulary is of 800,000, from 16 GB of text."""

    min_count: int = 11  # of a run in the training texts
    vocabulary: int = 800_000  # runs at most; of two to five words, as SHARES says
    best: float = 0.5  # and at most this share of a length's runs: a small corpus has fewer than the vocabulary holds
    # Of the run's own probability in its score: 1 is equation 3 of the paper, 2 made the published lists. On a corpus of
    # 1,700 to 5,400 texts 2 puts "of the" among the best third, 1 among the last.
    power: int = 1

    def validate(self) -> None:
        """Raises ValueError, with what is allowed, for a value that means nothing."""
        for name in ("min_count", "vocabulary", "power"):
            if getattr(self, name) < 1:
                raise ValueError(f"collocations.{name}={getattr(self, name)} must be at least 1")
        if not 0 < self.best <= 1:
            raise ValueError(f"collocations.best={self.best} must lie above 0 and at most be 1")


class Collocations:
    """A vocabulary of runs of two to five words. Threads may share it."""

    def __init__(self, scores: dict[Ngram, float]):
        """`scores` says how closely the words of each run belong together, casefolded."""
        self.scores = dict(scores)
        # Few words begin a run: the others are passed over at once.
        lengths = defaultdict(set)
        for ngram in scores:
            lengths[ngram[0]].add(len(ngram))
        self._lengths = {word: tuple(sorted(found, reverse=True)) for word, found in lengths.items()}

    def __call__(self, words: list[str]) -> list[int]:
        return ngram_numbers(words, self)

    def matches(self, words: Sequence[str]) -> list[tuple[int, int]]:
        """First word and length of every run in `words`, casefolded, those that overlap too."""
        found = []
        for first, word in enumerate(words):
            for length in self._lengths.get(word, ()):
                # Behind the end a slice is shorter, and might be another run.
                if first + length <= len(words) and tuple(words[first : first + length]) in self.scores:
                    found.append((first, length))
        return found


def learn_collocations(sentences: Iterable[Sequence[str]], config: CollocationsConfig) -> Collocations:
    """The runs with the highest scores of each length.

    Words without a letter or a digit end a run, as the end of a sentence does.
    """
    stretches = [stretch for sentence in sentences for stretch in _stretches(sentence)]
    counts = _count(stretches, config.min_count)
    totals = {length: sum(max(len(stretch) - length + 1, 0) for stretch in stretches) for length in (1, *LENGTHS)}
    logs = {
        ngram: math.log(count) - math.log(totals[len(ngram)])
        for found in counts.values()
        for ngram, count in found.items()
    }
    chosen = {}
    for length in LENGTHS:
        scores = {ngram: _score(ngram, logs, config.power) for ngram in counts[length]}
        most = min(int(config.vocabulary * SHARES[length]), math.ceil(config.best * len(scores)))
        # Equal scores: the commoner run, then the alphabet, so that every host finds the same.
        ranked = sorted(scores, key=lambda ngram: (-scores[ngram], -counts[len(ngram)][ngram], ngram))
        chosen |= {ngram: scores[ngram] for ngram in ranked[:most]}
    return Collocations(chosen)


def ngram_numbers(words: list[str], collocations: Collocations) -> list[int]:
    """Of each word the number of the run that it is part of, from 1 in the order of the text; 0: of none.

    The longest runs come first, then those that begin earlier; what overlaps a run already taken is left.
    """
    words = [word.casefold() for word in words]
    taken = [0] * len(words)
    for first, length in sorted(collocations.matches(words), key=lambda match: (-match[1], match[0])):
        if not any(taken[first : first + length]):
            taken[first : first + length] = [first + 1] * length
    order = {start: number for number, start in enumerate(dict.fromkeys(start for start in taken if start), start=1)}
    return [order.get(start, 0) for start in taken]


def _stretches(sentence: Sequence[str]) -> list[list[str]]:
    """The parts of a sentence between words that are no words."""
    split = itertools.groupby(sentence, key=lambda word: any(character.isalnum() for character in word))
    return [[word.casefold() for word in words] for is_word, words in split if is_word]


def _count(stretches: list[list[str]], min_count: int) -> dict[int, dict[Ngram, int]]:
    """The counts of every word, and of every run that occurs so often.

    A run cannot occur more often than its parts: only what both its ends allow is counted.
    """
    counts: dict[int, dict[Ngram, int]] = {1: Counter((word,) for stretch in stretches for word in stretch)}
    frequent = {word for word, count in counts[1].items() if count >= min_count}
    for length in LENGTHS:
        found: Counter[Ngram] = Counter()
        for stretch in stretches:
            for first in range(len(stretch) - length + 1):
                ngram = tuple(stretch[first : first + length])
                if ngram[:-1] in frequent and ngram[1:] in frequent:
                    found[ngram] += 1
        counts[length] = {ngram: count for ngram, count in found.items() if count >= min_count}
        frequent = set(counts[length])
    return counts


def _score(ngram: Ngram, logs: dict[Ngram, float], power: int) -> float:
    """The least over all ways to cut the run of log p(run)^power / (p(part) p(part) ...)."""
    size = len(ngram)
    # The highest log probability of the words from each place on, cut in any way, as if parts were independent.
    most = {size: 0.0}
    for begin in reversed(range(size)):
        ends = range(begin + 1, size + 1 if begin else size)  # the whole run is no way to cut it
        most[begin] = max(logs[ngram[begin:end]] + most[end] for end in ends)
    return power * logs[ngram] - most[0]
