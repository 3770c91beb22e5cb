"""A folder of texts in, what each of them says and how it is labelled out.

Files are JSON lines ({"text": ..., "label": ...}), CoNLL (a word and its tag per line, a blank line between texts) or
plain text, one text a line. Which of them a file is, its content says.
"""

import functools
import hashlib
import json
import logging
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from mmdiff.errors import UserError

# What the files of a split may be called, by split.
SPLITS = {
    "train": ("train",),
    "validation": ("dev", "devel", "validation", "valid", "val"),
    "test": ("test",),
}
ENDINGS = (".txt", ".jsonl", ".tsv")
DOCUMENT = "-DOCSTART-"
# O, or a place in an entity and the entity's type. B, I, E, S are IOB's and IOBES', L and U BILOU's, M BMES'.
TAG = re.compile(r"O|([BIESLUM])(?:-(\S+))?")
ONE_TYPE = "Entity"  # of tags that are only B, I and O
OPENS, CLOSES = "BSU", "ESLU"
SNIFFED = 100  # lines that show what a file is
NAMED = 5  # lines named in a message
KINDS = {"classification": "labelled texts", "entities": "tagged words", "plain": "texts without labels"}

log_line = logging.getLogger(__name__)


class CorpusError(UserError):
    """A file of texts is missing, or a line of it is not what it should be."""


class Text(NamedTuple):
    """One text. Of CoNLL files the words are joined by spaces."""

    name: str  # file and line, "train.txt:17"
    text: str
    label: str | None
    spans: tuple[tuple[int, int], ...] | None  # characters of each word of a CoNLL file
    tags: tuple[str, ...] | None  # of those words, IOB2 whatever the file's scheme is
    document: str = ""  # of a CoNLL file, the line that opens it, "test.txt:1"; "": the file says nothing of documents


class Corpus(NamedTuple):
    """All texts that a folder holds."""

    name: str
    kind: str  # a key of KINDS
    splits: dict[str, list[Text]]  # "train", "validation", "test": those that are there
    labels: tuple[str, ...]  # classes, or types of entities, sorted
    digest: str  # of the files


class _Line(NamedTuple):
    """Where a line is, for messages, and what it says."""

    path: Path
    number: int
    text: str

    @property
    def shown(self) -> str:
        return repr(self.text.strip()[:60])

    def wrong(self, what: str) -> CorpusError:
        return CorpusError(f"{self.path}, line {self.number}: {what}")


def read_corpus(folder: str | Path, labels_matter: bool = True) -> Corpus:
    """Reads the splits of a folder, or one file, all of which is to train on.

    Raises CorpusError, with file and line, where there are no texts or one is not as its file's kind has it; and where
    `labels_matter`, for a text to choose or to test on whose label no training text has.
    """
    folder = Path(folder)
    files = _files(folder)
    digest, kinds, splits = hashlib.sha256(), {}, {}
    for split, path in files.items():
        content = _content(path)
        digest.update(f"{split} {len(content)} ".encode() + content)
        kinds[path.name], splits[split] = _read_texts(path, content)
    if len(set(kinds.values())) > 1:
        held = "; ".join(f"{name} holds {KINDS[kind]}" for name, kind in kinds.items())
        raise CorpusError(f"the files of {folder} are not of one kind: {held}")
    kind = next(iter(kinds.values()))
    labels = _labels(splits, files, labels_matter)
    name = folder.stem if folder.is_file() else folder.resolve().name
    return Corpus(name, kind, splits, labels, digest.hexdigest()[:16])


def entity_spans(tags: Sequence[str]) -> list[tuple[int, int, str]]:
    """First word, last word + 1 and type of each entity of IOB2 tags, read strictly: only B opens one.

    An I that no B or I of its type precedes belongs to no entity, as the CoNLL evaluation in its strict mode has it.
    """
    spans, open_since, kind = [], None, ""
    for place, tag in enumerate([*tags, "O"]):
        mark, _, found = tag.partition("-")
        if open_since is not None and (mark != "I" or found != kind):
            spans.append((open_since, place, kind))
            open_since = None
        if mark == "B":
            open_since, kind = place, found
    return spans


