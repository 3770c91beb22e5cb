"""A configuration in, a run's folder with a continued BERT or RoBERTa out: `mmdiff pretrain` on text."""

import dataclasses
import functools
import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool

from mmdiff.data.text_batches import bucket_lengths, text_evaluation_batches, text_training_batches
from mmdiff.data.text_corpora import Corpus, CorpusError, Text, read_corpus
from mmdiff.data.text_examples import Annotations, TextBatch, text_examples, word_types, words_of_text
from mmdiff.data.text_tokens import MARKERS, TextTokenizer, TokenizedText, word_spans
from mmdiff.masking.anchors import WordAnchors, open_word_anchors
from mmdiff.masking.collocations import learn_collocations
from mmdiff.masking.entities import ANCHORS, TAGS, open_entities
from mmdiff.masking.selective import token_importance
from mmdiff.masking.text_vectors import load_text_encoder
from mmdiff.masking.token_attention import token_attention
from mmdiff.masking.word_strategies import find
from mmdiff.models.pretrained_text import PretrainedText, read_text_model, write_text_model
from mmdiff.models.text_encoder import TextModel, init_text_params
from mmdiff.objectives.masked_language import MaskedLanguage, TermWeights, term_weights
from mmdiff.objectives.soft_masked_gradients import SoftMaskedGradients, head_importance
from mmdiff.training import hosts, runs
from mmdiff.training.config import ConfigError, in_steps, validate, with_absolute_paths, with_fields
from mmdiff.training.drawing import drawing_texts
from mmdiff.training.loop import UNWATCHED, Training, Watch, microbatch, open_position, run_loop
from mmdiff.training.optimizer import make_optimizer
from mmdiff.training.pretrain import keep_anchors, run_keys
from mmdiff.training.sharding import make_mesh
from mmdiff.training.text_config import TextPretrainConfig, within_positions
from mmdiff.whole_files import write_whole

TRAINED = ("encoder", "mlm_head")  # parts of a model; others, such as a pooler, are kept as they came
TEXTS_AT_ONCE = 64  # whose masks are drawn together where no step is taken
COMMONEST = 2000  # words of which a run lists how often they were hidden
SAMPLES = 8  # texts that are kept with their masks

log_line = logging.getLogger(__name__)


class Examples(NamedTuple):
    """The examples of a corpus, by split, and what they were made with."""

    texts: dict[str, list[Text]]
    made: dict[str, list[TextBatch]]
    lengths: tuple[int, ...]
    anchors: WordAnchors | None


