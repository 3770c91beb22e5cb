"""A configuration in, a run's folder with a continued model out: `mmdiff pretrain`."""

import functools
import json
import logging
from pathlib import Path

import jax

from mmdiff.data.loader import evaluation_batches, training_batches
from mmdiff.data.records import decode, digest, metadata, read_split, splits
from mmdiff.data.tokenizer import Tokenizer
from mmdiff.data.video_examples import BoxRule, DataConfig, video_example
from mmdiff.masking.anchors import label_weight
from mmdiff.masking.strategies import MaskingConfig
from mmdiff.models.pretrained import save_safetensors
from mmdiff.models.reserve import MerlotReserve, ReserveConfig
from mmdiff.objectives.masked_video import MaskedVideo
from mmdiff.training import runs
from mmdiff.training.config import PretrainConfig, in_steps, validate, with_absolute_paths
from mmdiff.training.loop import microbatch, open_position, run_loop
from mmdiff.training.optimizer import make_optimizer
from mmdiff.training.sharding import make_mesh
from mmdiff.whole_files import write_whole

log_line = logging.getLogger(__name__)


def box_rule(masking: MaskingConfig) -> BoxRule:
    """The boxes whose patches a masking configuration may hide."""
    weight = functools.partial(label_weight, anchors=tuple(masking.anchors))
    return BoxRule(weight, masking.where, masking.min_coverage, masking.fallback_without)


def run_keys(seed: int) -> tuple[jax.Array, jax.Array]:
    """What a run draws random weights from, and what its steps draw masks from."""
    init_key, step_key = jax.random.split(jax.random.key(seed))
    return init_key, step_key


def example_maker(data: DataConfig, masking: MaskingConfig, model: ReserveConfig, tokenizer: Tokenizer):
    """(record, window, rng) -> one example, for the loader."""
    rule = box_rule(masking)
    return lambda record, window, rng: video_example(
        record, window, data, model.image_grid, model.patch_size, rule, tokenizer, rng
    )


def pretrain(config: PretrainConfig, workdir: str | Path, progress_bar: bool = True) -> Path:
    """Continues pretraining for `train.steps` or `train.epochs`, or until the validation loss stops falling.

    A run that was killed goes on from its last checkpoint and ends with the parameters of an unbroken one, bit for
    bit on the same devices. `workdir` gets config.json, metrics.jsonl, tensorboard/, checkpoints/, tokenizer.json and,
    at the end, model.safetensors: the model with the lowest validation loss, or the last where there is no
    validation split.

    Raises ConfigError, RecordError, TokenizerError, CheckpointError or RunError, each with one sentence for the user.
    """
    validate(config)
    workdir = Path(workdir)
    if config.data.include_answers:
        log_line.warning("data.include_answers: questions are fed with their right answers; labels enter pretraining")
    kept = workdir / runs.TOKENIZER
    tokenizer_file = kept if kept.exists() else Path(config.data.tokenizer)
    tokenizer = Tokenizer(tokenizer_file)
    mesh = make_mesh(config.train.fsdp)
    host, hosts = jax.process_index(), jax.process_count()
    micro = microbatch(config.train, mesh)
    records = config.data.records
    has_validation = "validation" in splits(records)
    init_key, step_key = run_keys(config.train.seed)
    sizes, params = runs.build_model(config.model, tokenizer, init_key)
    make_example = example_maker(config.data, config.masking, sizes, tokenizer)
    source = read_split(records, "train")
    make_example(decode(source[0]), 0, None)  # records of another kind show now
    if len(source) < micro:
        log_line.warning(
            "%d training records and %d at once: a clip that comes twice is its own wrong answer", len(source), micro
        )
    runs.claim(workdir, with_absolute_paths(config), tokenizer_file, digest(records))

    train, optimizer_config = in_steps(config.train, config.optimizer, len(source))
    batches = training_batches(
        records, make_example, train.batch_size // hosts, train.seed, config.data.threads, host, hosts
    )
    optimizer = make_optimizer(optimizer_config, train.steps)
    position = open_position(workdir, params, optimizer, batches, mesh)
    del params
    ending = run_loop(
        position,
        MaskedVideo(MerlotReserve(sizes), config.masking, config.objective),
        optimizer,
        batches,
        functools.partial(evaluation_batches, records, "validation", make_example, micro // hosts, host, hosts)
        if has_validation
        else None,
        train,
        mesh,
        step_key,
        workdir,
        badness=lambda metrics: metrics["loss"],
        keep=functools.partial(save_safetensors, workdir / runs.MODEL),
        title=f"pretrain {config.masking.strategy}",
        progress_bar=progress_bar,
    )
    summary = {"dataset": metadata(config.data.records)["dataset"], "step": ending.step}
    if has_validation:
        progress = ending.progress
        summary |= {"stopped_early": ending.stopped, "best_step": progress.best_step, "best_loss": progress.best_loss}
    write_whole(workdir / runs.SUMMARY, (json.dumps(summary) + "\n").encode())
    return workdir
