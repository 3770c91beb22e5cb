"""Records in, how often each word is said or asked in them out."""

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from tqdm import tqdm

from mmdiff.data.records import Record, decode, read_split

# Letters and digits; an apostrophe inside belongs to the word, so that "don't" leaves no "don" behind.
WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
POSSESSIVE = re.compile(r"['’]s$")


def words_of(text: str) -> list[str]:
    """The words of a text in order, in lower case (casefolded): "Sheldon's X-ray" is sheldon, x, ray."""
    return [POSSESSIVE.sub("", word) for word in WORD.findall(text.casefold())]


def count_words(texts: Iterable[str]) -> Counter[str]:
    """How often each word occurs in the texts."""
    counts = Counter()
    for text in texts:
        counts.update(words_of(text))
    return counts


def record_texts(record: Record) -> list[str]:
    """What is said in a record, once, and each different question about it.

    Its segments may overlap, where windows were laid around questions, and then hold the same words twice. The pairs
    that some protocols make of a question repeat it, too. Answers are left out: most are wrong, so they speak of what
    the video does not show.
    """
    segments = record.segments
    said: list[str] = []
    until = float("-inf")
    for index in sorted(range(len(segments.start)), key=lambda i: (segments.start[i], segments.end[i])):
        words = segments.subtitle[index].split()
        # Segments that follow each other share no time, but for rounding; what others share ends the words so far.
        shared = _overlap(said, words) if segments.start[index] < until - 1e-3 else 0
        said += words[shared:]
        until = max(until, segments.end[index])
    return [" ".join(said), *dict.fromkeys(question.text for question in record.questions)]


def _overlap(before: list[str], after: list[str]) -> int:
    """How many words end the one and begin the other."""
    longest = min(len(before), len(after))
    return next((n for n in range(longest, 0, -1) if before[-n:] == after[:n]), 0)


def count_record_words(folder: str | Path, progress_bar: bool = True) -> Counter[str]:
    """How often each word occurs in the subtitles and the questions of the training split; no other split is read.

    Raises RecordError where there are no records, or none to train on.
    """
    source = read_split(folder, "train")
    counts = Counter()
    for index in tqdm(range(len(source)), desc="words of train", unit="record", disable=not progress_bar):
        counts += count_words(record_texts(decode(source[index])))
    return counts