def pretrain_text(
    config: TextPretrainConfig, workdir: str | Path, progress_bar: bool = True, watch: Watch = UNWATCHED
) -> Path:
    """Continues pretraining on texts, with the loop, the checkpoints and the promises of `pretrain`.

    `workdir` gets config.json, tokenizer.json, anchors.json, metrics.jsonl, tensorboard/, checkpoints/ and, at the end,
    hidden_words.json (what the run's masks hid of the training texts) and model/: a Hugging Face folder of the model with
    the lowest validation loss, or of the last where there is no validation split.

    Raises ConfigError, CorpusError, CheckpointError, TokenizerError, AnchorError, TfIcfError, StrategyError, RunError or
    HostsError, each with one sentence for the user.
    """
    with hosts.together():
        config = settled(config)
        validate(config)
        workdir = Path(workdir)
        model = read_text_model(config.model.checkpoint)
        config = within_positions(config, model.config.longest, config.model.checkpoint)
        tokenizer = TextTokenizer(model.tokenizer, config.data.longest)
        corpus = read_corpus(config.data.corpus, labels_matter=False)
        mesh = make_mesh(config.train.fsdp)
        micro = microbatch(config.train, mesh)
        claim = functools.partial(
            runs.claim,
            workdir,
            with_absolute_paths(config),
            tokenizer.json().encode(),
            inputs_digest(config, corpus, model),
            " or ".join(filter(None, (config.data.corpus, config.model.checkpoint, *_more_inputs(config)))),
        )
        if hosts.first() and (workdir / runs.CONFIG).exists():
            claim()  # Another run's folder is refused before the long work.
        # A new folder is taken behind it: what is wrong with the inputs shows now, and may be mended and tried again.
        examples = make_examples(config, corpus, tokenizer, model, workdir / runs.ANCHORS, progress_bar)
        if hosts.first():
            claim()
            if examples.anchors:
                keep_anchors(examples.anchors, workdir)
    with hosts.together():
        if not hosts.first():
            hosts.await_file(workdir / runs.CONFIG)
            claim()

    train, optimizer_config = in_steps(config.train, config.optimizer, len(examples.made["train"]))
    init_key, step_key = run_keys(config.train.seed)
    objective, params = build_objective(config, model, tokenizer, examples, init_key, step_key)
    host, count = jax.process_index(), jax.process_count()
    batches = text_training_batches(
        examples.made["train"],
        examples.lengths,
        train.batch_size // count,
        train.seed,
        config.data.threads,
        host,
        count,
    )
    optimizer = make_optimizer(optimizer_config, train.steps)
    position = open_position(workdir, params, optimizer, batches, mesh)
    del params
    as_it_came = {name: part for name, part in model.params.items() if name not in (*TRAINED, "classifier")}

    def keep(params: dict) -> None:
        if hosts.first():
            write_text_model(workdir / runs.TEXT_MODEL, model.config, as_it_came | params, tokenizer.json())

    named = {int(x.id): text.name for x, text in zip(examples.made["train"], examples.texts["train"], strict=True)}
    has_validation = "validation" in examples.made
    longest = max(examples.lengths[-1], *(len(x.tokens) for of_split in examples.made.values() for x in of_split))
    training = Training(
        objective,
        optimizer,
        batches,
        functools.partial(
            text_evaluation_batches, examples.made["validation"], examples.lengths, micro // count, host, count
        )
        if has_validation
        else None,
        step_key,
        badness=lambda metrics: metrics["loss"],
        keep=keep,
        names=lambda batch: [named[int(i)] for i in np.ravel(batch.id) if int(i) in named],
        title=f"pretrain {config.masking.strategy}",
        draw=drawing_texts(mesh, objective, longest) if isinstance(objective, MaskedLanguage) else None,
        measured=objective.without_dropout(),
    )
    ending = run_loop(position, training, train, mesh, workdir, watch, progress_bar)
    if hosts.first():
        hidden = hidden_words(objective, examples, step_key) | {"labels": list(corpus.labels)}
        write_whole(workdir / runs.HIDDEN_WORDS, (json.dumps(hidden, indent=1) + "\n").encode())
        summary = {"kind": "text", "dataset": corpus.name, "step": ending.step}
        if has_validation:
            best = ending.progress
            summary |= {"stopped_early": ending.stopped, "best_step": best.best_step, "best_loss": best.best_loss}
        write_whole(workdir / runs.SUMMARY, (json.dumps(summary) + "\n").encode())
    hosts.wait("the end of the run")
    return workdir


def settled(config: TextPretrainConfig) -> TextPretrainConfig:
    """The configuration with all named that stands for something else: words are compared by the model itself, by default."""
    looks = "weight" in find(config.masking.strategy).looks_at
    own = config.model.checkpoint if looks and not config.anchors.text_encoder else config.anchors.text_encoder
    terms = config.masking.entities
    # A name of their own is no path; a path means the same from every working directory.
    terms = terms if terms in ("", TAGS, ANCHORS) else str(Path(terms).resolve())
    classifier = _finetuned(config.masking.classifier)
    return with_fields(
        config, {"anchors.text_encoder": own, "masking.entities": terms, "masking.classifier": classifier}
    )


def _finetuned(folder: str) -> str:
    """The folder of a model, where that of a `mmdiff probe --mode finetune` is given: its first seed's."""
    models = sorted(map(str, Path(folder).glob("finetuned/*/seed_0/model"))) if folder else []
    if len(models) > 1:
        raise ConfigError(
            f"masking.classifier={folder!r} holds several finetuned models, give one: {', '.join(models)}"
        )
    return models[0] if models else folder


