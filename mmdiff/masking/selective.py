"""Finds the tokens that matter to a task, by a model finetuned on it (Selective Masking, arXiv 2004.09733).

The method marks tokens of labelled texts by a classifier of texts, and those of texts without labels by a second model that
was trained to tell the marks of the first.
"""

import functools
import hashlib
import io
import logging
import re
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from mmdiff.data.text_corpora import Text
from mmdiff.data.text_examples import TextBatch
from mmdiff.data.text_tokens import TextTokenizer, TokenizedText, word_spans
from mmdiff.errors import UserError
from mmdiff.masking.batched_texts import run_in_batches
from mmdiff.models.pretrained_text import PretrainedText
from mmdiff.models.text_encoder import TextModel
from mmdiff.user_cache import cache_folder
from mmdiff.whole_files import write_whole

PREFIXES_AT_ONCE = 128
STEP = 32  # tokens: the buffers of "buffer" are padded to multiples of this, so that few shapes are compiled
THRESHOLD = 0.05  # of "buffer" in the paper; 0.01 in its configurations
VERSION = 2  # of what is kept: others' is not read
SENTENCE_END = re.compile(r"[.!?]+[\"')\]]*\s+(?=[A-Z])")
IMPORTANT = "IMPORTANT"  # the type of a tag that the second model is trained to tell

Parts = tuple[np.ndarray, np.ndarray, np.ndarray]
log_line = logging.getLogger(__name__)


class SelectiveError(UserError):
    """The classifier does not go with the texts."""


def token_importance(
    classifier: PretrainedText,
    texts: Sequence[Text],
    tokenized: Sequence[TokenizedText],
    rule: str = "buffer",
    threshold: float = THRESHOLD,
    progress_bar: bool = True,
) -> list[Float[np.ndarray, " _"]]:
    """How much each token matters to the text's label y; 0 for special tokens and markers.

    "buffer" is the method's own rule (arXiv 2004.09733, section 3.2): the tokens of a sentence are read one by one, and one
    that brings P(y) nearer than `threshold` to P(y | sentence) is important, 1, and forgotten again; in sentences that are
    classified wrong none is. "prefix" is how Difference-Masking restates it (arXiv 2305.14577, section 5): P(y | x) -
    P(y | x up to and including the token), below 0 counts as 0. That is what the classifier is still to learn behind the
    token, not what the token adds: the first tokens of a text weigh most.

    Where the model tags tokens, it is the method's second one (see `important_words`), and neither labels nor a rule are
    needed: a token has the probability that its word's tag is not O.

    What was found is kept in the user's cache: there are as many prefixes as tokens, and runs with other seeds have them, too.

    Args:
      classifier: of whole texts, finetuned on their labels; or of tokens, finetuned on marks.
      texts: each with its label, but for a classifier of tokens.
      tokenized: the same texts, by a vocabulary that may differ from the classifier's.
      rule: "prefix" or "buffer".
      threshold: of "buffer".
      progress_bar: of the prefixes.

    Raises SelectiveError where the classifier is none of whole texts, or does not know a text's label.
    """
    if rule not in RULES:
        raise ValueError(f"no rule of importance is called {rule!r}; known: {', '.join(RULES)}")
    own = TextTokenizer(classifier.tokenizer, classifier.config.longest).encode([text.text for text in texts])
    if classifier.head == "token":
        found = _told_important(classifier, own, "marking of tokens" if progress_bar else "")
        return [_carried(*x) for x in zip(found, own, tokenized, strict=True)]
    labels = _labels(classifier, texts)
    kept = _Kept(classifier.digest, rule, threshold if rule == "buffer" else 0.0, own, labels)
    found = kept.read()
    if found is None:
        doing = f"importance of tokens ({rule})" if progress_bar else ""
        if rule == "buffer":
            found = _of_sentences(_classify(classifier), texts, own, labels, threshold, doing)
        else:
            parts = [_split(text) for text in own]
            found = _by_prefix(_classify(classifier), parts, labels, doing)
            found = [_around(x, part) for x, part in zip(found, parts, strict=True)]
        kept.write(found)
    return [_carried(*x) for x in zip(found, own, tokenized, strict=True)]


def _labels(classifier: PretrainedText, texts: Sequence[Text]) -> list[int]:
    """The place of each text's label among the classifier's."""
    if classifier.head != "sequence":
        raise SelectiveError(
            f"the model {classifier.name} does not classify texts: masking.classifier needs the folder of one that was "
            "finetuned on the task; `mmdiff probe --mode finetune` makes one"
        )
    places = {label: place for place, label in enumerate(classifier.labels)}
    for text in texts:
        if text.label not in places:
            what = "has no label" if text.label is None else f"has the label {text.label!r}"
            raise SelectiveError(
                f"{text.name} {what}, and the classifier {classifier.name} knows {', '.join(places)}: it must be finetuned "
                "on these texts"
            )
    return [places[text.label] for text in texts]


