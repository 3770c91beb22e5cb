"""How many of the 20 published anchors each rule finds, at one setting for both corpora: the table of docs/text.md.

    python benchmarks/anchor_rules.py ../shared/data

The folder holds text_classification/{citation_intent,chemprot,sci-cite} and unigrams/count_1w.txt.gz. Every rule chooses among
words of at least three letters that are in the list of general English. Of each rule's settings all are tried, and the row
shows the one that finds the most in the corpus where it finds fewer, then the most in both. The last column is of the first
300 training texts of SciCite, at that setting.
"""

import argparse
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from mmdiff.data.corpus import count_words
from mmdiff.data.text_corpora import read_corpus
from mmdiff.masking.anchors import word_anchors_config
from mmdiff.masking.published_anchors import PUBLISHED_ANCHORS
from mmdiff.masking.tf_icf import find_words, read_general

NAMED = 6  # anchors in the last column


class Word(NamedTuple):
    """How often a word occurs in the domain and in general, and of how many words."""

    count: int
    total: int
    general: int
    general_total: int

    @property
    def expected(self) -> float:
        """Of its occurrences in the domain, if the domain were like general English."""
        return self.total * self.general / self.general_total


def log_odds(word: Word, prior: float) -> float:
    """z-score of the log-odds ratio with an informative Dirichlet prior of so many words (Monroe et al. 2008, equation 22)."""
    alpha = prior * word.general / word.general_total
    here = math.log((word.count + alpha) / (word.total + prior - word.count - alpha))
    there = math.log((word.general + alpha) / (word.general_total + prior - word.general - alpha))
    return (here - there) / math.sqrt(1 / (word.count + alpha) + 1 / (word.general + alpha))


def log_likelihood(word: Word, _) -> float:
    """Dunning's G2 (1993) in the form for corpora (Rayson and Garside 2000); negative for words that are rarer here."""
    share = (word.count + word.general) / (word.total + word.general_total)
    g2 = 2 * (
        word.count * math.log(word.count / (share * word.total))
        + word.general * math.log(word.general / (share * word.general_total))
    )
    return math.copysign(g2, word.count - word.expected)


# By name: the score of a word, highest first, and the settings that are tried.
SCORES: dict[str, tuple[Callable[[Word, float], float], tuple]] = {
    "log-odds, Dirichlet prior of n words (Monroe et al. 2008)": (log_odds, (10**2, 10**3, 10**4, 10**5, 10**6)),
    "log-likelihood G2 (Dunning 1993)": (log_likelihood, ("",)),
    "ratio of frequencies, n per million added (Kilgarriff 2009)": (
        lambda word, n: (1e6 * word.count / word.total + n) / (1e6 * word.general / word.general_total + n),
        (1, 2, 3, 5, 10, 20, 30, 100),
    ),
    "count over expected count, n added to both": (
        lambda word, n: (word.count + n) / (word.expected + n),
        (0.1, 0.2, 0.3, 0.5, 1, 2, 3, 5),
    ),
}
LEAST_COUNTS = (1, 10, 20, 30, 40, 50, 60, 70, 80, 100)
LEAST_SHARES = tuple(range(400, 1001, 50))  # per million words
SHORTLISTS = (2, 3, 4, 5, 6, 7, 8, 10)


def rules(general: Mapping[str, int]) -> dict[str, tuple[Callable[[Mapping[str, int], float], list[str]], tuple]]:
    """By name: a function from counts and a setting to 20 anchors, and the settings that are tried."""
    config, general_total = word_anchors_config(), sum(general.values())

    def found(counts, **changed):
        return [word.word for word in find_words(counts, general, config.find, config.rules()._replace(**changed))]

    def by_score(score):
        def anchors(counts, setting):
            total = sum(counts.values())
            scores = {
                word: score(Word(count, total, general[word], general_total), setting)
                for word, count in counts.items()
                if word in general and word.isalpha() and len(word) >= config.min_length
            }
            return sorted(scores, key=lambda word: (-scores[word], word))[: config.find]

        return anchors

    return {
        "TF-ICF of words that occur n times": (lambda counts, n: found(counts, shortlist=0, min_count=n), LEAST_COUNTS),
        **{name: (by_score(score), settings) for name, (score, settings) in SCORES.items()},
        "TF-ICF of words that are n per million": (
            lambda counts, n: found(counts, shortlist=0, min_count=math.ceil(n * sum(counts.values()) / 1e6)),
            LEAST_SHARES,
        ),
        "**TF-ICF of a shortlist of n x 20 words**": (
            lambda counts, n: found(counts, shortlist=n),
            SHORTLISTS,
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    options = parser.parse_args()

    def read(name: str, first: int | None = None) -> Mapping[str, int]:
        texts = read_corpus(options.data / "text_classification" / name).splits["train"]
        return count_words(text.text for text in texts[:first])

    corpora, small = {name: read(name) for name in PUBLISHED_ANCHORS}, read("sci-cite", 300)
    for title, source in (("Norvig's counts", str(options.data / "unigrams/count_1w.txt.gz")), ("wordfreq", "")):
        general = read_general(source)
        print(f"\n| {title} | n | ACL-ARC | ChemProt | SciCite, 300 texts |\n| --- | --- | --- | --- | --- |")
        for name, (anchors, settings) in rules(general).items():
            hits = {
                setting: [
                    len({*anchors(counts, setting)} & {*PUBLISHED_ANCHORS[corpus]})
                    for corpus, counts in corpora.items()
                ]
                for setting in settings
            }
            best = max(settings, key=lambda setting: (min(hits[setting]), sum(hits[setting])))
            words = ", ".join(anchors(small, best)[:NAMED])
            print(f"| {name} | {best} | {' | '.join(map(str, hits[best]))} | {words} |")
        print(f"\nshortlists, [ACL-ARC, ChemProt]: {hits}")  # of the last rule


if __name__ == "__main__":
    main()