def inputs_digest(config: TextPretrainConfig, corpus: Corpus, model: PretrainedText) -> str:
    """Of what a run is started on, which may not change while it lasts: the corpus, the model, what else masks are made of."""
    read = [corpus.digest, model.digest]
    for path in map(Path, _more_inputs(config)):
        if path.is_dir():
            read.append(read_text_model(path).digest)
        elif path.is_file():
            read.append(hashlib.sha256(path.read_bytes()).hexdigest())
    return hashlib.sha256(" ".join(read).encode()).hexdigest()[:16]


def _more_inputs(config: TextPretrainConfig) -> list[str]:
    """The files and folders, beside the corpus and the model, of which nothing is kept with a run."""
    classifier = config.masking.classifier if "importance" in find(config.masking.strategy).looks_at else ""
    named = config.masking.entities if _needs_terms(config) else ""
    return [path for path in (classifier, named) if path and path not in (TAGS, ANCHORS)]


def _needs_terms(config: TextPretrainConfig) -> bool:
    return "entities" in find(config.masking.strategy).looks_at or config.objective.weighting != "equal"


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
    train, looks_at, needs_terms = texts["train"], find(config.masking.strategy).looks_at, _needs_terms(config)
    anchors, look = None, Annotations()
    terms = config.masking.entities or (TAGS if corpus.kind == "entities" else ANCHORS)
    if "weight" in looks_at or (needs_terms and terms == ANCHORS):
        encoder = load_text_encoder(config.anchors.text_encoder, config.anchors.pool) if "weight" in looks_at else None
        types = word_types(everything) if "weight" in looks_at else ()
        anchors = open_word_anchors(
            config.anchors, [text.text for text in train], types, kept_anchors, encoder, progress_bar
        )
        look = look._replace(weight=anchors.similarity if encoder else None)
    if needs_terms:
        look = look._replace(entities=open_entities(terms, corpus, anchors, progress_bar))
    if "ngrams" in looks_at:
        sentences = (words_of_text(text.text) for text in train)
        look = look._replace(ngrams=learn_collocations(sentences, config.collocations))
    if "attention" in looks_at:
        attention = token_attention(model.config, model.params["encoder"], tokenized, progress_bar)
        look = look._replace(attention=attention)
    if "importance" in looks_at:
        classifier = read_text_model(config.masking.classifier)
        rule, threshold = config.masking.selective_rule, config.masking.selective_threshold
        importance = token_importance(classifier, everything, tokenized, rule, threshold, progress_bar)
        look = look._replace(importance=importance)
    made = text_examples(everything, tokenized, look)
    counts = {split: len(of_split) for split, of_split in texts.items()}
    by_split = {"train": made[: counts["train"]]}
    if needs_terms:
        _tell_terms(terms, by_split["train"])
    if "validation" in texts:
        by_split["validation"] = made[counts["train"] :]
    lengths = bucket_lengths([len(x.tokens) for x in by_split["train"]], config.data.buckets, multiple=4)
    return Examples(texts, by_split, lengths, anchors)


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


def build_objective(
    config: TextPretrainConfig,
    model: PretrainedText,
    tokenizer: TextTokenizer,
    examples: Examples,
    init_key: jax.Array,
    step_key: jax.Array,
) -> tuple[MaskedLanguage | SoftMaskedGradients, dict]:
    """What a run trains, and the parameters that it starts from."""
    sizes = model.config._replace(dropout=config.objective.dropout, dtype=config.model.dtype, remat=config.model.remat)
    params = {name: jax.tree.map(jnp.asarray, model.params[name]) for name in TRAINED if name in model.params}
    if "mlm_head" not in params:
        log_line.warning(
            "RANDOM WEIGHTS: %s has no masked-language head, which begins untrained", config.model.checkpoint
        )
        params["mlm_head"] = init_text_params(sizes, init_key, parts=("mlm_head",))["mlm_head"]
    # Some models have more rows than their vocabulary has tokens.
    never_drawn = (*tokenizer.special_ids, *range(tokenizer.size, sizes.vocab_size))
    objective = MaskedLanguage(
        TextModel(sizes), config.masking, config.objective, tokenizer.mask_id, never_drawn, added=tokenizer.added
    )
    if config.objective.weighting != "equal":
        objective = dataclasses.replace(objective, weights=count_terms(objective, examples, step_key))
    if config.objective.soft_masked_gradients:
        few = text_evaluation_batches(
            examples.made["train"][: config.objective.importance_texts], examples.lengths, TEXTS_AT_ONCE, 0, 1
        )
        importance = head_importance(TextModel(sizes), params, few, step_key).tolist()
        asked = config.objective
        objective = SoftMaskedGradients(
            objective, tuple(map(tuple, importance)), asked.contrast_temperature, asked.soften
        )
    return objective, params


