"""A configuration in, a run's folder with a continued model out: `mmdiff pretrain`."""

import functools
import json
import logging
import math
from pathlib import Path

import jax
import jax.numpy as jnp
from tqdm import tqdm

from mmdiff.data.loader import evaluation_batches, training_batches
from mmdiff.data.records import decode, digest, read_split, splits
from mmdiff.data.tokenizer import Tokenizer
from mmdiff.data.video_examples import BoxRule, DataConfig, video_example
from mmdiff.masking.anchors import label_weight
from mmdiff.masking.strategies import MaskingConfig
from mmdiff.models.pretrained import save_safetensors
from mmdiff.models.reserve import MerlotReserve, ReserveConfig
from mmdiff.objectives.masked_video import MaskedVideo
from mmdiff.training import runs
from mmdiff.training.checkpoints import Checkpoints, Progress
from mmdiff.training.config import ConfigError, PretrainConfig, validate, with_absolute_paths
from mmdiff.training.metrics import MetricLog, StepClock
from mmdiff.training.optimizer import make_optimizer
from mmdiff.training.sharding import batch_sharding, make_mesh, parameter_sharding, put_batch
from mmdiff.training.train_step import TrainState, make_train_step
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
    """Continues pretraining until `train.steps` or until the validation loss stops falling.

    A run that was killed goes on from its last checkpoint and ends with the parameters of an unbroken one, bit for
    bit on the same devices. `workdir` gets config.json, metrics.jsonl, tensorboard/, checkpoints/, tokenizer.json and,
    at the end, model.safetensors: the model with the lowest validation loss, or the last where there is no
    validation split.

    Raises ConfigError, RecordError, TokenizerError, CheckpointError or RunError, each with one sentence for the user.
    """
    validate(config)
    workdir, train = Path(workdir), config.train
    if config.data.include_answers:
        log_line.warning("data.include_answers: questions are fed with their right answers; labels enter pretraining")
    kept = workdir / runs.TOKENIZER
    tokenizer_file = kept if kept.exists() else Path(config.data.tokenizer)
    tokenizer = Tokenizer(tokenizer_file)
    mesh = make_mesh(train.fsdp)
    host, hosts = jax.process_index(), jax.process_count()
    micro = train.batch_size // train.accumulation
    if micro % mesh.size:
        raise ConfigError(
            f"train.batch_size={train.batch_size} in {train.accumulation} microbatches gives {micro} examples at once, "
            f"which {mesh.size} devices cannot share: make it a multiple of {mesh.size * train.accumulation}"
        )
    has_validation = "validation" in splits(config.data.records)
    init_key, step_key = run_keys(train.seed)
    sizes, params = runs.build_model(config.model, tokenizer, init_key)
    make_example = example_maker(config.data, config.masking, sizes, tokenizer)
    source = read_split(config.data.records, "train")
    make_example(decode(source[0]), 0, None)  # records of another kind show now
    if len(source) < micro:
        log_line.warning(
            "%d training records and %d at once: a clip that comes twice is its own wrong answer", len(source), micro
        )
    runs.claim(workdir, with_absolute_paths(config), tokenizer_file, digest(config.data.records))

    batches = training_batches(
        config.data.records, make_example, train.batch_size // hosts, train.seed, config.data.threads, host, hosts
    )
    objective = MaskedVideo(MerlotReserve(sizes), config.masking, config.objective)
    optimizer = make_optimizer(config.optimizer, train.steps)

    def start(params) -> TrainState:
        return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))

    shapes = jax.eval_shape(start, params)
    shardings = parameter_sharding(mesh, shapes)
    checkpoints = Checkpoints(workdir / "checkpoints")
    if checkpoints.latest_step is None:
        state, progress = jax.jit(start, out_shardings=shardings)(params), Progress()
    else:
        state, progress = checkpoints.restore(shapes, shardings, batches)
        log_line.info("going on from step %d of %s", checkpoints.latest_step, workdir)
    del params

    train_step = jax.jit(
        make_train_step(objective, optimizer, train.accumulation, step_key),
        in_shardings=(shardings, batch_sharding(mesh)),
        out_shardings=(shardings, None),
        donate_argnums=0,
    )

    @jax.jit
    def evaluate_batch(params, batch):
        return objective(params, batch, step_key, jnp.zeros((), jnp.int32))[1], objective.examples(batch)

    def evaluate(params) -> dict[str, float]:
        split = evaluation_batches(config.data.records, "validation", make_example, micro // hosts, host, hosts)
        return weighted_mean([evaluate_batch(params, put_batch(mesh, batch)) for batch in split])

    step = int(state.step)
    log = MetricLog(workdir, resumed_at=step)
    clock = StepClock(step, train.batch_size)
    stopped = progress.should_stop(train.patience)
    pending = None  # metrics of the step before: read only once the next one is under way
    title = f"pretrain {config.masking.strategy}"
    with tqdm(total=train.steps, initial=step, desc=title, unit="step", disable=not progress_bar) as bar:
        while step < train.steps and not stopped:
            batch = put_batch(mesh, next(batches))
            if clock.flops_per_step is None:
                train_step = clock.compile(train_step, state, batch, train.accumulation)
            state, metrics = train_step(state, batch)
            step += 1
            bar.update()
            if pending:
                require_finite(log.write(*pending, clock.rates), step - 1)
            last = step == train.steps
            pending = (step, "train", metrics) if last or step % train.log_every == 0 else None
            if has_validation and (last or step % train.evaluate_every == 0):
                with clock.paused(state):
                    found = evaluate(state.params)
                require_finite(log.write(step, "validation", found), step)
                if progress.update(step, found["loss"], train.min_improvement):
                    save_safetensors(workdir / runs.MODEL, jax.device_get(state.params))
                stopped = progress.should_stop(train.patience)
            if last or stopped or step % train.save_every == 0:
                if pending:  # no line may be behind the checkpoint: a killed run would never write it
                    require_finite(log.write(*pending, clock.rates), step)
                    pending = None
                checkpoints.save(state, batches, progress)
    if not has_validation:
        save_safetensors(workdir / runs.MODEL, jax.device_get(state.params))
    if stopped:
        log_line.info("stopped at step %d: no improvement since step %d", step, progress.best_step)
    checkpoints.close()
    batches.close()
    log.close()
    summary = {"step": step, "stopped_early": stopped, "best_step": progress.best_step, "best_loss": progress.best_loss}
    write_whole(workdir / runs.SUMMARY, (json.dumps(summary if has_validation else {"step": step}) + "\n").encode())
    return workdir


def require_finite(metrics: dict[str, float], step: int) -> None:
    """Raises RunError where training has left the numbers: nothing after that means anything."""
    if not math.isfinite(metrics["loss"]):
        raise runs.RunError(
            f"the loss at step {step} is {metrics['loss']}: start again with a lower --config.optimizer.learning_rate, or "
            "with --config.model.dtype=float32"
        )


def weighted_mean(batches: list[tuple[dict, jax.Array]]) -> dict[str, float]:
    """Metrics of batches as one, each batch counting by its examples."""
    total = sum(int(count) for _, count in batches)
    names = batches[0][0]
    return {name: sum(float(metrics[name]) * int(count) for metrics, count in batches) / total for name in names}
