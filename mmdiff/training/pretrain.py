"""A configuration in, a run's folder with a continued model out: `mmdiff pretrain`."""

import dataclasses
import functools
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mmdiff.data.loader import evaluation_batches, training_batches
from mmdiff.data.records import RecordError, decode, digest, metadata, read_split, splits
from mmdiff.data.tokenizer import Tokenizer
from mmdiff.data.video_examples import BoxRule, DataConfig, VideoBatch, video_example
from mmdiff.data.window_names import window_names
from mmdiff.masking.anchors import Anchors, open_anchors
from mmdiff.masking.strategies import MaskingConfig, find
from mmdiff.models.pretrained import save_safetensors
from mmdiff.models.reserve import MerlotReserve, ReserveConfig
from mmdiff.objectives.masked_video import MaskedVideo
from mmdiff.training import hosts, runs
from mmdiff.training.box_budget import box_budget
from mmdiff.training.config import PretrainConfig, in_steps, validate, with_absolute_paths
from mmdiff.training.drawing import drawing
from mmdiff.training.loop import UNWATCHED, Training, Watch, microbatch, open_position, run_loop
from mmdiff.training.optimizer import make_optimizer
from mmdiff.training.sharding import make_mesh, put_batch, used_whole
from mmdiff.training.target_encoder import add_target_encoder, follow, without_target_encoder
from mmdiff.whole_files import write_whole

COUNTED = 1000  # windows whose targets are counted at the end of a run

log_line = logging.getLogger(__name__)


def run_keys(seed: int) -> tuple[jax.Array, jax.Array]:
    """What a run draws random weights from, and what its steps draw masks from."""
    init_key, step_key = jax.random.split(jax.random.key(seed))
    return init_key, step_key


def box_rule(masking: MaskingConfig, anchors: Callable[[str, str], float]) -> BoxRule:
    """Which boxes make patches that may be hidden."""
    return BoxRule(anchors, masking.where, masking.min_coverage, masking.fallback_without)


def example_maker(
    data: DataConfig,
    masking: MaskingConfig,
    anchors: Callable[[str, str], float],
    model: ReserveConfig,
    tokenizer: Tokenizer,
):
    """(record, window, rng) -> one example, for the loader; `anchors` gives the weight of a box's label and part."""
    rule = box_rule(masking, anchors)
    return lambda record, window, rng: video_example(
        record, window, data, model.image_grid, model.patch_size, rule, tokenizer, rng
    )


def check_records(config: PretrainConfig) -> None:
    """Raises RecordError where the records lack what the strategy looks at."""
    strategy = config.masking.strategy
    if "similarity" in find(strategy).looks_at and not metadata(config.data.records)["similarity"]:
        raise RecordError(
            f"{config.data.records} holds no similarities for the strategy {strategy}: add them with `mmdiff preprocess ... "
            "--clip MODEL`, which does not look for people again; runs on the records as they are must end before"
        )


