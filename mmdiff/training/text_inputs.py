"""Makes the examples of continued pretraining on text, with all that the strategy looks at."""

import itertools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mmdiff.data.text_batches import bucket_lengths
from mmdiff.data.text_corpora import Corpus, CorpusError, Text
from mmdiff.data.text_examples import Annotations, TextBatch, standing_types, text_examples, words_of_text
from mmdiff.data.text_tokens import MARKERS, TextTokenizer, TokenizedText, word_spans
from mmdiff.masking.anchors import WordAnchors, open_word_anchors
from mmdiff.masking.collocations import learn_collocations
from mmdiff.masking.entities import ANCHORS, TAGS, open_entities
from mmdiff.masking.read_alike import tell_share_read_alike
from mmdiff.masking.selective import token_importance
from mmdiff.masking.text_vectors import load_text_encoder
from mmdiff.masking.token_attention import token_attention
from mmdiff.masking.word_strategies import find
from mmdiff.models.pretrained_text import PretrainedText, read_text_model
from mmdiff.training.config import ConfigError
from mmdiff.training.text_config import TextPretrainConfig

log_line = logging.getLogger(__name__)


class Examples(NamedTuple):
    """The examples of a corpus, by split, and what they were made with."""

    texts: dict[str, list[Text]]
    made: dict[str, list[TextBatch]]
    lengths: tuple[int, ...]
    anchors: WordAnchors | None = None
    labels: tuple[str, ...] = ()  # that enter pretraining
    marked: bool = False  # importance is the marks of a classifier of texts
    read_alike: float | None = None  # share of words compared by the texts' own tokens, where the model compares


def open_tokenizer(config: TextPretrainConfig, model: PretrainedText) -> TextTokenizer:
    """The model's, that splits texts into words and leaves punctuation as the configuration says."""
    longest = min(config.data.longest, model.config.longest)
    return TextTokenizer(model.tokenizer, longest, config.masking.words, config.masking.punctuation == "hidden")


def make_examples(
    config: TextPretrainConfig,
    corpus: Corpus,
    tokenizer: TextTokenizer,
    model: PretrainedText,
    kept_anchors: Path | None = None,
    progress_bar: bool = True,
) -> Examples:
    """The texts to train on and to validate with, and of each what the strategy looks at.

    Anchors, collocations and entities' names are looked for in the training texts alone.

    Raises CorpusError where there are no texts to train on, or nothing in those of a split can be hidden.
    """
    texts = {split: corpus.splits[split] for split in ("train", "validation") if corpus.splits.get(split)}
    if "train" not in texts:
        raise CorpusError(f"{config.data.corpus} holds no texts to train on, only {', '.join(corpus.splits)}")
    if config.data.distinct:
        texts = {split: distinct(of_split) for split, of_split in texts.items()}
    everything = [text for of_split in texts.values() for text in of_split]
    tokenized = tokenizer.encode([text.text for text in everything])
    _check_texts(config, texts, tokenized)
    train, strategy, asks_terms = texts["train"], find(config.masking.strategy), needs_terms(config)
    looks_at, rule = strategy.looks_at, config.masking.words
    anchors, share, marked, look = None, None, False, Annotations(words=rule, labels=_asked_labels(config, corpus))
    terms = config.masking.entities or TAGS
    if "weight" in looks_at or (asks_terms and terms == ANCHORS):
        encoder = load_text_encoder(config.anchors.text_encoder, config.anchors.pool) if "weight" in looks_at else None
        types = standing_types(everything, tokenized, rule) if "weight" in looks_at else ()
        anchors = open_word_anchors(
            config.anchors, [text.text for text in train], types, kept_anchors, encoder, progress_bar
        )
        if encoder and encoder.digest == model.digest:
            share = tell_share_read_alike(encoder, everything, tokenized, rule)
        look = look._replace(weight=anchors.similarity if encoder else None)
    if asks_terms:
        look = look._replace(entities=open_entities(terms, corpus, anchors, progress_bar))
    if "ngrams" in looks_at:
        sentences = (words_of_text(text.text, rule) for text in train)
        look = look._replace(ngrams=learn_collocations(sentences, config.collocations))
    if "attention" in looks_at:
        attention = token_attention(model.config, model.params["encoder"], tokenized, progress_bar)
        look = look._replace(attention=attention)
    if "importance" in looks_at:
        classifier = read_text_model(config.masking.classifier)
        marked = classifier.head == "sequence" and config.masking.selective_rule == "buffer"
        importance = token_importance(
            classifier,
            everything,
            tokenized,
            config.masking.selective_rule,
            config.masking.selective_threshold,
            progress_bar,
        )
        look = look._replace(importance=importance)
    made = iter(text_examples(everything, tokenized, look))
    by_split = {split: list(itertools.islice(made, len(of_split))) for split, of_split in texts.items()}
    if asks_terms:
        _tell_terms(terms, by_split["train"])
    if strategy.one_group:
        texts, by_split = _with_terms(config, texts, by_split)
    lengths = bucket_lengths([len(x.tokens) for x in by_split["train"]], config.data.buckets, multiple=4)
    return Examples(texts, by_split, lengths, anchors, look.labels, marked, share)


