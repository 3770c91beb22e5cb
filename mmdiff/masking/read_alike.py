"""Checks that a text encoder compares words by the same tokens as their texts have."""

import logging
from collections.abc import Sequence

import numpy as np

from mmdiff.data.text_corpora import Text
from mmdiff.data.text_examples import GLUED, standing_words
from mmdiff.data.text_tokens import TokenizedText, word_spans
from mmdiff.masking.anchors import in_running_text
from mmdiff.masking.text_vectors import TextEncoder

LOOKED_AT = 1000  # texts of a run
FEW = 0.9  # a smaller share is warned of

log_line = logging.getLogger(__name__)


def share_read_alike(
    encoder: TextEncoder, texts: Sequence[Text], tokenized: Sequence[TokenizedText], rule: str = "letters"
) -> tuple[float, int]:
    """The share of words that an encoder compares by the same tokens as their text has, and of how many.

    Counted are words that stand whole in the window and may be masked, but for the first of a text, before which there is
    no white space.
    """
    words, read = [], []
    for text, found in zip(texts, tokenized, strict=True):
        standing, spans = standing_words(text.text, rule), word_spans(text.text, rule)
        for number in np.unique(found.word[found.word > 0]):
            first, last = spans[number - 1]
            inside = (found.start >= first) & (found.end <= last)
            if standing[number - 1].startswith(GLUED):
                inside &= found.start < found.end  # not a token of nothing but the white space before it
            if first > 0 and last <= found.end.max():
                words.append(in_running_text(standing[number - 1]))
                read.append(tuple(found.tokens[inside].tolist()))
    different = list(dict.fromkeys(words))
    ids = dict(zip(different, encoder.ids(different), strict=True))
    alike = [ids[word] == tokens for word, tokens in zip(words, read, strict=True)]
    return (float(np.mean(alike)) if alike else 1.0), len(alike)


def tell_share_read_alike(
    encoder: TextEncoder, texts: Sequence[Text], tokenized: Sequence[TokenizedText], rule: str = "letters"
) -> float:
    """Logs the share for the first LOOKED_AT texts, and returns it; warns where it is small."""
    share, count = share_read_alike(encoder, texts[:LOOKED_AT], tokenized[:LOOKED_AT], rule)
    tell = log_line.info if share > FEW else log_line.warning
    tell("%.2f%% of %d words are compared by the same tokens as their texts have", 100 * share, count)
    return share
