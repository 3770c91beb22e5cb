"""Finds the words that set a domain apart by TF-ICF (arXiv 2305.14577, equations 1 and 2).

TF-ICF(w) = freq(w, domain) / freq(w, general); both are relative frequencies, so a word with 200 is 200 times as common in
the domain as in general. The ratio alone ranks words that occur once first. A least count cures that, but the count that
suits one corpus does not suit another. So the ratio ranks a shortlist: the words whose frequency exceeds the general one the
most, by the difference freq(w, domain) - freq(w, general). Of these two measures the difference alone prefers frequent words
and the ratio rare ones (Monroe, Colaresi and Quinn 2008, "Fightin' Words", section 3, doi 10.1093/pan/mpn018). The shortlist
is counted in words, not in occurrences, and means the same in a corpus of any size.
"""

import gzip
import zlib
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from mmdiff.errors import UserError

COMMON = 5  # TF-ICF below which a word is called common: "been" has 4.1 in SciCite, "both" 4.8 in ChemProt
NAMED = 5  # words named in a message
OUT_OF = 10**11  # words: wordfreq's shares, of which the least is 1e-8, become counts among so many


class TfIcfError(UserError):
    """The general frequencies cannot be read, or no word is left to choose from."""


class WordRules(NamedTuple):
    """Which words may be found, and what a word counts that the general frequencies lack."""

    shortlist: int  # words that TF-ICF ranks for each word wanted, those most in excess of general; 0: all words
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
    """The words with the highest TF-ICF of the shortlist, best first; fewer than `how_many` where the rules leave fewer.

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
            f"min_length={rules.min_length} letters and is not excluded ({often}); lower "
            + ("min_count" if rules.min_count > 1 else "min_length")
            + (", or take words that are not listed in general" if rules.listed else "")
        )
    if rules.shortlist:
        allowed = _most_excess(allowed, counts, scores, rules.shortlist * how_many)
    # Equal scores: the commoner word, then the alphabet, so that every host finds the same.
    best = sorted(allowed, key=lambda word: (-scores[word], -counts[word], word))[:how_many]
    return [FoundWord(word, counts[word], general.get(word, 0), scores[word]) for word in best]


def _most_excess(words: list[str], counts: Mapping[str, int], scores: Mapping[str, float], most: int) -> list[str]:
    """The words whose frequency exceeds that in general the most: by freq(w, domain) - freq(w, general)."""
    # freq(w, general) = freq(w, domain) / TF-ICF(w).
    return sorted(words, key=lambda word: (-counts[word] * (1 - 1 / scores[word]), word))[:most]


def common_words_warning(found: Sequence[FoundWord]) -> str:
    """A sentence that names the anchors that are common words, of which TF-ICF is below COMMON; "": there are none."""
    common = [word.word for word in found if word.tf_icf < COMMON]
    if not common:
        return ""
    named = ", ".join(common[:NAMED]) + (", ..." if len(common) > NAMED else "")
    return (
        f"{len(common)} of {len(found)} anchors are common words, less than {COMMON} times as common here as in general "
        f"({named}): find fewer (anchors.find), lower anchors.min_count where it is above 1, or give anchors.words"
    )


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
