"""A text in, its tokens out, and of each the characters it stands for and the word that they belong to."""

import re
from typing import NamedTuple

import numpy as np
import tokenizers
from jaxtyping import Int

from mmdiff.data.corpus import WORD
from mmdiff.data.tokenizer import TokenizerError

MARKERS = ("<<", ">>", "[[", "]]")  # stand around the two entities of a relation: words that are never masked
MASK_TOKENS = ("[MASK]", "<mask>")
_MARKER = "|".join(map(re.escape, MARKERS))
# Every character but white space is of a word: of letters and digits, of a marker, or of a run of anything else.
_ANY_WORD = re.compile(rf"{WORD.pattern}|{_MARKER}|(?:(?!{_MARKER})(?:[^\w\s]|_))+")
WORD_RULES = {"letters": _ANY_WORD, "spaces": re.compile(rf"{_MARKER}|(?:(?!{_MARKER})\S)+")}


def word_spans(text: str, rule: str = "letters") -> list[tuple[int, int]]:
    """The first character of each word, and the one after its last.

    By "letters", "The [[X-ray]]'s." is The, [[, X, -, ray, ]], ', s, . and by "spaces" it is The, [[, X-ray, ]], 's.
    """
    return [match.span() for match in WORD_RULES[rule].finditer(text)]


def is_punctuation(word: str) -> bool:
    """Whether a word has neither a letter nor a digit."""
    return not any(character.isalnum() for character in word)


class TokenizedText(NamedTuple):
    """A text's tokens, the special ones around it too."""

    tokens: Int[np.ndarray, " t"]
    word: Int[np.ndarray, " t"]  # place in word_spans + 1; 0: not to be masked, as special, unknown or of a marker
    start: Int[np.ndarray, " t"]  # character; white space before it is left out
    end: Int[np.ndarray, " t"]
    cut: bool  # the text was longer than the window


class TextTokenizer:
    """The vocabulary of a masked language model. Threads may share it.

    A text is cut to `longest` tokens. What looks like a special token in it, "[SEP]", is text. A token belongs to the word
    in which it begins, by its characters: byte-level vocabularies write no "##". An unknown token tells nothing of its
    word and so is not masked: there is nothing to predict.

    Raises TokenizerError where the vocabulary has no mask token, or `longest` leaves no room for text.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer, longest: int, words: str = "letters", punctuation: bool = True):
        """`words` is a row of WORD_RULES; without `punctuation`, tokens of words that are nothing else are never masked."""
        tokenizer = tokenizers.Tokenizer.from_str(tokenizer.to_str())  # its settings are changed here
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._json = tokenizer.to_str()
        added = tokenizer.num_special_tokens_to_add(is_pair=False)
        if longest <= added:
            raise TokenizerError(
                f"a window of {longest} tokens leaves no room beside the {added} special ones of a text"
            )
        tokenizer.enable_truncation(longest)
        tokenizer.encode_special_tokens = True
        self._tokenizer = tokenizer
        vocabulary = tokenizer.get_vocab(with_added_tokens=True)
        found = [vocabulary[token] for token in MASK_TOKENS if token in vocabulary]
        if not found:
            raise TokenizerError(
                f"the vocabulary has no {' and no '.join(MASK_TOKENS)}: a masked language model needs one; "
                "give the folder of a BERT or a RoBERTa"
            )
        self.mask_id: int = found[0]
        self.size: int = max(vocabulary.values()) + 1  # ids are less
        self.added: int = added  # special tokens around each text
        unknown = {vocabulary[token] for token in ("[UNK]", "<unk>") if token in vocabulary}
        special = {i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}
        self.special_ids: tuple[int, ...] = tuple(sorted(special | unknown | {self.mask_id}))
        self._unknown = np.array(sorted(unknown), np.int32)
        self._words, self._punctuation = words, punctuation

    def json(self) -> str:
        """The tokenizer.json of it."""
        return self._json

    def encode(self, texts: list[str]) -> list[TokenizedText]:
        """The tokens of each text."""
        encoded = self._tokenizer.encode_batch(texts)
        return [self._placed(text, encoding) for text, encoding in zip(texts, encoded, strict=True)]

    def _placed(self, text: str, encoding: tokenizers.Encoding) -> TokenizedText:
        tokens = np.array(encoding.ids, np.int32)
        start, end = np.array(encoding.offsets, np.int32).reshape(-1, 2).T
        # A byte-level token may begin with the space before its word.
        begins = start.copy()
        for i in np.flatnonzero(start < end):
            while begins[i] < end[i] and text[begins[i]].isspace():
                begins[i] += 1
        spans = word_spans(text, self._words)
        firsts = np.array([first for first, _ in spans], np.int32)
        # How many markers there are up to each word.
        markers = np.cumsum([0, *(text[first:last] in MARKERS for first, last in spans)])
        word = np.searchsorted(firsts, begins, side="right")
        last = np.searchsorted(firsts, end - 1, side="right")
        maskable = (begins < end) & (np.array(encoding.special_tokens_mask, np.int32) == 0)
        maskable &= ~np.isin(tokens, self._unknown)
        maskable &= markers[last] == markers[np.maximum(word - 1, 0)]
        if not self._punctuation:
            kept = np.array([False, *(is_punctuation(text[first:end]) for first, end in spans)])
            maskable &= ~kept[word]
        return TokenizedText(
            tokens, np.where(maskable, word, 0).astype(np.int32), begins, end.copy(), bool(encoding.overflowing)
        )
