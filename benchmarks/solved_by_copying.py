"""How fast each variant of the masked loss is solved, and how much of it copying solves without any learning.

    mmdiff preprocess VIDEOS RECORDS --segments 3
    python benchmarks/solved_by_copying.py RECORDS --tokenizer lowercase_encoder.json --json OUT.json

Every variant starts from the same small random model and sees the same clips. A third of the windows, drawn at random, is
held out; they may be of the same videos. Before and after training, on those held out and with fresh masks, three copiers
that learn nothing name the target nearest to what they copy:

    own         what the joint encoder is given at the hidden place itself
    neighbours  the mean of what it is given at the visible places around it, in its frame
    over time   the mean of what it is given at the same place in the window's other frames, where that is visible

`loss` is the masked loss as a share of that of guessing, `right` how often the model's own prediction is nearest to its
target; a place that `own` names needs no context to be told.
"""

import argparse
import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from mmdiff.data.loader import stack
from mmdiff.data.records import decode, read_split, splits
from mmdiff.data.tokenizer import Tokenizer
from mmdiff.data.video_examples import VideoBatch
from mmdiff.masking.anchors import open_anchors
from mmdiff.masking.strategies import with_strategy
from mmdiff.models.reserve import MerlotReserve, unit_normalize
from mmdiff.objectives.masked_video import MaskedVideo, compare
from mmdiff.training import runs
from mmdiff.training.config import PretrainConfig, set_field
from mmdiff.training.optimizer import make_optimizer
from mmdiff.training.pretrain import example_maker
from mmdiff.training.target_encoder import add_target_encoder, follow
from mmdiff.training.train_step import TrainState, make_train_step

POOLED, INPUT = {"masking.unit": "pooled"}, {"masking.hide_at": "input"}
STOP, HEAD = {"objective.stop_gradient_targets": True}, {"objective.predictor": "head"}
FRESH = {"masking.static": False}
VARIANTS = {
    "paper": {},
    "paper, stop gradient": STOP,
    "paper, moving target": {"objective.target_momentum": 0.99},
    "paper, head": HEAD,
    "pools at the output": POOLED,
    "patches at the input": INPUT,
    "pools at the input": INPUT | POOLED,
    "pools at the input, stop gradient": INPUT | POOLED | STOP,
    "pools at the input, moving target": INPUT | POOLED | {"objective.target_momentum": 0.99},
    "pools at the input, stop gradient, head": INPUT | POOLED | STOP | HEAD,
    "pools at the input, stop gradient, fresh masks": INPUT | POOLED | STOP | FRESH,
}
LOOKS = 6  # draws of masks for each measurement
CROPS = 4  # of every clip, to train on
SMOOTH = 10  # steps of which the mean loss is called the loss


def small(records: str, tokenizer: str, strategy: str, changes: dict) -> PretrainConfig:
    """A model that two cores train in a minute."""
    config = PretrainConfig()
    config.data = dataclasses.replace(config.data, records=records, tokenizer=tokenizer, segments=3, text_length=72)
    config.model = dataclasses.replace(
        config.model, rows=8, columns=14, dtype="float32", hidden_size=128, vision_layers=2, audio_layers=2
    )
    config.model = dataclasses.replace(config.model, joint_layers=2, span_layers=1)
    config.masking = with_strategy(config.masking, strategy)
    config.optimizer = dataclasses.replace(config.optimizer, learning_rate=5e-4, warmup_steps=20)
    for path, value in changes.items():
        set_field(config, path, value)
    return config


def nearest_is_right(
    said: Float[Array, "b m d"], target: Float[Array, "b m d"], hidden: Bool[Array, "b m"], heard: Bool[Array, "b m"]
) -> Float[Array, ""]:
    """The share of hidden places whose target is the nearest, among all hidden ones, to what is `said` there.

    Where nothing was `heard`, that is wrong.
    """
    x, y = (unit_normalize(rows.reshape(-1, rows.shape[-1])) for rows in (said, target))
    hidden, heard = hidden.reshape(-1), heard.reshape(-1)
    logits = jnp.where(hidden[None, :], x @ y.T, -jnp.inf)
    right = (jnp.argmax(logits, axis=1) == jnp.arange(len(hidden))) & hidden & heard
    return right.sum() / jnp.maximum(hidden.sum(), 1)


def copiers(
    pooled: Float[Array, "b m d"],
    target: Float[Array, "b m d"],
    hidden: Bool[Array, "b m"],
    valid: Bool[Array, "b m"],
    shape: tuple[int, int, int],
) -> dict[str, Float[Array, ""]]:
    """How often each copier is right; `shape` is frames, rows and columns of pools."""
    batch, width = pooled.shape[0], pooled.shape[-1]
    visible = (valid & ~hidden).reshape(batch, *shape, 1)
    seen = jnp.where(visible, pooled.reshape(batch, *shape, width), 0)

    def around(x):
        padded = jnp.pad(x, [(0, 0), (0, 0), (1, 1), (1, 1), (0, 0)])
        return sum(padded[:, :, i : i + shape[1], j : j + shape[2]] for i in range(3) for j in range(3)) - x

    def over_time(x):
        return x.sum(axis=1, keepdims=True) - x

    found = {"own": nearest_is_right(pooled, target, hidden, jnp.ones_like(hidden))}
    for name, gather in (("neighbours", around), ("over time", over_time)):
        count = gather(visible.astype(jnp.float32))
        said = (gather(seen) / jnp.maximum(count, 1)).reshape(pooled.shape)
        found[name] = nearest_is_right(said, target, hidden, (count > 0).reshape(hidden.shape))
    return found


