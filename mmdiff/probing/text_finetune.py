"""A text model and a task in, what it tells of the test texts once every weight was trained out: the loop, once a seed."""

import contextlib
import dataclasses
import functools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.compilation_cache import compilation_cache
from jaxtyping import Array, Int

from mmdiff.data.text_batches import bucket_lengths, text_evaluation_batches, text_training_batches
from mmdiff.data.text_scores import score
from mmdiff.data.text_tasks import HEAD_OF, AskedText, Task, TaskSplit
from mmdiff.models.pretrained_text import PretrainedText, read_text_model, write_text_model
from mmdiff.models.text_encoder import TextEncoderConfig, TextModel, init_text_params, parts_of
from mmdiff.objectives.text_classification import TextClassification
from mmdiff.probing.text_config import TextProbeConfig
from mmdiff.probing.text_outcome import TextOutcome
from mmdiff.training import runs
from mmdiff.training.config import ConfigError, epoch_steps, in_steps
from mmdiff.training.loop import Training, microbatch, open_position, run_loop, weighted_mean
from mmdiff.training.metrics import read_metrics
from mmdiff.training.optimizer import make_optimizer
from mmdiff.training.sharding import make_mesh, put_batch
from mmdiff.whole_files import whole, write_whole

PREDICTED, FINETUNED_MODEL = "predicted.npy", "model"


def first_params(
    model: PretrainedText, config: TextEncoderConfig, task: Task, seed: int, trained_head: bool = False
) -> dict:
    """The encoder, and the pooler if there is one, as they are; the rest drawn from the seed.

    With `trained_head` the classifier is the model's own, too. Raises ConfigError where it has none for these labels.
    """
    head = HEAD_OF[task.kind]
    drawn = init_text_params(config, jax.random.key(seed), parts_of(config, head), len(task.labels), head)
    if trained_head and (model.head, tuple(model.labels)) != (head, tuple(task.labels)):
        raise ConfigError(
            f"model.head='trained' needs a classifier of {', '.join(task.labels)}, and {model.name} has "
            f"{'one of ' + ', '.join(model.labels) if model.labels else 'none'}: a run of `mmdiff pretrain` with "
            "objective.end_task makes one; or use --config.preset=standard, which begins with a fresh one"
        )
    as_it_is = ("encoder", "pooler", "classifier") if trained_head else ("encoder", "pooler")
    return drawn | {name: model.params[name] for name in as_it_is if name in drawn and name in model.params}


def finetune_text(
    settings: TextProbeConfig,
    model: PretrainedText,
    config: TextEncoderConfig,
    task: Task,
    tokenizer_json: str,
    folder: Path,
    progress_bar: bool = True,
) -> TextOutcome:
    """Trains all weights on the train texts, keeps the epoch with the best metric on the validation ones.

    Args:
      settings: `data`, `optimizer` and `train` say how, `probe.seeds` how often.
      model: where every seed starts.
      config: of the model as it is trained.
      task: the texts.
      tokenizer_json: kept beside the finetuned models.
      folder: gets a folder for each seed, with the finetuned model in the format of Hugging Face; a run that was killed goes
        on there, and a seed that is done stays done.
      progress_bar: whether there is one.

    Raises ConfigError or RunError, each one sentence for the user.
    """
    mesh = make_mesh(settings.train.fsdp)
    micro = microbatch(settings.train, mesh)
    metric, head = settings.probe.metric_of(task.kind), HEAD_OF[task.kind]
    train_split, validation_split = task.splits["train"], task.splits["validation"]
    epoch = epoch_steps(settings.train, len(train_split))
    schedule, optimizer_config = in_steps(settings.train, settings.optimizer, len(train_split))
    schedule.log_every = min(schedule.log_every, epoch)  # a line of each epoch at least
    optimizer = make_optimizer(optimizer_config, schedule.steps)
    objective = TextClassification(TextModel(config, len(task.labels), head))
    tell = Teller(objective, mesh)  # one program for all seeds
    lengths = bucket_lengths([len(example.tokens) for example in train_split.examples], settings.data.buckets)

    def in_order(split: TaskSplit):
        return text_evaluation_batches(split.examples, lengths, micro, 0, 1)

    def combine(looked: list[tuple[dict, jax.Array]]) -> dict[str, float]:
        """The loss, and the metric over the whole split: a mean of batches' F1 would be another number."""
        told = gather(validation_split, [found for found, _ in looked])
        means = weighted_mean([({name: found[name] for name in ("loss", "accuracy")}, n) for found, n in looked])
        return means | {metric: getattr(score(task, validation_split, told), metric)}

    def one_seed(seed: int) -> None:
        workdir = folder / f"seed_{seed}"
        if (workdir / runs.SUMMARY).exists():
            return
        workdir.mkdir(parents=True, exist_ok=True)
        train = dataclasses.replace(schedule, seed=seed)
        batches = text_training_batches(
            [example._replace(seed=np.int32(seed)) for example in train_split.examples],
            lengths,
            train.batch_size,
            seed,
            settings.data.threads,
            0,
            1,
        )

        def keep(params: dict) -> None:
            write_text_model(workdir / FINETUNED_MODEL, config, params, tokenizer_json, task.labels, head)

        training = Training(
            objective,
            optimizer,
            batches,
            functools.partial(in_order, validation_split),
            jax.random.key(0),  # a constant of the compiled step: what differs between seeds is in the examples
            badness=lambda metrics: -metrics[metric],
            keep=keep,
            names=lambda batch: [train_split.texts[number].name for number in np.asarray(batch.number)],
            title=f"finetune seed {seed}",
            measured=objective.without_dropout(),
            combine=combine,
        )
        start = first_params(model, config, task, seed, settings.model.head == "trained")
        position = open_position(workdir, start, optimizer, batches, mesh)
        ending = run_loop(position, training, train, mesh, workdir, progress_bar=progress_bar)
        best = read_text_model(workdir / FINETUNED_MODEL).params
        told = [tell(params, task.splits["test"], in_order(task.splits["test"])) for params in (best, ending.params)]
        with whole(workdir / PREDICTED) as unfinished, unfinished.open("wb") as file:
            np.save(file, np.stack(told))
        summary = {"step": ending.step, "best_step": ending.progress.best_step, "stopped_early": ending.stopped}
        summary |= {"best_score": -ending.progress.best_loss}
        write_whole(workdir / runs.SUMMARY, (json.dumps(summary) + "\n").encode())
        shutil.rmtree(workdir / "checkpoints")  # gigabytes, for a seed that never goes on

    with kept_programs(folder / "compiled"):
        for seed in range(settings.probe.seeds):
            one_seed(seed)
    folders = [folder / f"seed_{seed}" for seed in range(settings.probe.seeds)]
    return _read_seeds(folders, epoch, settings.optimizer.learning_rate, metric)