def needs_terms(config: TextPretrainConfig) -> bool:
    """Whether the strategy or the loss looks at the domain's terms."""
    return "entities" in find(config.masking.strategy).looks_at or config.objective.weighting != "equal"


def _tell_terms(source: str, made: Sequence[TextBatch]) -> None:
    """Says how many of the domain's terms there are; warns where there are none, as of a list in another language."""
    found = [len(np.unique(example.entity[example.entity > 0])) for example in made]
    if any(found):
        having = sum(number > 0 for number in found)
        log_line.info("masking.entities=%r: %d in %d of %d training texts", source, sum(found), having, len(made))
    else:
        log_line.warning(
            "masking.entities=%r: none in %d training texts; all of their words count as others", source, len(made)
        )


def _asked_labels(config: TextPretrainConfig, corpus: Corpus) -> tuple[str, ...]:
    """The labels that enter pretraining. Raises ConfigError where they are asked for and the corpus has none to choose by."""
    if not config.objective.end_task:
        return ()
    if corpus.kind != "classification" or not corpus.splits.get("validation"):
        raise ConfigError(
            f"objective.end_task={config.objective.end_task} needs texts with a label each and a validation split, which "
            f"{config.data.corpus} has not"
        )
    log_line.warning(
        "objective.end_task: the labels of training texts enter pretraining, those of validation texts choose"
    )
    return corpus.labels


def _with_terms(
    config: TextPretrainConfig, texts: dict[str, list[Text]], made: dict[str, list[TextBatch]]
) -> tuple[dict[str, list[Text]], dict[str, list[TextBatch]]]:
    """The texts that hold a term, and their examples: of others such a strategy hides nothing.

    Raises CorpusError where a split has none.
    """
    kept = {split: [bool(example.entity.any()) for example in of_split] for split, of_split in made.items()}
    for split, having in kept.items():
        if not any(having):
            raise CorpusError(
                f"no {split} text holds a term of masking.entities={config.masking.entities or TAGS!r}, and "
                f"masking.strategy={config.masking.strategy!r} hides nothing else"
            )
        if not all(having):
            log_line.warning(
                "%d of %d %s texts hold no term, and are left out: masking.strategy=%r hides nothing else",
                len(having) - sum(having), len(having), split, config.masking.strategy,
            )  # fmt: skip
    return tuple(
        {split: list(itertools.compress(of_split, kept[split])) for split, of_split in both.items()}
        for both in (texts, made)
    )


def distinct(texts: Sequence[Text]) -> list[Text]:
    """The first of texts that differ in nothing but their markers."""
    first = {}
    for text in texts:
        words = tuple(text.text[start:end] for start, end in word_spans(text.text))
        first.setdefault(tuple(word for word in words if word not in MARKERS), text)
    return list(first.values())


def _check_texts(config: TextPretrainConfig, texts: dict[str, list[Text]], tokenized: list[TokenizedText]) -> None:
    """Warns of texts that are cut, or of which nothing can be hidden. Raises CorpusError where all of a split are such."""
    everything = [text for of_split in texts.values() for text in of_split]
    cut = [text.name for text, found in zip(everything, tokenized, strict=True) if found.cut]
    if cut:
        log_line.warning(
            "%d of %d texts are longer than %d tokens and are cut there (data.longest), the first is %s",
            len(cut), len(everything), max(len(found.tokens) for found in tokenized), cut[0],
        )  # fmt: skip
    bare = [text.name for text, found in zip(everything, tokenized, strict=True) if not found.word.any()]
    for split, of_split in texts.items():
        if {text.name for text in of_split} <= set(bare):
            raise CorpusError(
                f"none of the {len(of_split)} {split} texts of {config.data.corpus} holds a word that can be hidden: those of "
                "markers and of characters that the vocabulary lacks cannot"
            )
    if bare:
        log_line.warning("%d texts hold no word that can be hidden, the first is %s", len(bare), bare[0])
