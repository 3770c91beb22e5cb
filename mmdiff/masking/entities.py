"""A text in, the characters of each of the domain's terms in it out.

The terms are those that a corpus' own tags mark, that a list holds, that are anchors, or that a tagger finds.
"""

import functools
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import jax

from mmdiff.data.corpus import POSSESSIVE
from mmdiff.data.text_corpora import Corpus, Text, entity_spans, iob2
from mmdiff.data.text_tasks import first_tokens
from mmdiff.data.text_tokens import TextTokenizer, word_spans
from mmdiff.errors import UserError
from mmdiff.masking.anchors import WordAnchors
from mmdiff.masking.batched_texts import run_in_batches
from mmdiff.models.pretrained_text import PretrainedText, read_text_model
from mmdiff.models.text_encoder import TextModel

Spans = list[tuple[int, int]]  # first character and last + 1 of each term, in order, none overlapping another
TAGS, ANCHORS = "conll", "anchors"  # sources that are no path
NAMED = 5  # lines named in a message

log_line = logging.getLogger(__name__)


class EntityError(UserError):
    """The source of entities is not there, or is not what it should be."""


def open_entities(
    source: str, corpus: Corpus, anchors: WordAnchors | None = None, progress_bar: bool = True
) -> Callable[[Text], Spans]:
    """What finds the terms of a text.

    Args:
      source: "conll" or "", the tags of the corpus; "anchors"; a file with a term on each line; or the folder of a model
        that tags tokens.
      corpus: whose texts will be asked for; a tagger reads all of them now.
      anchors: the words of the source "anchors".
      progress_bar: of a tagger.

    Raises:
      EntityError: the source does not go with the corpus, or cannot be read; with file and line.
      CheckpointError: the tagger's folder cannot be read.
    """
    source = source or TAGS
    if source == TAGS:
        if corpus.kind != "entities":
            raise EntityError(
                f"this strategy hides entities, and {corpus.name} has no tags: give masking.entities, a list of terms or the "
                f"folder of a tagger; or {ANCHORS!r}, which is another method, since no paper's entities are anchors"
            )
        return tagged
    if source == ANCHORS:
        if anchors is None:
            raise EntityError(
                f"masking.entities={ANCHORS!r} needs anchors: give some as anchors.words, or anchors.find"
            )
        return Terms(anchors.words)
    path = Path(source)
    if path.is_dir():
        return Tagger(read_text_model(path), _texts(corpus), progress_bar)
    if path.is_file():
        return Terms(read_terms(path))
    raise EntityError(
        f"masking.entities={source!r} is neither {TAGS!r} nor {ANCHORS!r}, and there is no such file or folder: give a list "
        "of terms, one a line, or the folder of a model that tags tokens"
    )


def tagged(text: Text) -> Spans:
    """The entities that a CoNLL file marks."""
    return [(text.spans[first][0], text.spans[last - 1][1]) for first, last, _ in entity_spans(text.tags)]


class Terms:
    """Finds the terms of a list: in any case, whole words, whatever white space is between them, with or without 's."""

    def __init__(self, terms: Iterable[str]):
        self._next: dict = {}  # by word, what may follow; "" where a term may end
        for term in terms:
            place = self._next
            for word in _words(term):
                place = place.setdefault(word, {})
            place[""] = {}

    def __call__(self, text: Text) -> Spans:
        """The terms of a text: of those that begin at a word the longest, and none inside another."""
        spans, found, first = word_spans(text.text), [], 0
        words = _words(text.text)
        while first < len(words):
            place, last = self._next, 0
            for number in range(first, len(words)):
                place = place.get(words[number])
                if place is None:
                    break
                if "" in place:
                    last = number + 1
            if last:
                found.append((spans[first][0], spans[last - 1][1]))
            first = max(last, first + 1)
        return found