def _split(found: TokenizedText) -> Parts:
    """The special tokens before a text, the text's, and those behind it."""
    inner = np.flatnonzero(found.start < found.end)
    first, last = (inner[0], inner[-1] + 1) if len(inner) else (1, 1)
    return found.tokens[:first], found.tokens[first:last], found.tokens[last:]


def _of_sentences(
    classify: Callable,
    texts: Sequence[Text],
    own: Sequence[TokenizedText],
    labels: Sequence[int],
    threshold: float,
    doing: str,
) -> list[np.ndarray]:
    """The marks of "buffer" of the tokens of texts, of which each sentence has the text's label."""
    parts, of_sentence, places = [], [], []
    for number, (text, found) in enumerate(zip(texts, own, strict=True)):
        before, _, behind = _split(found)
        ends = [match.end() for match in SENTENCE_END.finditer(text.text)]
        sentence = np.searchsorted(ends, found.start, side="right")
        inner = np.arange(len(before), len(found.tokens) - len(behind))
        for one in np.unique(sentence[inner]):
            place = inner[sentence[inner] == one]
            parts.append((before, found.tokens[place], behind))
            of_sentence.append(labels[number])
            places.append((number, place))
    importance = [np.zeros(len(found.tokens), np.float32) for found in own]
    for (number, place), marks in zip(places, _by_buffer(classify, parts, of_sentence, threshold, doing), strict=True):
        importance[number][place] = marks
    return importance


def _told_important(tagger: PretrainedText, own: Sequence[TokenizedText], doing: str) -> list[np.ndarray]:
    """The probability that the tag of a token's word, which is that of its first token, is not O."""
    if "O" not in tagger.labels:
        raise SelectiveError(f"the model {tagger.name} tags tokens, and none of its labels is O: it tells no marks")
    module, outside = TextModel(tagger.config, len(tagger.labels), "token"), tagger.labels.index("O")
    params = jax.device_put(tagger.params, jax.local_devices()[0])

    @jax.jit
    def run(params, tokens, valid):
        logits = module.apply({"params": params}, tokens, valid, method="classify_tokens")
        return 1 - jax.nn.softmax(logits.astype(jnp.float32))[..., outside]

    told = dict(run_in_batches(functools.partial(run, params), [found.tokens for found in own], doing=doing))
    importance = []
    for number, found in enumerate(own):
        same_word = found.word[:, None] == found.word[None, :]
        first = same_word.argmax(axis=1)
        importance.append(np.where(found.word > 0, told[number][first], 0).astype(np.float32))
    return importance


def important_words(texts: Sequence[Text], examples: Sequence[TextBatch], rule: str = "letters") -> str:
    """The marks as CoNLL lines, a word and its tag each: what the second model is finetuned on.

    A word is marked where one of its tokens is; words that follow each other are one entity. Words behind the window, of
    which nothing is known, are left out.
    """
    lines = []
    for text, example in zip(texts, examples, strict=True):
        marked, before = set(example.word[example.importance > 0].tolist()), False
        read = word_spans(text.text, rule)[: int(example.word.max(initial=0))]
        for number, (start, end) in enumerate(read, start=1):
            tag = f"{'I' if before else 'B'}-{IMPORTANT}" if number in marked else "O"
            lines.append(f"{text.text[start:end]}\t{tag}")
            before = number in marked
        lines.append("")
    return "\n".join(lines) + "\n"


def _classify(classifier: PretrainedText) -> Callable[..., list[Float[np.ndarray, " _"]]]:
    """What gives the probability of each label for rows of tokens; rows that are equal are run once."""
    module = TextModel(classifier.config, len(classifier.labels), "sequence")
    params = jax.device_put(classifier.params, jax.local_devices()[0])

    @jax.jit
    def run(params, tokens, valid):
        return jax.nn.softmax(module.apply({"params": params}, tokens, valid, method="classify").astype(jnp.float32))

    def probabilities(rows, doing: str, lengths: tuple[int, ...] | None = None):
        keys = [np.asarray(row).tobytes() for row in rows]
        distinct = dict(zip(keys, rows, strict=True))
        found = run_in_batches(
            functools.partial(run, params), list(distinct.values()), PREFIXES_AT_ONCE, lengths, doing
        )
        by_place = dict(found)
        by_key = {key: by_place[place] for place, key in enumerate(distinct)}
        return [by_key[key] for key in keys]

    return probabilities


