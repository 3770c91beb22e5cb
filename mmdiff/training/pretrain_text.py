"""A configuration in, a run's folder with a continued BERT or RoBERTa out: `mmdiff pretrain` on text."""

import dataclasses
import functools
import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from mmdiff.data.text_batches import bucket_lengths, text_evaluation_batches, text_training_batches
from mmdiff.data.text_corpora import Corpus, read_corpus
from mmdiff.data.text_examples import TextBatch, words_of_text
from mmdiff.data.text_scores import score_classes
from mmdiff.data.text_tokens import TextTokenizer, word_spans
from mmdiff.masking.entities import ANCHORS, TAGS
from mmdiff.masking.selective import important_words
from mmdiff.masking.word_strategies import TokenMask, find
from mmdiff.models.pretrained_text import PretrainedText, read_text_model, write_text_model
from mmdiff.models.text_encoder import TextEncoderConfig, TextModel, init_text_params, parts_of
from mmdiff.objectives.end_task import EndTask
from mmdiff.objectives.masked_language import MaskedLanguage, TermWeights, term_weights
from mmdiff.objectives.soft_masked_gradients import SoftMaskedGradients, head_importance
from mmdiff.training import hosts, runs
from mmdiff.training.config import ConfigError, in_steps, validate, with_absolute_paths, with_fields
from mmdiff.training.drawing import drawing_texts
from mmdiff.training.loop import UNWATCHED, Training, Watch, microbatch, open_position, run_loop, weighted_mean
from mmdiff.training.optimizer import make_optimizer
from mmdiff.training.pretrain import keep_anchors, run_keys
from mmdiff.training.sharding import make_mesh
from mmdiff.training.text_config import TextPretrainConfig, within_positions
from mmdiff.training.text_inputs import Examples, make_examples, needs_terms, open_tokenizer
from mmdiff.training.text_presets import AUTHORS_ENCODER, OFFICIAL_STRATEGIES
from mmdiff.whole_files import write_whole

TRAINED = ("encoder", "mlm_head")  # parts of a model; others, such as a pooler, are kept as they came
TEXTS_AT_ONCE = 64  # whose masks are drawn together where no step is taken
COMMONEST = 2000  # words of which a run lists how often they were hidden
SAMPLES = 8  # texts that are kept with their masks

log_line = logging.getLogger(__name__)


def pretrain_text(
    config: TextPretrainConfig, workdir: str | Path, progress_bar: bool = True, watch: Watch = UNWATCHED
) -> Path:
    """Continues pretraining on texts, with the loop, the checkpoints and the promises of `pretrain`.

    `workdir` gets config.json, tokenizer.json, anchors.json, metrics.jsonl, tensorboard/, checkpoints/ and, at the end,
    hidden_words.json (what the run's masks hid of the training texts) and model/: a Hugging Face folder of the model with
    the lowest validation loss, or of the last where there is no validation split; with `selective` also marks/, a corpus
    whose words are tagged as the classifier marked them.

    Raises ConfigError, CorpusError, CheckpointError, TokenizerError, AnchorError, TfIcfError, StrategyError, RunError or
    HostsError, each with one sentence for the user.
    """
    with hosts.together():
        config = settled(config)
        validate(config)
        workdir = Path(workdir)
        model = read_text_model(config.model.checkpoint)
        config = within_positions(config, model.config.longest, config.model.checkpoint)
        tokenizer = open_tokenizer(config, model)
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
    end_task, chosen_by = isinstance(objective, EndTask), f"end_task_{config.objective.end_task_metric}"
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
    trained_parts = tuple(params)
    del params
    as_it_came = {name: part for name, part in model.params.items() if name not in (*trained_parts, "classifier")}

    def keep(params: dict) -> None:
        if hosts.first():
            head = {"labels": corpus.labels, "head": "sequence"} if end_task else {}
            write_text_model(workdir / runs.TEXT_MODEL, model.config, as_it_came | params, tokenizer.json(), **head)

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
        badness=lambda metrics: -metrics[chosen_by] if end_task else metrics["loss"],
        keep=keep,
        names=lambda batch: [named[int(i)] for i in np.ravel(batch.id) if int(i) in named],
        title=f"pretrain {config.masking.strategy}",
        draw=drawing_texts(mesh, objective, longest) if isinstance(objective, MaskedLanguage) else None,
        measured=objective.without_dropout(),
        combine=functools.partial(combined_with_labels, labels=corpus.labels) if end_task else None,
    )
    ending = run_loop(position, training, train, mesh, workdir, watch, progress_bar)
    if hosts.first():
        if examples.marked:
            _keep_marks(workdir / runs.MARKS, examples, config.masking.words)
        hidden = hidden_words(objective, examples, step_key) | {"labels": list(corpus.labels)}
        write_whole(workdir / runs.HIDDEN_WORDS, (json.dumps(hidden, indent=1) + "\n").encode())
        summary = {"kind": "text", "dataset": corpus.name, "step": ending.step}
        if examples.read_alike is not None:
            summary["words_compared_by_their_tokens"] = examples.read_alike
        if has_validation:
            best = ending.progress
            summary |= {"stopped_early": ending.stopped, "best_step": best.best_step}
            summary |= {f"best_{chosen_by}": -best.best_loss} if end_task else {"best_loss": best.best_loss}
        write_whole(workdir / runs.SUMMARY, (json.dumps(summary) + "\n").encode())
    hosts.wait("the end of the run")
    return workdir