def read_terms(path: str | Path) -> list[str]:
    """The terms of a file, one a line, each once; tells which lines are empty or repeat an earlier one.

    Raises EntityError, with the line, where the file is not UTF-8, or holds no term.
    """
    path = Path(path)
    first_line: dict[tuple[str, ...], int] = {}
    terms, empty, repeated = [], [], []
    try:
        lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").removesuffix(b"\n").split(b"\n")
    except OSError as error:
        raise EntityError(f"{path} cannot be read: {error.strerror}") from None
    for number, line in enumerate(lines, start=1):
        try:
            term = line.decode("utf-8").strip()
        except UnicodeDecodeError as error:
            raise EntityError(
                f"{path}, line {number}: byte {error.start + 1} is {line[error.start]:#04x}, which is not UTF-8: save the file "
                "as UTF-8"
            ) from None
        words = tuple(_words(term))
        if not words:
            empty.append(str(number))
        elif words in first_line:
            repeated.append(f"{number} as {first_line[words]}")
        else:
            first_line[words] = number
            terms.append(term)
    if not terms:
        raise EntityError(f"{path} holds no term: give a file with one on each line")
    for found, what in ((empty, "are empty"), (repeated, "hold a term that an earlier line has")):
        if found:
            named = ", ".join(found[:NAMED]) + (", ..." if len(found) > NAMED else "")
            log_line.warning("%s: %d lines %s, and are left out (line %s)", path, len(found), what, named)
    return terms


def _words(term: str) -> list[str]:
    return [POSSESSIVE.sub("", term[start:end].casefold()) for start, end in word_spans(term)]


def _texts(corpus: Corpus) -> list[str]:
    return [text.text for split in corpus.splits.values() for text in split]


class Tagger:
    """Finds what a token classifier calls an entity. A word has the tag of its first token.

    Tags may be in any scheme that CoNLL files have; labels that are only types, "Chemical", mean words inside.
    """

    def __init__(self, model: PretrainedText, texts: Iterable[str] = (), progress_bar: bool = True):
        """Tags `texts` at once; others are tagged when they are asked for. Raises EntityError for another model."""
        if model.head != "token":
            raise EntityError(
                f"the model {model.name} does not tag tokens: masking.entities needs the folder of one that does "
                "(...ForTokenClassification)"
            )
        self._tags = _tags_of(model)
        self._tokenizer = TextTokenizer(model.tokenizer, model.config.longest)
        module = TextModel(model.config, len(model.labels), "token")
        tag = functools.partial(module.apply, method="classify_tokens")
        params = jax.device_put(model.params, jax.local_devices()[0])
        told = jax.jit(lambda params, tokens, valid: tag({"params": params}, tokens, valid).argmax(axis=-1))
        self._tell = functools.partial(told, params)
        self._found: dict[str, Spans] = {}
        self._learn(list(dict.fromkeys(texts)), "tagging" if progress_bar else "")

    def __call__(self, text: Text) -> Spans:
        if text.text not in self._found:
            self._learn([text.text])
        return self._found[text.text]

    def _learn(self, texts: Sequence[str], doing: str = "") -> None:
        tokenized = self._tokenizer.encode(list(texts))
        for place, told in run_in_batches(self._tell, [found.tokens for found in tokenized], doing=doing):
            spans = word_spans(texts[place])
            first = first_tokens(tuple(spans), tokenized[place])
            # What is behind the window, or is of characters that the vocabulary drops, is no entity.
            tags = iob2([self._tags[int(told[token])] if token >= 0 else "O" for token in first])
            entities = entity_spans(tags)
            self._found[texts[place]] = [(spans[begin][0], spans[end - 1][1]) for begin, end, _ in entities]


def _tags_of(model: PretrainedText) -> list[str]:
    """A tag for each label of a tagger."""
    try:
        iob2(model.labels)
        return list(model.labels)
    except ValueError:
        if "O" in model.labels:
            return [label if label == "O" else f"I-{''.join(label.split())}" for label in model.labels]
    raise EntityError(
        f"the labels of {model.name}, {', '.join(model.labels[:NAMED])}, are no tags: one must be O, and the others B-, I- "
        'and a type; name them in "id2label" of its config.json'
    )
