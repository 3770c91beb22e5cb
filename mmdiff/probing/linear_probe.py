"""Features of questions in, linear heads out: for several seeds and learning rates at once, from the cache alone."""

import dataclasses
import math
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from mmdiff.errors import UserError
from mmdiff.objectives.question_answering import (
    PREDICTIONS,
    QuestionConfig,
    answer_correct,
    answer_loss,
    answer_scores,
    first_projection,
    project,
)
from mmdiff.probing.features import QuestionFeatures
from mmdiff.probing.outcome import Outcome
from mmdiff.ranges import check_range

JOINT = PREDICTIONS.index("joint")


class SelectionError(UserError):
    """There are too few records to hold some of them out."""


@dataclasses.dataclass
class LinearProbeConfig:
    """How the heads are trained. The encoders are frozen: only a [d, 1] projection learns.

    `select_on` says on what the epoch and the learning rate are chosen. `validation` is the paper's and the official
    code's way: on the very questions whose accuracy is then reported, which is optimistic. `train` holds out
    `held_out` of the training records for it, all questions of a record together, and never looks at the validation
    questions before they are scored.
    """

    seeds: int = 5
    at_once: int = 4  # frames, pieces of audio and candidates that one device encodes at a time
    epochs: int = 20  # at most
    batch_size: int = 32
    learning_rates: tuple[float, ...] = (1e-4, 1e-3, 1e-2)  # the one with the best mean over seeds is reported
    patience: int = 5  # stop after the epoch that is this many + 1 in a row without improvement; 0 never stops
    select_on: str = "validation"
    held_out: float = 0.1
    decay: float = 0.0

    def validate(self) -> None:
        """Raises ValueError for a value that means nothing."""
        check_range(self, "probe", "seeds", "at_once", "epochs", "batch_size", least=1)
        check_range(self, "probe", "patience", "decay", least=0)
        check_range(self, "probe", "held_out", above=0, below=1)
        numbers = [rate for rate in self.learning_rates if isinstance(rate, int | float) and 0 < rate < math.inf]
        if not numbers or len(numbers) < len(self.learning_rates):
            raise ValueError(f"probe.learning_rates={self.learning_rates} must be positive numbers, at least one")
        if self.select_on not in ("validation", "train"):
            raise ValueError(f"probe.select_on={self.select_on!r} is unknown; known: validation, train")


def hold_out(features: QuestionFeatures, share: float) -> tuple[QuestionFeatures, QuestionFeatures]:
    """The questions of most records, and those of a share of the records, the same whatever their order.

    Raises SelectionError where one side would have none.
    """
    groups = sorted(set(features.group.tolist()), key=lambda group: (zlib.crc32(group.encode()), group))
    if len(groups) < 2:
        raise SelectionError(
            "probe.select_on=train holds training records out, and there is only one with questions: "
            "give --config.probe.select_on=validation"
        )
    held = np.isin(features.group, groups[: min(max(round(share * len(groups)), 1), len(groups) - 1)])
    return features.chosen(~held), features.chosen(held)


def stopping(accuracy: Float[np.ndarray, " e"], patience: int) -> tuple[int, int]:
    """The best epoch (of equals the first) and the last that ran, from 0: the rule of `training.checkpoints.Progress`."""
    best = 0
    for epoch in range(len(accuracy)):
        if accuracy[epoch] > accuracy[best]:
            best = epoch
        if 0 < patience < epoch - best:
            return best, epoch
    return best, len(accuracy) - 1


def train_heads(
    train: QuestionFeatures, validation: QuestionFeatures, config: LinearProbeConfig, questions: QuestionConfig
) -> Outcome:
    """Trains every seed with every learning rate, chooses a learning rate for all seeds and an epoch for each.

    All lanes run to the end together; a lane that early stopping would have ended is read up to there.
    """
    if config.select_on == "train":
        train, selection = hold_out(train, config.held_out)
        history = _train_lanes(train, {"validation": validation, "selection": selection}, config, questions)
    else:
        history = _train_lanes(train, {"validation": validation}, config, questions)
        history["selection"] = history["validation"]
    selected = history["selection"]["correct"][..., JOINT].mean(axis=-1)  # [seeds, rates, epochs]
    ends = np.array([[stopping(lane, config.patience) for lane in seed] for seed in selected])
    best = np.take_along_axis(selected, ends[..., :1], axis=2)[..., 0]  # [seeds, rates]
    rate = int(np.argmax(best.mean(axis=0)))
    chosen, last = ends[:, rate].T
    seeds = np.arange(config.seeds)
    correct = history["validation"]["correct"]
    return Outcome(
        id=validation.id,
        video=validation.group,
        answers=(validation.candidates >= 0).sum(axis=1),
        train_questions=len(train),
        correct=correct[seeds, rate, chosen],
        last_correct=correct[seeds, rate, last].mean(axis=1),
        epoch=[int(epoch) + 1 for epoch in chosen],
        learning_rate=float(config.learning_rates[rate]),
        grid=[
            {"learning_rate": float(x), "selection_accuracy": [float(share) for share in best[:, i]]}
            for i, x in enumerate(config.learning_rates)
        ],
        lines=_lines(history, ends, config),
    )