def measure(objective: MaskedVideo, segments: int, key) -> Callable[[dict, VideoBatch], dict[str, float]]:
    """What to measure parameters on a batch with: means over LOOKS fresh masks."""
    c = objective.model.config
    fresh = dataclasses.replace(objective, masking=dataclasses.replace(objective.masking, static=False))
    shape = (segments, c.image_grid[0] // c.pooling, c.image_grid[1] // c.pooling)

    @jax.jit
    def look(params, batch, step):
        mask, prediction = fresh.predict(params, batch, key, step)
        audio, text = compare(prediction, params["contrastive_scales"], fresh.config)
        hidden = fresh.pools(mask.scored)
        guessing = jnp.log(jnp.maximum(hidden.sum(), 2))
        valid = fresh.pools(batch.patch_valid.reshape(mask.hidden.shape))
        copied = copiers(prediction.pooled, prediction.pooled_target, hidden, valid, shape)
        model = {
            "loss": (audio.masked_loss + text.masked_loss) / 2 / guessing,
            "right": (audio.accuracy + text.accuracy) / 2,
            "targets": hidden.sum() / objective.examples(batch, key, step),
        }
        return model | copied

    def over_looks(params, batch) -> dict[str, float]:
        found = [look(params, batch, jnp.asarray(10_000 + i)) for i in range(LOOKS)]
        return {name: float(np.mean([float(x[name]) for x in found])) for name in found[0]}

    return over_looks


def run(name: str, strategy: str, options: argparse.Namespace) -> dict:
    """One variant, from the common start."""
    config = small(options.records, options.tokenizer, strategy, VARIANTS[name])
    tokenizer = Tokenizer(config.data.tokenizer)
    sizes, params = runs.build_model(config.model, tokenizer, jax.random.key(0))
    params["contrastive_scales"] = jnp.full_like(params["contrastive_scales"], np.log(1 / 0.07))
    anchors = open_anchors(config.anchors, options.records, None)
    make = example_maker(config.data, config.masking, anchors, sizes, tokenizer)
    objective = MaskedVideo(MerlotReserve(sizes), config.masking, config.objective)
    optimizer = make_optimizer(config.optimizer, options.steps)
    if config.objective.target_momentum:
        params, optimizer = add_target_encoder(params), follow(optimizer, config.objective.target_momentum)
    records = [decode(x) for split in sorted(splits(options.records)) for x in read_split(options.records, split)]
    clips = [(record, window) for record in records for window in range(len(record.windows))]
    rng = np.random.default_rng(0)
    clips = [clips[i] for i in rng.permutation(len(clips))]
    assert len(clips) * 2 // 3 >= options.batch, "too few windows for a batch"
    kept, held_out = clips[: len(clips) * 2 // 3], clips[len(clips) * 2 // 3 :]

    def examples(chosen: list, draw=None) -> list[VideoBatch]:
        return [make(record, window, draw) for record, window in chosen]

    # Drawn once: decoding would take longer than so small a model's step.
    crops = [examples(kept, rng) for _ in range(CROPS)]

    def next_batch() -> VideoBatch:
        drawn = crops[rng.integers(CROPS)]
        return stack([drawn[i] for i in rng.permutation(len(kept))[: options.batch]])

    seen = {"train": stack(examples(kept[: len(held_out)])), "held out": stack(examples(held_out))}
    key = jax.random.key(1)
    look = measure(objective, config.data.segments, key)
    step = jax.jit(make_train_step(objective, optimizer, 1), donate_argnums=0)
    # Copies: the step takes its buffers.
    state = TrainState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.copy, params), optimizer.init(params))
    before = {kind: look(state.params, batch) for kind, batch in seen.items()}
    curve, began = [], time.monotonic()
    for _ in range(options.steps):
        state, metrics = step(state, next_batch(), key)
        guessing = 2 * np.log(options.batch * float(metrics["hidden_pools"]))
        curve.append(float(metrics["masked_loss"]) / guessing)
    return {
        "variant": name,
        "strategy": strategy,
        "seconds": time.monotonic() - began,
        "before": before,
        "after": {kind: look(state.params, batch) for kind, batch in seen.items()},
        "loss by step": curve,
    }


def row(result: dict) -> str:
    first, last = result["before"]["held out"], result["after"]["held out"]
    train = result["after"]["train"]
    smooth = np.convolve(result["loss by step"], np.full(SMOOTH, 1 / SMOOTH), mode="valid")
    half = next((SMOOTH + i for i, loss in enumerate(smooth) if loss < 0.5), None)
    cells = [
        result["strategy"],
        result["variant"],
        f"{last['targets']:.0f}",
        *(f"{100 * first[copier]:.0f} / {100 * last[copier]:.0f}" for copier in ("own", "neighbours", "over time")),
        "never" if half is None else str(half),
        f"{train['loss']:.2f} / {last['loss']:.2f}",
        f"{100 * train['right']:.0f} / {100 * last['right']:.0f}",
    ]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records")
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--strategies", default="random,difference_body")
    parser.add_argument("--variants", default=";".join(VARIANTS), help="separated by semicolons")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=6)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    print("Copiers: percent right on held-out clips, before / after training. Loss and right: train / held out.\n")
    print(
        "| strategy | variant | targets | own | neighbours | over time | half of guessing at step | loss | right, % |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    results = []
    for strategy in options.strategies.split(","):
        for name in options.variants.split(";"):
            results.append(run(name, strategy, options))
            print(row(results[-1]), flush=True)
            if options.json:
                options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
