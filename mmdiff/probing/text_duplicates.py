"""Training texts and others in, which of the others a model has seen in training out."""

import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool

from mmdiff.data.text_tokens import MARKERS

_MARKERS = re.compile("|".join(map(re.escape, MARKERS)))


def same_text(text: str) -> str:
    """What two texts share that differ only in case, white space and the markers around entities."""
    return " ".join(_MARKERS.sub(" ", text).casefold().split())


def seen_in(train: Sequence[str], texts: Sequence[str]) -> Bool[np.ndarray, " n"]:
    """Which of the texts are also training texts."""
    known = {same_text(text) for text in train}
    return np.array([same_text(text) in known for text in texts], bool)