def _lines(history: dict, ends: np.ndarray, config: LinearProbeConfig) -> list[dict]:
    """What metrics.jsonl says of every epoch that ran."""
    shares = {"train": history["train"]["correct"], "validation": history["validation"]["correct"].mean(axis=-2)}
    lines = []
    for seed, lanes in enumerate(ends):
        for lane, (_, last) in enumerate(lanes):
            for epoch in range(last + 1):
                for split in ("train", "validation"):
                    place = (seed, lane, epoch)
                    line = {"step": epoch + 1, "split": split, "seed": seed}
                    line |= {"learning_rate": float(config.learning_rates[lane])}
                    line |= {"loss": float(history[split]["loss"][place])}
                    lines.append(line | dict(zip(PREDICTIONS, map(float, shares[split][place]), strict=True)))
    return lines


def _train_lanes(
    train: QuestionFeatures, held_out: dict[str, QuestionFeatures], config: LinearProbeConfig, questions: QuestionConfig
) -> dict[str, dict[str, np.ndarray]]:
    """For `train` the mean loss and shares right in each epoch; for each set held out its loss and what was right.

    Arrays are [seeds, rates, epochs, ...].
    """
    count = len(train)
    batch_size = min(config.batch_size, count)
    steps = config.epochs * (count // batch_size)
    rows = {}  # of the train split, which may stand for what is held out of it too: on the device once

    def on_device(features: QuestionFeatures) -> tuple[Array, Array, Array, Array]:
        if id(features.rows) not in rows:
            rows[id(features.rows)] = jnp.asarray(features.rows)
        offered = features.candidates >= 0
        places = np.where(offered, features.candidates, 0)
        return rows[id(features.rows)], *(jnp.asarray(x) for x in (places, features.label, offered))

    @jax.jit
    def run(kernels, order_keys, learning_rates, sets):
        def loss(kernel: Float[Array, "d 1"], index):
            rows, candidates, label, offered = sets["train"]
            scores = answer_scores(kernel, rows[candidates[index]])
            label, offered = label[index], offered[index]
            right = answer_correct(scores, label, offered).mean(axis=0)
            return answer_loss(scores, label, offered).sum(axis=1).mean(), right

        def score_all(kernel, name):
            rows, candidates, label, offered = sets[name]
            # All rows are projected once, however many questions offer them.
            scores = jnp.moveaxis(project(kernel, rows)[candidates], 1, 2)
            value = answer_loss(scores, label, offered).sum(axis=1).mean()
            return {"loss": value, "correct": answer_correct(scores, label, offered)}

        def one_lane(kernel, order_key, learning_rate):
            decayed = optax.cosine_decay_schedule(1.0, steps)
            optimizer = optax.adamw(lambda step: learning_rate * decayed(step), weight_decay=config.decay)

            def step(state, index):
                kernel, opt_state = state
                (value, right), gradient = jax.value_and_grad(loss, has_aux=True)(kernel, index)
                updates, opt_state = optimizer.update(gradient, opt_state, kernel)
                return (optax.apply_updates(kernel, updates), opt_state), (value, right)

            def epoch(state, key):
                order = jax.random.permutation(key, count)[: count // batch_size * batch_size]
                state, (value, right) = jax.lax.scan(step, state, order.reshape(-1, batch_size))
                seen = {"train": {"loss": value.mean(), "correct": right.mean(axis=0)}}
                return state, seen | {name: score_all(state[0], name) for name in held_out}

            keys = jax.random.split(order_key, config.epochs)
            return jax.lax.scan(epoch, (kernel, optimizer.init(kernel)), keys)[1]

        over_rates = jax.vmap(one_lane, in_axes=(None, None, 0))
        return jax.vmap(over_rates, in_axes=(0, 0, None))(kernels, order_keys, learning_rates)

    seeds = range(config.seeds)
    kernels = jnp.stack([jnp.asarray(first_projection(train.rows.shape[-1], seed, questions)) for seed in seeds])
    order_keys = jnp.stack([jax.random.key(seed) for seed in seeds])
    rates = jnp.asarray(config.learning_rates, jnp.float32)
    sets = {name: on_device(features) for name, features in ({"train": train} | held_out).items()}
    return jax.device_get(run(kernels, order_keys, rates, sets))
