"""Features of questions in, the accuracy of linear heads, one per seed, out: `mmdiff probe`."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from mmdiff.data.tokenizer import Tokenizer
from mmdiff.data.video_examples import DataConfig
from mmdiff.models.reserve import MerlotReserve
from mmdiff.objectives.question_answering import answer_correct, answer_loss, answer_scores
from mmdiff.probing.features import QuestionFeatures, compute_features, fingerprint
from mmdiff.training import runs
from mmdiff.training.config import ConfigError, ModelConfig, validate
from mmdiff.whole_files import write_whole

PREDICTIONS = ("audio", "text", "joint")
RESULT, FEATURES = "probe.json", "features"


@dataclasses.dataclass
class LinearProbeConfig:
    """How the heads are trained. The encoders are frozen: only a [d, 1] projection learns."""

    seeds: int = 5
    epochs: int = 50
    batch_size: int = 32
    learning_rate: float = 1e-3
    decay: float = 0.0

    def validate(self) -> None:
        """Raises ValueError for a value that means nothing."""
        for name in ("seeds", "epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"probe.{name}={getattr(self, name)} must be at least 1")


@dataclasses.dataclass
class ProbeConfig:
    """One probe. `data` and `model` are read for a checkpoint that is a file; a run's folder knows its own."""

    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    probe: LinearProbeConfig = dataclasses.field(default_factory=LinearProbeConfig)


def probe(config: ProbeConfig, checkpoint: str | Path, workdir: str | Path, progress_bar: bool = True) -> dict:
    """Trains `probe.seeds` linear heads on the train split and scores them on the validation split.

    `checkpoint` is the folder of a run of `mmdiff pretrain`, whose model and data settings are then used (another
    `data.records` may be given), or a checkpoint file. `workdir` gets the features and `probe.json`, which is also
    returned: accuracies of the last epoch from audio, text and both, per seed.

    Raises ConfigError, CheckpointError, RecordError, TokenizerError or RunError, each one sentence for the user.
    """
    checkpoint, workdir = Path(checkpoint), Path(workdir)
    data, model_config = dataclasses.replace(config.data), dataclasses.replace(config.model)
    strategy = None
    if checkpoint.is_dir():
        if dataclasses.replace(config.data, records="") != DataConfig() or config.model != ModelConfig():
            raise ConfigError(f"the run in {checkpoint} knows its data and model: only data.records can be changed")
        stored = runs.read_config(checkpoint)
        data = DataConfig(**stored["data"] | {"tokenizer": str(checkpoint / runs.TOKENIZER)})
        data.records = config.data.records or data.records
        model_config = ModelConfig(**stored["model"] | {"remat": ()})  # nothing is trained through the encoders
        strategy = stored["masking"]["strategy"]
    model_config.checkpoint = str(checkpoint)
    validate(ProbeConfig(data, model_config, config.probe))
    _claim(workdir, checkpoint)
    tokenizer = Tokenizer(data.tokenizer)
    sizes, params = runs.build_model(model_config, tokenizer, jax.random.key(0))
    file = runs.checkpoint_file(checkpoint)
    name = fingerprint(file, data.records, Path(data.tokenizer), data, sizes)
    train, validation = (
        compute_features(workdir / FEATURES, name, split, MerlotReserve(sizes), params, data, tokenizer, progress_bar)
        for split in ("train", "validation")
    )
    accuracy = train_heads(train, validation, config.probe)
    result = {
        "checkpoint": str(checkpoint.resolve()),
        "strategy": strategy,
        "mode": "linear",
        "questions": len(validation.label),
        "train_questions": len(train.label),
        "chance": float((1 / validation.offered.sum(axis=1)).mean()),
        "accuracy": {name: [float(x) for x in accuracy[:, i]] for i, name in enumerate(PREDICTIONS)},
        "features": name,
        "config": dataclasses.asdict(config.probe),
    }
    write_whole(workdir / RESULT, (json.dumps(result, indent=2) + "\n").encode())
    return result


def _claim(workdir: Path, checkpoint: Path) -> None:
    """Raises RunError where the folder holds anything but an earlier probe of this checkpoint."""
    if (workdir / RESULT).exists():
        before = json.loads((workdir / RESULT).read_text(encoding="utf-8"))["checkpoint"]
        if before != str(checkpoint.resolve()):
            raise runs.RunError(f"{workdir} holds a probe of {before}: give another --workdir")
    elif workdir.exists() and {path.name for path in workdir.iterdir()} - {FEATURES}:
        raise runs.RunError(f"{workdir} is not empty and holds no probe: give a new folder as --workdir")


def train_heads(
    train: QuestionFeatures, validation: QuestionFeatures, config: LinearProbeConfig
) -> Float[np.ndarray, "seeds 3"]:
    """Accuracy on the validation questions after the last epoch, for heads that differ in start and order."""
    count = len(train.label)
    batch_size = min(config.batch_size, count)
    steps = config.epochs * (count // batch_size)
    optimizer = optax.adamw(optax.cosine_decay_schedule(config.learning_rate, steps), weight_decay=config.decay)
    arrays = tuple(jnp.asarray(x) for x in (train.features, train.label, train.offered))
    held_out = tuple(jnp.asarray(x) for x in (validation.features, validation.label, validation.offered))

    def loss(kernel: Float[Array, "d 1"], features, label, offered):
        return answer_loss(answer_scores(kernel, features), label, offered).sum(axis=1).mean()

    def one_seed(key) -> Float[Array, " 3"]:
        start_key, order_key = jax.random.split(key)
        kernel = 0.01 * jax.random.normal(start_key, (train.features.shape[-1], 1))

        def step(state, index):
            kernel, opt_state = state
            gradient = jax.grad(loss)(kernel, *(x[index] for x in arrays))
            updates, opt_state = optimizer.update(gradient, opt_state, kernel)
            return (optax.apply_updates(kernel, updates), opt_state), None

        def epoch(state, key):
            order = jax.random.permutation(key, count)[: count // batch_size * batch_size]
            return jax.lax.scan(step, state, order.reshape(-1, batch_size))

        keys = jax.random.split(order_key, config.epochs)
        (kernel, _), _ = jax.lax.scan(epoch, (kernel, optimizer.init(kernel)), keys)
        features, label, offered = held_out
        return answer_correct(answer_scores(kernel, features), label, offered).mean(axis=0)

    keys = jax.random.split(jax.random.key(0), config.seeds)
    return np.asarray(jax.jit(jax.vmap(one_seed))(keys))
