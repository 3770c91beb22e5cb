"""A checkpoint and records with questions in, how well the model answers them out: `mmdiff probe`."""

import dataclasses
import functools
import json
import logging
from pathlib import Path

import jax

from mmdiff.data.records import digest, metadata
from mmdiff.data.tokenizer import Tokenizer
from mmdiff.data.video_examples import DataConfig
from mmdiff.models.reserve import MerlotReserve
from mmdiff.probing.config import MODES, ProbeConfig
from mmdiff.probing.encoder import Encoder
from mmdiff.probing.features import compute_features, fingerprint, peak_memory, what_features_depend_on
from mmdiff.probing.finetune import finetune
from mmdiff.probing.linear_probe import train_heads
from mmdiff.probing.outcome import METRICS, QUESTIONS, RESULT, write_outcome
from mmdiff.training import hosts, runs
from mmdiff.training.config import ConfigError, ModelConfig, differences, to_json, validate
from mmdiff.whole_files import UNFINISHED

log_line = logging.getLogger(__name__)

FEATURES, FINETUNED = "features", "finetuned"
# How a question is put is the probe's to say; everything else of a run's data is the run's.
IRRELEVANT = ("records", "tokenizer", "threads", "log_every", "save_every", "seed")  # the probe has seeds of its own
ASKING = ("clip_question_span", "augment", "threads")


def probe(config: ProbeConfig, checkpoint: str | Path, workdir: str | Path, progress_bar: bool = True) -> dict:
    """Answers the validation questions with heads, or a whole model, trained on the train questions.

    `checkpoint` is the folder of a run of `mmdiff pretrain`, whose model and data settings are then used (another
    `data.records` may be given), or a checkpoint file. `workdir` gets features/ or finetuned/, metrics.jsonl,
    predictions.npz and, last, probe.json, which is also returned. What was killed goes on.

    Raises ConfigError, CheckpointError, RecordError, TokenizerError or RunError, each one sentence for the user.
    """
    hosts.refuse_several("probing")
    checkpoint, workdir = Path(checkpoint), Path(workdir)
    config, masking = _settings(config, checkpoint)
    tokenizer = Tokenizer(config.data.tokenizer)
    name = functools.partial(
        fingerprint, runs.checkpoint_file(checkpoint), config.data.records, Path(config.data.tokenizer)
    )
    before = name()
    sizes, params = runs.build_model(config.model, tokenizer, jax.random.key(0))
    if name() != before:  # Features must not be filed under the name of other weights.
        raise runs.RunError(f"{checkpoint} changed while it was read: wait until its run has ended, or start again")
    config = dataclasses.replace(config, model=runs.with_sizes_of(config.model, sizes))
    claim(workdir, checkpoint, config)
    strategy = masking["strategy"] if masking else None
    records = metadata(config.data.records)
    about = {
        "checkpoint": str(checkpoint.resolve()),
        "dataset": records["dataset"],
        "protocol": records["protocol"],
        "strategy": strategy,
        "where": masking["where"] if strategy == "difference" else None,  # no other one hides boxes
        "mode": config.mode,
        "coverage": records["coverage"],
        "selection": config.probe.select_on,
        "features": None,
        "feature_pass": None,
        "records": digest(config.data.records),
        "config": json.loads(to_json(config)),
    }
    if config.mode == "linear":
        about["features"] = name(*what_features_depend_on(config.data, config.questions, sizes))
        folder = workdir / FEATURES / about["features"]
        encoder = Encoder(MerlotReserve(sizes), params, jax.local_devices(), config.probe.at_once)
        found, took = {}, {}
        for split in ("validation", "train"):  # the short one first: what it lacks shows before the long work
            found[split], took[split] = compute_features(
                folder, split, encoder, config.data, config.questions, tokenizer, progress_bar
            )
        about["feature_pass"] = took | {"peak_memory_bytes": peak_memory()}
        outcome = train_heads(found["train"], found["validation"], config.probe, config.questions)
    else:
        sections = (config.data, config.questions, config.optimizer, config.train)
        settings = [what_matters(dataclasses.asdict(section)) for section in sections]
        folder = workdir / FINETUNED / name(*settings, dataclasses.astuple(dataclasses.replace(sizes, remat=())))
        outcome = finetune(config, sizes, params, tokenizer, folder, progress_bar)
    return write_outcome(workdir, outcome, about)


def what_matters(section: dict) -> dict:
    """A section of a configuration without what decides no result; what files hold is compared apart."""
    return {name: value for name, value in section.items() if name not in IRRELEVANT}


def _settings(config: ProbeConfig, checkpoint: Path) -> tuple[ProbeConfig, dict | None]:
    """The whole configuration, with the data and model of the run where the checkpoint is one; and its masking."""
    if config.mode not in MODES:
        raise ConfigError(f"mode={config.mode!r} is unknown; known: {', '.join(MODES)}")
    if config.mode == "finetune" and config.probe.select_on != "validation":
        raise ConfigError("probe.select_on=train is for linear heads: finetuning chooses its epoch on validation")
    data, model, masking = dataclasses.replace(config.data), dataclasses.replace(config.model), None
    if checkpoint.is_dir():
        default, asking = DataConfig(), {name: getattr(data, name) for name in ASKING}
        rest = dataclasses.replace(data, records="", **{name: getattr(default, name) for name in ASKING})
        if rest != default or dataclasses.replace(model, remat=()) != ModelConfig():
            raise ConfigError(
                f"the run in {checkpoint} knows its data and model: only data.records can be changed, and "
                f"{', '.join(f'data.{name}' for name in ASKING)} and model.remat"
            )
        stored = runs.read_config(checkpoint)
        try:
            own = {"tokenizer": str(checkpoint / runs.TOKENIZER), "records": data.records or stored["data"]["records"]}
            data = DataConfig(**stored["data"] | own | asking)
            model = ModelConfig(**stored["model"] | {"remat": model.remat})
            masking = stored["masking"]
        except (KeyError, TypeError) as error:
            raise runs.RunError(f"{checkpoint / runs.CONFIG} is not that of a run of this mmdiff ({error})") from None
    model.checkpoint = str(checkpoint)
    settled = dataclasses.replace(config, data=data, model=model)
    validate(settled)
    return settled, masking


def claim(workdir: Path, checkpoint: Path, config) -> None:
    """Warns where an earlier probe was made otherwise. Raises RunError where the folder holds anything but an earlier probe, of this kind, of this checkpoint."""
    if (workdir / RESULT).exists():
        try:
            before = json.loads((workdir / RESULT).read_text(encoding="utf-8"))
            held, stored = (before["checkpoint"], before["mode"]), before["config"]
        except (ValueError, KeyError, TypeError):
            raise runs.RunError(
                f"{workdir / RESULT} is of an older mmdiff or damaged: give another --workdir"
            ) from None
        if held != (str(checkpoint.resolve()), config.mode):
            raise runs.RunError(f"{workdir} holds a probe of {held[0]} ({held[1]}): give another --workdir")
        if changed := differences(stored, config):
            log_line.warning("the probe in %s is made anew: %s", workdir, "; ".join(changed[:5]))
    elif workdir.exists():
        names = {path.name for path in workdir.iterdir() if not path.name.endswith(UNFINISHED)}
        if names - {FEATURES, FINETUNED, METRICS, QUESTIONS}:
            raise runs.RunError(f"{workdir} is not empty and holds no probe: give a new folder as --workdir")