def _by_prefix(classify: Callable, parts: Sequence[Parts], labels: Sequence[int], doing: str) -> list[np.ndarray]:
    """max(P(y | x) - P(y | x up to and including the token), 0) of each token of the texts themselves."""
    rows = [
        np.concatenate([before, text[:length], behind])
        for before, text, behind in parts
        for length in range(1, len(text) + 1)
    ]
    found, importance = iter(classify(rows, doing)), []
    for (_, text, _), label in zip(parts, labels, strict=True):
        told = np.array([next(found)[label] for _ in text], np.float32)
        importance.append(np.maximum(told[-1:] - told, 0))
    return importance


def _by_buffer(
    classify: Callable, parts: Sequence[Parts], labels: Sequence[int], threshold: float, doing: str
) -> list[np.ndarray]:
    """1 for the tokens that the original rule marks; all texts go one token on together."""
    whole = classify([np.concatenate(part) for part in parts], doing)
    importance = [np.zeros(len(text), np.float32) for _, text, _ in parts]
    buffers: list[list[int]] = [[] for _ in parts]
    right = [text for text, label in enumerate(labels) if whole[text].argmax() == label]
    if len(right) < len(parts):
        log_line.warning("the classifier is wrong about %d of %d sentences: no token of theirs counts as important",
                         len(parts) - len(right), len(parts))  # fmt: skip
    longest = max(len(text) for _, text, _ in parts) + max(len(before) + len(behind) for before, _, behind in parts)
    lengths = tuple(range(STEP, longest + STEP, STEP))
    for place in range(max(len(text) for _, text, _ in parts)):
        active = [number for number in right if place < len(parts[number][1])]
        tried = [
            np.concatenate([parts[number][0], [*buffers[number], parts[number][1][place]], parts[number][2]]).astype(
                np.int32
            )
            for number in active
        ]
        for number, told in zip(active, classify(tried, "", lengths), strict=True):
            label = labels[number]
            if whole[number][label] - told[label] < threshold:
                importance[number][place] = 1
            else:
                buffers[number].append(int(parts[number][1][place]))
    return importance


RULES = ("buffer", "prefix")


def _around(importance: np.ndarray, parts: Parts) -> np.ndarray:
    """With the zeros of the special tokens at both ends."""
    return np.pad(importance, (len(parts[0]), len(parts[2])))


def _carried(importance: Float[np.ndarray, " t"], own: TokenizedText, other: TokenizedText) -> Float[np.ndarray, " s"]:
    """The importance of another vocabulary's tokens: the highest that one of their characters has."""
    if np.array_equal(own.tokens, other.tokens) and np.array_equal(own.start, other.start):
        return np.where(other.word > 0, importance, 0).astype(np.float32)
    of_character = np.zeros(max(own.end.max(), other.end.max()), np.float32)
    for start, end, x in zip(own.start, own.end, importance, strict=True):
        of_character[start:end] = np.maximum(of_character[start:end], x)
    spans = zip(other.start, other.end, other.word, strict=True)
    return np.array([of_character[start:end].max(initial=0) if word else 0 for start, end, word in spans], np.float32)


class _Kept:
    """The file of what was found for these tokens and labels with this classifier, in the user's cache."""

    def __init__(
        self, classifier: str, rule: str, threshold: float, texts: Sequence[TokenizedText], labels: Sequence[int]
    ):
        self._sizes = np.array([len(text.tokens) for text in texts], np.int64)
        digest = hashlib.sha256(
            f"{VERSION} {classifier} {rule} {threshold} {list(labels)} {self._sizes.tolist()}".encode()
        )
        for text in texts:
            digest.update(text.tokens.tobytes())
        folder = cache_folder("token_importance")
        self._path = folder / f"{digest.hexdigest()[:32]}.npy"

    def read(self) -> list[np.ndarray] | None:
        """None where nothing is kept, or it is damaged."""
        try:
            flat = np.load(self._path, allow_pickle=False)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, EOFError):
            flat = None
        if not isinstance(flat, np.ndarray) or flat.dtype != np.float32 or flat.shape != (self._sizes.sum(),):
            log_line.warning("%s is damaged: it is made anew", self._path)
            return None
        return np.split(flat, np.cumsum(self._sizes)[:-1])

    def write(self, found: list[np.ndarray]) -> None:
        content = io.BytesIO()
        np.save(content, np.concatenate(found), allow_pickle=False)
        try:
            write_whole(self._path, content.getvalue())
        except OSError as error:
            log_line.warning("the importance of tokens is not kept in %s: %s", self._path, error)