def _keep_marks(folder: Path, examples: Examples, rule: str) -> None:
    """Writes the marks of Selective Masking as a corpus of tagged words; validation texts stand for a test split."""
    for split, name in (("train", "train"), ("validation", "devel"), ("validation", "test")):
        if split in examples.texts:
            lines = important_words(examples.texts[split], examples.made[split], rule)
            write_whole(folder / f"{name}.tsv", lines.encode())


def settled(config: TextPretrainConfig) -> TextPretrainConfig:
    """The configuration with all named that stands for something else: words are compared by the model itself, by default."""
    if config.preset == "official_code" and config.masking.strategy not in OFFICIAL_STRATEGIES:
        raise ConfigError(
            f"preset 'official_code' is what the authors' code does for {', '.join(OFFICIAL_STRATEGIES)}; for "
            f"masking.strategy={config.masking.strategy!r} leave it out"
        )
    looks = "weight" in find(config.masking.strategy).looks_at
    own = config.model.checkpoint if looks and not config.anchors.text_encoder else config.anchors.text_encoder
    if looks and own == AUTHORS_ENCODER and not Path(own).is_dir():
        raise ConfigError(
            f"the authors compare words by {own}, whatever model they train: give its folder as --config.anchors.text_encoder, "
            "or that of the model itself"
        )
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
    named = config.masking.entities if needs_terms(config) else ""
    return [path for path in (classifier, named) if path and path not in (TAGS, ANCHORS)]


def combined_with_labels(looked: list[tuple[dict, jax.Array]], labels: tuple[str, ...]) -> dict[str, float]:
    """Metrics of validation batches as one: means, and scores of all labels that were told of `EndTask`'s texts."""
    told = [hosts.whole_tree({name: found[name] for name in ("predicted", "label")}) for found, _ in looked]
    predicted, label = (np.concatenate([batch[name] for batch in told]) for name in ("predicted", "label"))
    scores = score_classes(label[label > 0] - 1, predicted[label > 0], labels)
    means = weighted_mean([({k: x for k, x in found.items() if x.ndim == 0}, weight) for found, weight in looked])
    return means | {"end_task_macro_f1": scores.macro_f1, "end_task_accuracy": scores.accuracy}


def build_objective(
    config: TextPretrainConfig,
    model: PretrainedText,
    tokenizer: TextTokenizer,
    examples: Examples,
    init_key: jax.Array,
    step_key: jax.Array,
) -> tuple[MaskedLanguage | SoftMaskedGradients | EndTask, dict]:
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
    if config.objective.end_task:
        params |= _classifier_params(model, sizes, examples.labels, init_key)
        classifier = TextModel(sizes, len(examples.labels), "sequence")
        return EndTask(objective, classifier, config.objective.end_task), params
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


def _classifier_params(
    model: PretrainedText, sizes: TextEncoderConfig, labels: tuple[str, ...], key: jax.Array
) -> dict:
    """The parts that tell labels, the pooler as it came where there is one."""
    drawn = init_text_params(sizes, key, parts_of(sizes, "sequence"), len(labels), "sequence")
    return {name: model.params.get(name, part) for name, part in drawn.items() if name == "pooler"} | {
        "classifier": drawn["classifier"]
    }


def drawn_masks(
    objective: MaskedLanguage, examples: Sequence[TextBatch], key: jax.Array
) -> Iterator[tuple[TextBatch, TokenMask]]:
    """Each text's example and its mask, the shortest first, as step 0 draws them."""
    place = {int(x.id): x for x in examples}
    # One length: another would be compiled for longer than it saves.
    lengths = bucket_lengths([len(x.tokens) for x in examples], buckets=1)
    draw = jax.jit(lambda batch, key: objective.hide(batch, key, jnp.zeros((), jnp.int32))[0])
    for batch in text_evaluation_batches(examples, lengths, TEXTS_AT_ONCE, 0, 1):
        real = np.asarray(batch.valid).any(axis=1)
        masks = jax.device_get(draw(batch, key))
        for row in np.flatnonzero(real):
            example = place[int(batch.id[row])]
            yield example, TokenMask(*(x[row, : len(example.tokens)] for x in masks))


def count_terms(objective: MaskedLanguage, examples: Examples, key: jax.Array) -> TermWeights:
    """The weights of MSLM, from what masks hide of the training texts."""
    inside = hidden = 0
    for _, mask in drawn_masks(objective, examples.made["train"], key):
        inside += int((mask.hidden & mask.term).sum())
        hidden += int(mask.hidden.sum())
    return term_weights(inside, hidden - inside)


def hidden_words(objective: MaskedLanguage | SoftMaskedGradients | EndTask, examples: Examples, key: jax.Array) -> dict:
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
        rule = language.masking.words
        words, gone = words_of_text(text.text, rule), set(example.word[mask.hidden].tolist())
        seen = set(example.word.tolist()) - {0}
        occurs.update(words[number - 1] for number in seen)
        hidden.update(words[number - 1] for number in gone)
        if text.name in shown:
            weight = {int(number): float(x) for number, x in zip(example.word, example.weight, strict=True)}
            read = word_spans(text.text, rule)[: max(seen, default=0)]
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