def iob2(tags: Sequence[str]) -> tuple[str, ...]:
    """IOB2 of tags in IOB1, IOB2, IOBES, BILOU or a mixture.

    One rule reads them all: a mark that does not open an entity continues the one before it if that has its type and
    was not closed, and otherwise opens one. Copies of BC5CDR need that: there a lone I is a whole entity.

    Raises ValueError for what is no tag.
    """
    out, last, closed = [], "", True
    for tag in tags:
        mark, kind = _mark_and_type(tag)
        if mark == "O":
            out.append("O")
            last, closed = "", True
            continue
        goes_on = mark not in OPENS and last == kind and not closed
        out.append(("I-" if goes_on else "B-") + kind)
        last, closed = kind, mark in CLOSES
    return tuple(out)


@functools.lru_cache(maxsize=1024)
def _mark_and_type(tag: str) -> tuple[str, str]:
    found = TAG.fullmatch(tag)
    if not found:
        raise ValueError(f"{tag!r} is no tag: tags are O, or B, I, E or S and a type, as in B-Disease")
    return found[1] or "O", found[2] or ONE_TYPE


def _files(folder: Path) -> dict[str, Path]:
    """The file of each split."""
    if folder.is_file():
        return {"train": folder}
    if not folder.is_dir():
        raise CorpusError(f"no texts at {folder}: give a folder with train{'|'.join(ENDINGS)}, or one file")
    files = {}
    for split, names in SPLITS.items():
        found = [folder / (name + ending) for name in names for ending in ENDINGS]
        found = [path for path in found if path.is_file()]
        if len(found) > 1:
            raise CorpusError(f"{folder} holds {found[0].name} and {found[1].name}, both of {split}: keep one of them")
        if found:
            files[split] = found[0]
    if not files:
        known = ", ".join(name for names in SPLITS.values() for name in names)
        raise CorpusError(
            f"{folder} holds no texts: its files must be called {known} and end in {' or '.join(ENDINGS)}"
        )
    return files


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CorpusError(f"{path} cannot be read: {error.strerror}") from None


def _read_texts(path: Path, content: bytes) -> tuple[str, list[Text]]:
    """The kind of a file and its texts."""
    lines = list(_lines(path, content))
    filled = [line for line in lines if line.text.strip()]
    if not filled:
        raise CorpusError(f"{path} is empty: give a file with a text on each line")
    if _is_json(path, filled):
        texts = [_json_text(line) for line in filled]
        _warn(path, lines, texts)
        return _kind_of_labels(filled, texts), texts
    if _is_conll(path, filled):
        return "entities", list(_conll_texts(lines))
    texts = [Text(_name(line), line.text.strip(), None, None, None) for line in filled]
    _warn(path, lines, texts)
    return "plain", texts


def _lines(path: Path, content: bytes) -> Iterator[_Line]:
    # Not `splitlines`, which ends lines at characters that texts hold, such as U+2028.
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        try:
            yield _Line(path, number, line.decode("utf-8").removesuffix("\r"))
        except UnicodeDecodeError as error:
            byte = line[error.start]
            raise CorpusError(
                f"{path}, line {number}: byte {error.start + 1} is {byte:#04x}, which is not UTF-8: save the file as UTF-8"
            ) from None


def _name(line: _Line) -> str:
    return f"{line.path.name}:{line.number}"


def _warn(path: Path, lines: list[_Line], texts: list[Text]) -> None:
    """Says which lines hold nothing, and which a single word, that no other word helps to predict."""
    while lines and not lines[-1].text:  # What follows the last line's end is no line.
        lines = lines[:-1]
    empty = [line.number for line in lines if not line.text.strip()]
    alone = [int(text.name.rpartition(":")[2]) for text in texts if len(text.text.split()) == 1]
    for found, what in ((empty, "without a text, which are left out"), (alone, "of one word")):
        if found:
            named = ", ".join(map(str, found[:NAMED])) + (", ..." if len(found) > NAMED else "")
            log_line.warning("%s: %d lines %s (line %s)", path, len(found), what, named)