@contextlib.contextmanager
def kept_programs(folder: Path) -> Iterator[None]:
    """Compiled programs are kept in a folder meanwhile, where no other is set: each seed needs those of the first."""
    if jax.config.jax_compilation_cache_dir:
        yield
        return
    jax.config.update("jax_compilation_cache_dir", str(folder.absolute()))
    try:
        yield
    finally:
        jax.config.update("jax_compilation_cache_dir", None)
        compilation_cache.reset_cache()  # JAX holds the first folder that it was given.
        shutil.rmtree(folder, ignore_errors=True)


def gather(split: TaskSplit, batches: list[dict]) -> Int[np.ndarray, " u"]:
    """What was told of every unit, from what `TextClassification` measured of batches; -1 where nothing was asked."""
    told = np.full(len(split.gold), -1, np.int32)
    for found in batches:
        predicted, asked, number = (np.asarray(found[name]) for name in ("predicted", "asked", "number"))
        for row in np.flatnonzero(asked.any(axis=1)):
            told[split.units_of(int(number[row]))] = predicted[row][asked[row]]
    return told


class Teller:
    """A model on the devices there are: parameters and texts in, what it tells of every unit out."""

    def __init__(self, objective: TextClassification, mesh: jax.sharding.Mesh):
        measured = objective.without_dropout()

        def ask(params: dict, batch: AskedText) -> dict[str, Array]:
            return measured(params, batch, jax.random.key(0), jnp.zeros((), jnp.int32))[1]

        self._ask, self._mesh = jax.jit(ask), mesh

    def __call__(self, params: dict, split: TaskSplit, batches) -> Int[np.ndarray, " u"]:
        return gather(split, [self._ask(params, put_batch(self._mesh, batch)) for batch in batches])


def _read_seeds(folders: list[Path], epoch: int, learning_rate: float, metric: str) -> TextOutcome:
    """What the finished seeds say; `epoch` is its number of steps."""
    predicted, chosen, best, lines = [], [], [], []
    for seed, folder in enumerate(folders):
        metrics = [line | {"step": -(-line["step"] // epoch)} for line in read_metrics(folder / runs.METRICS)]
        summary = json.loads((folder / runs.SUMMARY).read_text(encoding="utf-8"))
        predicted.append(np.load(folder / PREDICTED, allow_pickle=False))
        chosen.append(-(-summary["best_step"] // epoch))
        best.append(float(summary["best_score"]))
        for number in dict.fromkeys(line["step"] for line in metrics if line["split"] == "validation"):
            for split, names in (("train", ("loss", "accuracy")), ("validation", ("loss", metric))):
                found = [line for line in metrics if (line["split"], line["step"]) == (split, number)]
                found = found if split == "train" else found[-1:]  # of several in an epoch, what it ended with
                if found:
                    means = {name: float(np.mean([line[name] for line in found])) for name in names}
                    lines.append({"step": number, "split": split, "seed": seed, "learning_rate": learning_rate} | means)
    told = np.stack(predicted)
    return TextOutcome(
        predicted=told[:, 0],
        last_predicted=told[:, 1],
        epoch=chosen,
        learning_rate=learning_rate,
        selection=best,
        grid=[{"learning_rate": learning_rate, "selection_score": best}],
        lines=lines,
    )
