"""Texts that are the same, or of the same document: in training and test, and within the test texts."""

import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Shaped

from mmdiff.data.text_corpora import Text
from mmdiff.data.text_tokens import MARKERS

_MARKERS = re.compile("|".join(map(re.escape, MARKERS)))


def same_text(text: str) -> str:
    """What two texts share that differ only in case, white space and the markers around entities."""
    return " ".join(_MARKERS.sub(" ", text).casefold().split())


def seen_in(train: Sequence[str], texts: Sequence[str]) -> Bool[np.ndarray, " n"]:
    """Which of the texts are also training texts."""
    known = {same_text(text) for text in train}
    return np.array([same_text(text) in known for text in texts], bool)


def documents_of(texts: Sequence[Text]) -> Shaped[np.ndarray, " n"]:
    """A name of what each text is part of, for tests that need independent samples.

    That is its document, where its file marks documents. Otherwise it is the first text that is the same but for markers:
    ChemProt has a sentence once for each pair of its entities.
    """
    first: dict[str, str] = {}
    return np.array([text.document or first.setdefault(same_text(text.text), text.name) for text in texts], str)
