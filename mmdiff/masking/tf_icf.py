"""How often words occur in a domain and in general in, the words that set the domain apart out (arXiv 2305.14577).

TF-ICF(w) = freq(w, domain) / freq(w, general), equations 1 and 2; both are relative frequencies, so a word with 200 is
200 times as common in the domain as in general. The ratio alone ranks words that occur once first: see `WordRules`.
"""

import gzip
import zlib
from collections import Counter
from collections.abc import Container, Mapping
from pathlib import Path
from typing import NamedTuple

from mmdiff.errors import UserError

OUT_OF = 10**11  # words: wordfreq's shares, of which the least is 1e-8, become counts among so many


class TfIcfError(UserError):
    """The general frequencies cannot be read, or no word is left to choose from."""


class WordRules(NamedTuple):
    """Which words may be found, and what a word counts that the general frequencies lack."""

    min_count: int  # in the domain
    min_length: int  # letters
    alphabetic: bool  # letters only: no numbers, formulas or contractions
    stop_words: tuple[str, ...]  # never found
    floor: int  # the least that any word counts in general; 0: the smallest count of the general frequencies
    listed: bool = False  # the general frequencies have it; else the ratio divides by a guess, the floor


class FoundWord(NamedTuple):
    """A word that sets the domain apart."""

    word: str
    count: int  # in the domain
    general_count: int  # in general; 0 where it does not occur there, and the floor was used
    tf_icf: float


def tf_icf(counts: Mapping[str, int], general: Mapping[str, int], floor: int) -> dict[str, float]:
    """TF-ICF of every word in `counts`, all of which make up the domain."""
    domain_total, general_total = sum(counts.values()), sum(general.values())
    floor = floor or min(general.values())
    # A word that is listed with less than the floor is no rarer than one that is not listed at all.
    return {
        word: (count / domain_total) / (max(general.get(word, 0), floor) / general_total)
        for word, count in counts.items()
    }


def find_words(
    counts: Mapping[str, int], general: Mapping[str, int], how_many: int, rules: WordRules, known: Container[str] = ()
) -> list[FoundWord]:
    """The words with the highest TF-ICF, best first; fewer than `how_many` where the rules leave fewer.

    Args:
      counts: of every word of the domain, in lower case.
      general: counts of words in general, in lower case.
      how_many: words wanted.
      rules: which words may be found.
      known: words that need no finding.

    Raises TfIcfError where the rules leave no word.
    """
    scores = tf_icf(counts, general, rules.floor)
    stopped = {word.casefold() for word in rules.stop_words}
    allowed = [
        word
        for word, count in counts.items()
        if count >= rules.min_count
        and len(word) >= rules.min_length
        and (word.isalpha() or not rules.alphabetic)
        and (word in general or not rules.listed)
        and word not in stopped
        and word not in known
    ]
    if not allowed:
        most = Counter(counts).most_common(1)
        often = f"the commonest, {most[0][0]!r}, occurs {most[0][1]} times" if most else "there are no words at all"
        raise TfIcfError(
            f"no word can be found: none of {len(counts):,} occurs min_count={rules.min_count} times, has "
            f"min_length={rules.min_length} letters and is not excluded ({often}); lower min_count"
            + (", or take words that are not listed in general" if rules.listed else "")
        )
    # Equal scores: the commoner word, then the alphabet, so that every host finds the same.
    best = sorted(allowed, key=lambda word: (-scores[word], -counts[word], word))[:how_many]
    return [FoundWord(word, counts[word], general.get(word, 0), scores[word]) for word in best]


def read_general(source: str) -> Mapping[str, int]:
    """How often words occur in general, as a file of counts says; "": in English, by the package wordfreq.

    wordfreq's data have a licence of their own, CC BY-SA 4.0.

    Raises TfIcfError as `read_unigrams` does, or where the package is missing.
    """
    if source:
        return read_unigrams(source)
    try:
        import wordfreq
    except ModuleNotFoundError:
        raise TfIcfError(
            "wordfreq is not installed: install it with pip, or give a file such as count_1w.txt"
        ) from None
    shares = wordfreq.get_frequency_dict("en", wordlist="best")
    return {word: round(share * OUT_OF) for word, share in shares.items()}


def read_unigrams(path: str | Path) -> dict[str, int]:
    """Counts by word, in lower case, of a file with a word, a tab and a count per line, gzipped or not.

    Norvig's count_1w is one. Raises TfIcfError, with the line, where the file is missing, empty or something else.
    """
    path = Path(path)
    if not path.is_file():
        raise TfIcfError(f"no word counts at {path}; give a file such as count_1w.txt: a word, a tab, a count per line")
    counts: dict[str, int] = {}
    try:
        with path.open("rb") as file:
            zipped = file.read(2) == b"\x1f\x8b"
        with (gzip.open if zipped else open)(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if line.isspace():
                    continue
                word, _, count = line.rstrip("\r\n").partition("\t")
                # `int` would take "1_000" and "-3".
                if not (word.strip() and count.strip().isdecimal() and int(count)):
                    raise TfIcfError(
                        f"{path}, line {number}: {line.strip()[:60]!r} is not a word, a tab and a count from 1"
                    )
                word = word.strip().casefold()
                counts[word] = counts.get(word, 0) + int(count)
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise TfIcfError(f"{path} cannot be read as word counts ({error}); copy it again") from None
    if not counts:
        raise TfIcfError(f"{path} holds no word counts; give a file such as count_1w.txt: a word, a tab, a count")
    return counts
