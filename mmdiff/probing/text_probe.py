"""A text model and a labelled corpus in, how well the model tells its labels out: `mmdiff probe` for text."""

import dataclasses
import functools
import hashlib
import itertools
import json
import logging
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from mmdiff.data.text_batches import bucket_lengths
from mmdiff.data.text_corpora import Corpus, CorpusError, read_corpus
from mmdiff.data.text_tasks import HEAD_OF, Task, make_task
from mmdiff.data.text_tokens import TextTokenizer
from mmdiff.models.pretrained_text import CONFIG as MODEL_CONFIG
from mmdiff.models.pretrained_text import PretrainedText, read_text_model
from mmdiff.probing.config import MODES
from mmdiff.probing.features import peak_memory
from mmdiff.probing.probe import FEATURES, FINETUNED, claim, what_matters
from mmdiff.probing.text_config import TextProbeConfig
from mmdiff.probing.text_duplicates import seen_in
from mmdiff.probing.text_features import VERSION, compute_unit_features
from mmdiff.probing.text_finetune import FINETUNED_MODEL, finetune_text
from mmdiff.probing.text_heads import train_text_heads
from mmdiff.probing.text_outcome import TextOutcome, write_text_outcome
from mmdiff.training import hosts, runs
from mmdiff.training.config import ConfigError, to_json, validate
from mmdiff.training.text_config import within_positions

log_line = logging.getLogger(__name__)


def probe_text(config: TextProbeConfig, checkpoint: str | Path, workdir: str | Path, progress_bar: bool = True) -> dict:
    """Tells the labels of the test texts with heads, or a whole model, trained on the train texts.

    `checkpoint` is the folder of a run of `mmdiff pretrain`, or of a BERT or RoBERTa of Hugging Face's format. `workdir`
    gets features/ or finetuned/, metrics.jsonl, predictions.npz and, last, probe.json, which is also returned. What was
    killed goes on.

    Raises ConfigError, CorpusError, CheckpointError, TokenizerError or RunError, each one sentence for the user.
    """
    hosts.refuse_several("probing")
    checkpoint, workdir = Path(checkpoint), Path(workdir)
    if config.mode not in MODES:
        raise ConfigError(f"mode={config.mode!r} is unknown; known: {', '.join(MODES)}")
    validate(config)
    folder, run = model_folder(checkpoint)
    corpus = read_corpus(config.data.corpus)
    model = read_text_model(folder)
    config = within_positions(config, model.config.longest, folder)
    claim(workdir, checkpoint, config)
    sizes = model.config._replace(
        dtype=config.model.dtype, remat=config.model.remat, dropout=float(config.model.dropout)
    )
    tokenizer = TextTokenizer(model.tokenizer, config.data.longest)
    seen = seen_in(*([text.text for text in corpus.splits.get(split, [])] for split in ("train", "validation")))
    if config.probe.validation == "unseen" and seen.any():
        corpus = _without_validation(corpus, seen)
    task = make_task(corpus, tokenizer)
    about = {
        "checkpoint": str(checkpoint.resolve()),
        "model": model.name if run is None else run.get("model", {}).get("checkpoint", ""),
        "dataset": task.name,
        "mode": config.mode,
        "selection": "validation" if config.probe.validation == "all" else "validation, unseen in training",
        "pretraining": run,  # the configuration of the run, None for a model as it came
        "records": task.digest,
        "config": json.loads(to_json(config)),
        "feature_pass": None,
        "validation_duplicates": {"validation": len(seen), "in_train": int(seen.sum())},
    }
    if seen.any() and config.probe.validation == "all":
        log_line.warning(
            "%d of %d validation texts, which choose, are training texts, too: probe.validation='unseen' leaves them out",
            seen.sum(), len(seen),
        )  # fmt: skip
    of_both = (VERSION, model.digest, task.digest, config.data.longest, config.probe.validation)
    if config.mode == "linear":
        name = _fingerprint(*of_both, config.model.dtype, config.probe.pool)
        outcome, about["feature_pass"] = _linear(config, model, sizes, task, workdir / FEATURES / name, progress_bar)
    else:
        sections = (config.data, config.model, config.optimizer, config.train)
        settings = [what_matters(dataclasses.asdict(section) | {"corpus": ""}) for section in sections]
        finetuned = workdir / FINETUNED / _fingerprint(*of_both, config.probe.metric_of(task.kind), settings)
        outcome = finetune_text(config, model, sizes, task, tokenizer.json(), finetuned, progress_bar)
        log_line.info("finetuned models in %s", finetuned / "seed_*" / FINETUNED_MODEL)
    return write_text_outcome(workdir, task, outcome, config.probe.metric_of(task.kind), about)


def _without_validation(corpus: Corpus, left_out: Bool[np.ndarray, " n"]) -> Corpus:
    """The corpus without some validation texts. Raises CorpusError where none remains."""
    kept = list(itertools.compress(corpus.splits["validation"], ~left_out))
    if not kept:
        raise CorpusError(f"all validation texts of {corpus.name} are training texts, too: use probe.validation='all'")
    return corpus._replace(splits=corpus.splits | {"validation": kept})


def model_folder(checkpoint: Path) -> tuple[Path, dict | None]:
    """Where the model lies, and the configuration of the run that made it, if one did.

    Raises RunError where there is neither.
    """
    inside = checkpoint / runs.TEXT_MODEL
    if (inside / MODEL_CONFIG).is_file():
        if not (checkpoint / runs.SUMMARY).exists():
            log_line.warning("the run in %s has not finished: this is its best model so far", checkpoint)
        return inside, runs.read_config(checkpoint)
    if (checkpoint / MODEL_CONFIG).is_file() and "masking" in runs.read_config(checkpoint):
        raise runs.RunError(f"{checkpoint} holds no {runs.TEXT_MODEL}: the run there has not been evaluated yet")
    return checkpoint, None


def _linear(
    config: TextProbeConfig, model: PretrainedText, sizes, task: Task, folder: Path, progress_bar: bool
) -> tuple[TextOutcome, dict]:
    pool = config.probe.pool if HEAD_OF[task.kind] == "sequence" else None
    # The same for all splits: each length is a program to compile.
    of_texts = [len(example.tokens) for split in task.splits.values() for example in split.examples]
    compute = functools.partial(
        compute_unit_features, config=sizes, params=model.params, pool=pool, at_once=config.probe.at_once,
        lengths=bucket_lengths(of_texts, config.data.buckets), progress_bar=progress_bar,
    )  # fmt: skip
    found, took = {}, {}
    for name, split in task.splits.items():
        found[name], took[name] = compute(folder / f"{name}.npy", split)
    return train_text_heads(task, found, config.probe), took | {"peak_memory_bytes": peak_memory()}


def _fingerprint(*of) -> str:
    """A name for what is computed from these, that changes with any of them."""
    return hashlib.sha256(json.dumps(of).encode()).hexdigest()[:16]
