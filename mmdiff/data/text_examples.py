"""Texts in, the arrays that one training example is made of out."""

import functools
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from mmdiff.data.text_corpora import Text
from mmdiff.data.text_tokens import TokenizedText, word_spans

GLUED = "+ "  # before a word that has no space before it in its text; no word holds a space


class TextBatch(NamedTuple):
    """One text, or with a first axis `b` a batch of them. All that is 0 where there is nothing: padding is zeros."""

    id: Int[np.ndarray, "*b"]  # what a text's own mask is drawn from
    tokens: Int[np.ndarray, "*b t"]  # special ones at both ends
    valid: Bool[np.ndarray, "*b t"]
    word: Int[np.ndarray, "*b t"]  # number of the token's word in its text, from 1; 0 where nothing may be hidden
    weight: Float[np.ndarray, "*b t"]  # similarity of the word to the anchors, 0 to 1
    entity: Int[np.ndarray, "*b t"]  # number of the entity that the word is part of, from 1
    ngram: Int[np.ndarray, "*b t"]  # number of the collocation that the word is part of, from 1
    attention: Float[np.ndarray, "*b t"]  # of the first token in the last layer, by the model that a run starts from
    importance: Float[np.ndarray, "*b t"]  # of the token to the text's label, see `selective.token_importance`
    label: Int[np.ndarray, "*b"]  # of the text: its place + 1; 0: none is asked


class Annotations(NamedTuple):
    """What a strategy looks at in texts, each None where it does not."""

    weight: Callable[[str], float] | None = None  # of a word as it stands, see `standing_words`
    entities: Callable[[Text], list[tuple[int, int]]] | None = None  # characters of each
    ngrams: Callable[[list[str]], list[int]] | None = None  # number of each word's collocation; 0: of none
    attention: Sequence[Float[np.ndarray, " t"]] | None = None  # of each text
    importance: Sequence[Float[np.ndarray, " t"]] | None = None
    labels: tuple[str, ...] = ()  # that texts are asked for
    words: str = "letters"  # how texts are split into words, see `word_spans`


def words_of_text(text: str, rule: str = "letters") -> list[str]:
    """Its words, casefolded. Word `n` of `TokenizedText.word` is the one at n - 1."""
    return [text[start:end].casefold() for start, end in word_spans(text, rule)]


def standing_words(text: str, rule: str = "letters") -> list[str]:
    """Its words as they stand in it, for a vocabulary that tells them apart: "The (X-ray)" is The, (, + X, + -, + ray, + ).

    Capitals are kept, and GLUED is put before a word that has no space before it, unless it is the first. By "spaces", full stops
    and commas around a word are left out, as the authors' code does before it compares words.
    """
    found = []
    for start, end in word_spans(text, rule):
        word = text[start:end]
        if rule == "spaces":
            word = word.strip(".,") or word
        found.append(word if start == 0 or text[start - 1] == " " else GLUED + word)
    return found


def standing_types(texts: Iterable[Text], tokenized: Iterable[TokenizedText], rule: str = "letters") -> list[str]:
    """Every word of which a token may be masked, as it stands, once, in the order of the texts."""
    types: dict[str, None] = {}
    for text, found in zip(texts, tokenized, strict=True):
        words = standing_words(text.text, rule)
        types.update(dict.fromkeys(words[number - 1] for number in np.unique(found.word[found.word > 0])))
    return list(types)


def text_examples(
    texts: Sequence[Text], tokenized: Sequence[TokenizedText], annotations: Annotations
) -> list[TextBatch]:
    """The example of each text."""
    if annotations.weight:
        annotations = annotations._replace(weight=functools.cache(annotations.weight))  # words come again and again
    return [_example(i, text, tokenized[i], annotations) for i, text in enumerate(texts)]


def _example(index: int, text: Text, found: TokenizedText, look: Annotations) -> TextBatch:
    def of_words(values: list, kind) -> np.ndarray:
        """Of each token what its word has."""
        return np.array([0, *values], kind)[found.word]

    words = words_of_text(text.text, look.words) if look.ngrams else []
    entity = np.zeros(len(found.tokens), np.int32)
    for number, (start, end) in enumerate(look.entities(text) if look.entities else (), start=1):
        entity[(found.word > 0) & (found.start < end) & (found.end > start)] = number
    nothing = np.zeros(len(found.tokens), np.float32)
    return TextBatch(
        # The same text keeps its mask when others join the corpus; its copies have masks of their own.
        id=np.uint32(zlib.crc32(text.name.encode())),
        tokens=found.tokens.astype(np.int32),
        valid=np.ones(len(found.tokens), bool),
        word=found.word.astype(np.int32),
        weight=of_words(_weights(text.text, found, look), np.float32) if look.weight else nothing,
        entity=entity,
        ngram=of_words(look.ngrams(words), np.int32) if look.ngrams else np.zeros(len(found.tokens), np.int32),
        attention=look.attention[index].astype(np.float32) if look.attention is not None else nothing,
        importance=look.importance[index].astype(np.float32) if look.importance is not None else nothing,
        label=np.int32(look.labels.index(text.label) + 1 if text.label in look.labels else 0),
    )


def _weights(text: str, found: TokenizedText, look: Annotations) -> list[float]:
    """Of each word of a text; 0 where no token of it may be masked."""
    words = standing_words(text, look.words)
    weights = [0.0] * len(words)
    for number in np.unique(found.word[found.word > 0]):
        weights[number - 1] = look.weight(words[number - 1])
    return weights