def _json_text(line: _Line) -> Text:
    try:
        found = json.loads(line.text)
    except (ValueError, RecursionError) as error:
        raise line.wrong(f"{line.shown} is not JSON ({error}): each line must be an object") from None
    text = found.get("text") if isinstance(found, dict) else None
    if not isinstance(text, str):
        raise line.wrong('it has no "text": each line must be {"text": "...", "label": "..."}')
    if not text.strip():
        raise line.wrong("its text is empty: take the line out")
    label = found.get("label")
    if label is not None and (not isinstance(label, str | int) or isinstance(label, bool) or not str(label).strip()):
        raise line.wrong(f"its label is {label!r} and must be a name")
    for said in (text, str(label)):
        try:
            said.encode("utf-8")
        except UnicodeEncodeError:
            raise line.wrong("it holds half of a surrogate pair, which is no character: mend its escapes") from None
    return Text(_name(line), text, None if label is None else str(label), None, None)


def _kind_of_labels(lines: list[_Line], texts: list[Text]) -> str:
    """Whether the texts of JSON lines are labelled: all or none."""
    without = [line for line, text in zip(lines, texts, strict=True) if text.label is None]
    if without and len(without) < len(texts):
        raise without[0].wrong('it has no "label", and other lines have one')
    return "plain" if without else "classification"


def _is_json(path: Path, filled: list[_Line]) -> bool:
    """Whether most of a file's first lines begin as objects do."""
    objects = sum(line.text.lstrip().startswith("{") for line in filled[:SNIFFED])
    return path.suffix == ".jsonl" or 2 * objects > len(filled[:SNIFFED])


def _is_conll(path: Path, filled: list[_Line]) -> bool:
    """Whether most of a file's first lines are a word and its tag."""
    if path.suffix == ".tsv" or filled[0].text.startswith(DOCUMENT):
        return True
    columns = [_columns(line.text) for line in filled[:SNIFFED]]
    tagged = Counter(len(found) for found in columns if 2 <= len(found) <= 5 and TAG.fullmatch(found[-1]))
    return 2 * max(tagged.values(), default=0) > len(columns)


@functools.lru_cache(maxsize=1 << 16)  # A corpus has most of its words many times.
def _columns(text: str) -> tuple[str, ...]:
    # Not `split()`, which also splits at spaces that words of texts from the web hold, such as U+00A0.
    between = "\t" if "\t" in text.strip() else " "
    return tuple(column for part in text.split(between) if (column := part.strip(" \t")))


def _conll_texts(lines: list[_Line]) -> Iterator[Text]:
    words: list[str] = []
    tags: list[str] = []
    begun, wanted, document = lines[0], 0, ""
    for line in [*lines, _Line(lines[-1].path, len(lines) + 1, "")]:
        if not line.text.strip() or line.text.startswith(DOCUMENT):
            if words:
                yield _conll_text(begun, words, tags, document)
            words, tags = [], []
            document = _name(line) if line.text.startswith(DOCUMENT) else document
            continue
        found = _columns(line.text)
        if len(found) < 2:
            raise line.wrong(f"{line.shown} is one column: each word needs a line with the word first and its tag last")
        wanted = wanted or len(found)
        if len(found) != wanted:
            raise line.wrong(f"{line.shown} has {len(found)} columns, and the lines before it have {wanted}")
        try:
            _mark_and_type(found[-1])
        except ValueError as error:
            raise line.wrong(str(error)) from None
        if not words:
            begun = line
        words.append(found[0])
        tags.append(found[-1])


def _conll_text(begun: _Line, words: list[str], tags: list[str], document: str) -> Text:
    spans, end = [], -1
    for word in words:
        spans.append((end + 1, end + 1 + len(word)))
        end += 1 + len(word)
    return Text(_name(begun), " ".join(words), None, tuple(spans), iob2(tags), document)


def _labels(splits: dict[str, list[Text]], files: dict[str, Path], matter: bool) -> tuple[str, ...]:
    """The labels to train on. Raises CorpusError, where they matter, for a text whose label no training text has."""
    known: set[str] = set()
    first = next(iter(splits))
    for split, texts in splits.items():
        for text in texts:
            labels = _labels_of(text)
            if matter and split != first and labels - known:
                line = text.name.rpartition(":")[2]
                raise CorpusError(
                    f"{files[split]}, line {line}: {min(labels - known)!r} is no label of {files[first].name}, which "
                    f"has {', '.join(sorted(known))}: mend it, or move texts that have it to {files[first].name}"
                )
            if split == first:
                known |= labels
    return tuple(sorted(known))


def _labels_of(text: Text) -> set[str]:
    if text.tags is not None:
        return {tag.partition("-")[2] for tag in text.tags if tag != "O"}
    return set() if text.label is None else {text.label}