def pretrain(config: PretrainConfig, workdir: str | Path, progress_bar: bool = True, watch: Watch = UNWATCHED) -> Path:
    """Continues pretraining for `train.steps` or `train.epochs`, or until the validation loss stops falling.

    A run that was killed goes on from its last checkpoint and ends with the parameters of an unbroken one, bit for
    bit on the same devices. `workdir` gets config.json, anchors.json, metrics.jsonl, tensorboard/, checkpoints/,
    tokenizer.json and, at the end, targets.json (what an evaluation hides of one window of each record) and
    model.safetensors: the model with the lowest validation loss, or the last where there is no validation split.

    On several hosts (`hosts.join`) all call this with the same configuration and one shared `workdir`, in which the first
    of them writes; the run is that of one host with as many devices.

    Raises ConfigError, RecordError, TokenizerError, CheckpointError, AnchorError, TfIcfError, StrategyError, RunError or
    HostsError, each with one sentence for the user.
    """
    with hosts.together():
        validate(config)
        check_records(config)
        workdir = Path(workdir)
        if config.data.include_answers:
            log_line.warning(
                "data.include_answers: questions are fed with their right answers; labels enter pretraining"
            )
        kept = workdir / runs.TOKENIZER
        tokenizer_file = kept if kept.exists() else Path(config.data.tokenizer)
        tokenizer = Tokenizer(tokenizer_file)
        mesh = make_mesh(config.train.fsdp)
        micro = microbatch(config.train, mesh)
        records = config.data.records
        has_validation = "validation" in splits(records)
        init_key, step_key = run_keys(config.train.seed)
        sizes, params = runs.build_model(config.model, tokenizer, init_key)
        if config.model.checkpoint:
            config = dataclasses.replace(config, model=runs.with_sizes_of(config.model, sizes))
        anchors = open_anchors(
            config.anchors,
            records,
            workdir / runs.ANCHORS,
            where=config.masking.where if "boxes" in find(config.masking.strategy).looks_at else None,
            progress_bar=progress_bar,
        )
        make_example = example_maker(config.data, config.masking, anchors, sizes, tokenizer)
        source = read_split(records, "train")
        make_example(decode(source[0]), 0, None)  # records of another kind show now
        budget = None
        if hosts.first() and "boxes" in find(config.masking.strategy).looks_at:
            rule = box_rule(config.masking, anchors)
            budget = box_budget(source, config.data.segments, config.masking, rule, sizes)
        if len(source) < micro:
            log_line.warning(
                "%d training records and %d at once: a clip that comes twice is its own wrong answer",
                len(source),
                micro,
            )
        vocabulary = tokenizer_file.read_bytes()
        claim = functools.partial(
            runs.claim, workdir, with_absolute_paths(config), vocabulary, digest(records), records
        )
        if hosts.first():
            claim()
            keep_anchors(anchors, workdir)
            if budget:
                budget.tell(config.masking.strategy)
            if not config.model.checkpoint:
                log_line.warning(
                    "RANDOM WEIGHTS: model.checkpoint is empty, so that the model, %d wide, began untrained; give a released "
                    "or continued one as --config.model.checkpoint",
                    sizes.hidden_size,
                )
    with hosts.together():
        if not hosts.first():
            hosts.await_file(workdir / runs.CONFIG)
            claim()

    train, optimizer_config = in_steps(config.train, config.optimizer, len(source))
    host, count = jax.process_index(), jax.process_count()
    batches = training_batches(
        records, make_example, train.batch_size // count, train.seed, config.data.threads, host, count
    )
    optimizer = make_optimizer(optimizer_config, train.steps)
    if config.objective.target_momentum:
        params, optimizer = add_target_encoder(params), follow(optimizer, config.objective.target_momentum)
    position = open_position(workdir, params, optimizer, batches, mesh)
    del params

    def keep(params) -> None:
        if hosts.first():
            save_safetensors(workdir / runs.MODEL, without_target_encoder(params))

    objective = MaskedVideo(MerlotReserve(sizes), config.masking, config.objective)
    look = functools.partial(
        evaluation_batches, records, make_example=make_example, batch_size=micro // count, host=host, hosts=count
    )
    training = Training(
        objective,
        optimizer,
        batches,
        functools.partial(look, "validation") if has_validation else None,
        step_key,
        badness=lambda metrics: metrics["loss"],
        keep=keep,
        names=functools.partial(window_names, records),
        title=f"pretrain {config.masking.strategy}",
        draw=drawing(mesh, objective.draw) if objective.draws_apart else None,
        replayable=True,
    )
    ending = run_loop(position, training, train, mesh, workdir, watch, progress_bar)
    split = "validation" if has_validation else "train"
    counted = count_targets(objective, look(split), step_key, ending.params, mesh)
    if hosts.first():
        keep_anchors(anchors, workdir)  # with the labels that records of older versions do not list
        masked = {"split": split, **{name: getattr(config.masking, name) for name in ("ratio", "unit", "hide_at")}}
        write_whole(workdir / runs.TARGETS, (json.dumps(masked | counted) + "\n").encode())
        summary = {"dataset": metadata(config.data.records)["dataset"], "step": ending.step}
        if budget:
            summary[runs.BOX_BUDGET] = budget._asdict()
        if has_validation:
            best = ending.progress
            summary |= {"stopped_early": ending.stopped, "best_step": best.best_step, "best_loss": best.best_loss}
        write_whole(workdir / runs.SUMMARY, (json.dumps(summary) + "\n").encode())
    hosts.wait("the end of the run")  # What is written takes longer than a host that leaves waits for the others.
    return workdir


def keep_anchors(anchors: Anchors, workdir: Path) -> None:
    """Writes what a run that goes on need not search for again."""
    write_whole(workdir / runs.ANCHORS, (json.dumps(anchors.to_json(), indent=2) + "\n").encode())


def count_targets(
    objective: MaskedVideo, batches: Iterator[VideoBatch], key: jax.Array, params: dict, mesh: Mesh
) -> dict[str, list]:
    """What an evaluation hides of each window, by name: at most COUNTED windows of this and all hosts."""
    count = jax.jit(
        lambda params, batch: objective.count(batch, key, jnp.zeros((), jnp.int32), used_whole(mesh, params))
    )
    found: dict[str, list] = {"window": []}
    for batch in batches:
        counts = hosts.whole_tree(count(params, put_batch(mesh, batch)))
        real, ids = hosts.joined((batch.frame_valid.any(axis=1), batch.id))
        for name, values in (counts | {"window": ids}).items():
            found.setdefault(name, []).extend(values[real].tolist())
        if len(found["window"]) >= COUNTED:
            break
    return {name: values[:COUNTED] for name, values in found.items()}
