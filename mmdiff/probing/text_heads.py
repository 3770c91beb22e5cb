"""Features of units in, linear heads out: several seeds and learning rates trained at once."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from mmdiff.data.text_scores import score
from mmdiff.data.text_tasks import Task, TaskSplit
from mmdiff.probing.linear_probe import stopping
from mmdiff.probing.text_config import TextHeadsConfig
from mmdiff.probing.text_features import UnitFeatures
from mmdiff.probing.text_outcome import TextOutcome

SPREAD = 0.02  # of a head's first weights
SMALLEST_DEVIATION = 1e-6  # a feature that never changes stays as it is


def train_text_heads(task: Task, found: dict[str, UnitFeatures], config: TextHeadsConfig) -> TextOutcome:
    """Trains every seed with every learning rate, chooses a learning rate for all seeds and an epoch for each.

    What decides is the task's metric on the validation split; the test split is scored once all is chosen. All lanes run to
    the end together; a lane that early stopping would have ended is read up to there.
    """
    metric = config.metric_of(task.kind)
    history = _train_lanes(found, len(task.labels), config)
    validation = task.splits["validation"]

    def measured(told: Int[np.ndarray, " a"]) -> float:
        return getattr(score(task, validation, everywhere(validation, found["validation"], told)), metric)

    told = history["validation"]["predicted"]  # [seeds, rates, epochs, units]
    selected = np.array([[[measured(epoch) for epoch in lane] for lane in seed] for seed in told])
    ends = np.array([[stopping(lane, config.patience) for lane in seed] for seed in selected])
    best = np.take_along_axis(selected, ends[..., :1], axis=2)[..., 0]  # [seeds, rates]
    rate = int(best.mean(axis=0).argmax())
    chosen = ends[:, rate]
    test, seeds = task.splits["test"], range(config.seeds)
    test_told = history["test"]["predicted"][:, rate]

    def of_test(epochs: Int[np.ndarray, " k"]) -> Int[np.ndarray, "k u"]:
        return np.stack([everywhere(test, found["test"], test_told[seed, epochs[seed]]) for seed in seeds])

    lines = []
    for seed in seeds:
        for lane, (_, last) in enumerate(ends[seed]):
            for epoch in range(last + 1):
                line = {"step": epoch + 1, "seed": seed, "learning_rate": float(config.learning_rates[lane])}
                train = float(history["train"]["loss"][seed, lane, epoch])
                lines.append(line | {"split": "train", "loss": train})
                held = float(history["validation"]["loss"][seed, lane, epoch])
                lines.append(line | {"split": "validation", "loss": held, metric: float(selected[seed, lane, epoch])})
    return TextOutcome(
        predicted=of_test(chosen[:, 0]),
        last_predicted=of_test(chosen[:, 1]),
        epoch=[int(epoch) + 1 for epoch in chosen[:, 0]],
        learning_rate=float(config.learning_rates[rate]),
        selection=[float(x) for x in best[:, rate]],
        grid=[
            {"learning_rate": float(x), "selection_score": [float(share) for share in best[:, i]]}
            for i, x in enumerate(config.learning_rates)
        ],
        lines=lines,
    )


def everywhere(split: TaskSplit, found: UnitFeatures, told: Int[np.ndarray, " a"]) -> Int[np.ndarray, " u"]:
    """What was told of every unit of a split; -1 of those that were not asked."""
    out = np.full(len(split.gold), -1, np.int32)
    out[found.unit] = told
    return out


def _standards(features: Float[np.ndarray, "a d"]) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, " d"]]:
    """Mean of each feature, and its deviation."""
    mean, deviation = features.mean(axis=0, dtype=np.float64), features.std(axis=0, dtype=np.float64)
    return mean.astype(np.float32), np.where(deviation < SMALLEST_DEVIATION, 1, deviation).astype(np.float32)


def _train_lanes(
    found: dict[str, UnitFeatures], labels: int, config: TextHeadsConfig
) -> dict[str, dict[str, np.ndarray]]:
    """For each split the loss of each epoch, for those held out also what was told; arrays are [seeds, rates, epochs, ...]."""
    train = found["train"]
    count, width = train.features.shape
    batch_size = min(config.batch_size, count)
    steps = config.epochs * (count // batch_size)
    mean, deviation = _standards(train.features) if config.standardize else (np.float32(0), np.float32(1))
    small = jnp.int8 if labels < 128 else jnp.int32  # what is told is kept for each lane and epoch

    def loss(head, x: Float[Array, "n d"], label: Int[Array, " n"]) -> Float[Array, ""]:
        return optax.softmax_cross_entropy_with_integer_labels(x @ head["kernel"] + head["bias"], label).mean()

    @jax.jit
    def run(kernels, order_keys, learning_rates, sets, mean, deviation):
        def seen(features):
            return (features.astype(jnp.float32) - mean) / deviation

        def one_lane(kernel, order_key, learning_rate):
            decayed = optax.cosine_decay_schedule(1.0, steps)
            optimizer = optax.adamw(lambda step: learning_rate * decayed(step), weight_decay=config.decay)
            head = {"kernel": kernel, "bias": jnp.zeros(labels)}

            def step(state, index):
                head, opt_state = state
                features, label = sets["train"]
                value, gradient = jax.value_and_grad(loss)(head, seen(features[index]), label[index])
                updates, opt_state = optimizer.update(gradient, opt_state, head)
                return (optax.apply_updates(head, updates), opt_state), value

            def held_out(head, name):
                features, label = sets[name]
                x = seen(features)
                told = (x @ head["kernel"] + head["bias"]).argmax(axis=-1).astype(small)
                return {"loss": loss(head, x, label), "predicted": told}

            def epoch(state, key):
                order = jax.random.permutation(key, count)[: count // batch_size * batch_size]
                state, value = jax.lax.scan(step, state, order.reshape(-1, batch_size))
                measured = {name: held_out(state[0], name) for name in ("validation", "test")}
                return state, {"train": {"loss": value.mean()}} | measured

            keys = jax.random.split(order_key, config.epochs)
            return jax.lax.scan(epoch, (head, optimizer.init(head)), keys)[1]

        over_rates = jax.vmap(one_lane, in_axes=(None, None, 0))
        # One seed after another: what is told of many words by all lanes at once would fill a device.
        return jax.lax.map(lambda lane: over_rates(*lane, learning_rates), (kernels, order_keys))

    seeds = [jax.random.split(jax.random.key(seed)) for seed in range(config.seeds)]
    kernels = jnp.stack([SPREAD * jax.random.normal(keys[0], (width, labels)) for keys in seeds])
    order_keys = jnp.stack([keys[1] for keys in seeds])
    rates = jnp.asarray(config.learning_rates, jnp.float32)
    sets = {name: (jnp.asarray(part.features), jnp.asarray(part.label)) for name, part in found.items()}
    return jax.device_get(run(kernels, order_keys, rates, sets, mean, deviation))