def drawn_masks(
    objective: MaskedLanguage, examples: Sequence[TextBatch], key: jax.Array
) -> Iterator[tuple[TextBatch, Bool[np.ndarray, " t"]]]:
    """Each text's example and its mask, the shortest first, as step 0 draws them."""
    place = {int(x.id): x for x in examples}
    # One length: another would be compiled for longer than it saves.
    lengths = bucket_lengths([len(x.tokens) for x in examples], buckets=1)
    draw = jax.jit(lambda batch, key: objective.hide(batch, key, jnp.zeros((), jnp.int32))[0].hidden)
    for batch in text_evaluation_batches(examples, lengths, TEXTS_AT_ONCE, 0, 1):
        real = np.asarray(batch.valid).any(axis=1)
        for text, mask in zip(np.asarray(batch.id)[real], np.asarray(draw(batch, key))[real], strict=True):
            example = place[int(text)]
            yield example, mask[: len(example.tokens)]


def count_terms(objective: MaskedLanguage, examples: Examples, key: jax.Array) -> TermWeights:
    """The weights of MSLM, from what masks hide of the training texts."""
    inside = hidden = 0
    for example, mask in drawn_masks(objective, examples.made["train"], key):
        inside += int((mask & (example.entity > 0)).sum())
        hidden += int(mask.sum())
    return term_weights(inside, hidden - inside)


def hidden_words(objective: MaskedLanguage | SoftMaskedGradients, examples: Examples, key: jax.Array) -> dict:
    """What a run's masks, at step 0, hide of the training texts.

    `occurs` says of the commonest words with a letter how often they occur, and `hidden` how often they were hidden, the
    most hidden first; of SAMPLES texts from all over the corpus `words` lists characters, whether the word was hidden, and its
    similarity to the anchors, up to the last word that the model reads.
    """
    language = getattr(objective, "language", objective)
    of_id = {int(x.id): text for x, text in zip(examples.made["train"], examples.texts["train"], strict=True)}
    apart = max(len(examples.texts["train"]) // SAMPLES, 1)
    shown = [text.name for text in examples.texts["train"][::apart][:SAMPLES]]
    hidden, occurs, samples = Counter(), Counter(), {}
    for example, mask in drawn_masks(language, examples.made["train"], key):
        text = of_id[int(example.id)]
        words, gone = words_of_text(text.text), set(example.word[mask].tolist())
        seen = set(example.word.tolist()) - {0}
        occurs.update(words[number - 1] for number in seen)
        hidden.update(words[number - 1] for number in gone)
        if text.name in shown:
            weight = {int(number): float(x) for number, x in zip(example.word, example.weight, strict=True)}
            read = word_spans(text.text)[: max(seen, default=0)]
            spans = [[*span, number in gone, weight.get(number, 0.0)] for number, span in enumerate(read, 1)]
            samples[text.name] = {"name": text.name, "text": text.text, "label": text.label, "words": spans}
    said = Counter({word: count for word, count in occurs.items() if any(letter.isalpha() for letter in word)})
    # Those that were never hidden too: without them, words would seem hidden more often than they were.
    commonest = sorted((word for word, _ in said.most_common(COMMONEST)), key=lambda word: (-hidden[word], word))
    return {
        "texts": len(examples.made["train"]),
        "hidden": {word: hidden[word] for word in commonest},
        "occurs": {word: occurs[word] for word in commonest},
        "words_hidden": hidden.total(),
        "words": occurs.total(),
        "samples": [samples[name] for name in shown if name in samples],
    }
