"""A model and questions in, how well it answers once every weight was trained out: the loop, once for each seed."""

import dataclasses
import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from mmdiff.data.loader import batches_in_order, shuffled_batches
from mmdiff.data.question_examples import (
    QuestionBatch,
    Questions,
    question_example,
)
from mmdiff.data.tokenizer import Tokenizer
from mmdiff.models.pretrained import read_arrays, save_safetensors
from mmdiff.models.reserve import MerlotReserve, ReserveConfig
from mmdiff.objectives.question_answering import PREDICTIONS, UNUSED, QuestionAnswering, first_projection
from mmdiff.probing.config import ProbeConfig
from mmdiff.probing.outcome import Outcome
from mmdiff.training import runs
from mmdiff.training.config import epoch_steps, in_steps
from mmdiff.training.loop import Training, microbatch, open_position, run_loop
from mmdiff.training.metrics import read_metrics
from mmdiff.training.optimizer import make_optimizer
from mmdiff.training.sharding import make_mesh, put_batch
from mmdiff.whole_files import whole, write_whole

PREDICTED = "predicted.npy"


def finetune(
    config: ProbeConfig,
    sizes: ReserveConfig,
    params: dict,
    tokenizer: Tokenizer,
    folder: Path,
    progress_bar: bool = True,
) -> Outcome:
    """Trains all weights on the train questions, keeps the epoch with the best joint accuracy on the validation ones.

    Args:
      config: `data`, `questions`, `optimizer` and `train` say how, `probe.seeds` how often.
      sizes: the model's.
      params: where every seed starts.
      tokenizer: the vocabulary.
      folder: gets a folder for each seed; a run that was killed goes on there, and a seed that is done stays done.
      progress_bar: whether there is one.

    Raises ConfigError, RecordError or RunError, each one sentence for the user.
    """
    mesh = make_mesh(config.train.fsdp)
    micro = microbatch(config.train, mesh)
    host, hosts = jax.process_index(), jax.process_count()
    asked = {split: Questions(config.data.records, split) for split in ("train", "validation")}
    slots = max(max(questions.answers) for questions in asked.values())

    def ask(question: tuple, rng: np.random.Generator | None = None) -> QuestionBatch:
        return question_example(*question, slots, config.data, sizes.image_grid, sizes.patch_size, tokenizer, rng)

    epoch = epoch_steps(config.train, len(asked["train"]))
    schedule, optimizer_config = in_steps(config.train, config.optimizer, len(asked["train"]))
    schedule.log_every = min(schedule.log_every, epoch)  # a line of each epoch at least
    optimizer = make_optimizer(optimizer_config, schedule.steps)
    objective = QuestionAnswering(MerlotReserve(sizes), config.questions)
    ask_all = jax.jit(objective.correct)  # one program for all seeds
    validation = functools.partial(batches_in_order, asked["validation"], ask, micro // hosts, host, hosts)
    used = {name: module for name, module in params.items() if name not in UNUSED}

    def one_seed(seed: int) -> None:
        workdir = folder / f"seed_{seed}"
        if (workdir / runs.SUMMARY).exists():
            return
        workdir.mkdir(parents=True, exist_ok=True)
        train = dataclasses.replace(schedule, seed=seed)
        batches = shuffled_batches(
            asked["train"], ask, train.batch_size // hosts, seed, config.data.threads, host, hosts
        )
        kernel = first_projection(sizes.hidden_size, seed, config.questions)
        training = Training(
            objective,
            optimizer,
            batches,
            validation,
            jax.random.key(seed),
            badness=lambda metrics: -metrics["joint"],
            keep=functools.partial(save_safetensors, workdir / runs.MODEL),
            names=lambda batch: [],  # questions have no number that names them
            title=f"finetune seed {seed}",
        )
        position = open_position(workdir, used | {"proj": {"kernel": kernel}}, optimizer, batches, mesh)
        ending = run_loop(position, training, train, mesh, workdir, progress_bar=progress_bar)
        best = unflatten_dict(read_arrays(workdir / runs.MODEL), sep="/")
        correct = _correct(ask_all, best, validation, mesh)
        with whole(workdir / PREDICTED) as unfinished, unfinished.open("wb") as file:
            np.save(file, correct)
        summary = {"step": ending.step, "best_step": ending.progress.best_step, "stopped_early": ending.stopped}
        write_whole(workdir / runs.SUMMARY, (json.dumps(summary) + "\n").encode())
        shutil.rmtree(workdir / "checkpoints")  # gigabytes, for a seed that never goes on

    for seed in range(config.probe.seeds):
        one_seed(seed)
    folders = [folder / f"seed_{seed}" for seed in range(config.probe.seeds)]
    return Outcome(
        id=np.array(asked["validation"].id, str),
        video=np.array(asked["validation"].video, str),
        answers=np.array(asked["validation"].answers),
        train_questions=len(asked["train"]),
        **_read_seeds(folders, epoch, config.optimizer.learning_rate),
    )


def _correct(ask: Callable, params: dict, validation, mesh) -> np.ndarray:
    """What of every validation question is right, bool [q, 3]."""
    params = jax.tree.map(jnp.asarray, params)
    parts = [(batch, ask(params, put_batch(mesh, batch))) for batch in validation()]
    return np.concatenate([np.asarray(right)[batch.offered.any(axis=1)] for batch, right in parts])


def _read_seeds(folders: list[Path], epoch: int, learning_rate: float) -> dict:
    """What the finished seeds say, as fields of the outcome; `epoch` is its number of steps."""
    correct, last, chosen, best, lines = [], [], [], [], []
    for seed, folder in enumerate(folders):
        metrics = [line | {"step": -(-line["step"] // epoch)} for line in read_metrics(folder / runs.METRICS)]
        held_out = [line for line in metrics if line["split"] == "validation"]
        best_step = json.loads((folder / runs.SUMMARY).read_text(encoding="utf-8"))["best_step"]
        correct.append(np.load(folder / PREDICTED, allow_pickle=False))
        chosen.append(-(-best_step // epoch))
        best.append(float(correct[-1][:, PREDICTIONS.index("joint")].mean()))
        last.append([held_out[-1][name] for name in PREDICTIONS])
        for number in dict.fromkeys(line["step"] for line in held_out):
            for split in ("train", "validation"):
                found = [line for line in metrics if (line["split"], line["step"]) == (split, number)]
                found = found if split == "train" else found[-1:]  # of several in an epoch, what it ended with
                if not found:
                    continue
                means = {name: float(np.mean([line[name] for line in found])) for name in ("loss", *PREDICTIONS)}
                lines.append({"step": number, "split": split, "seed": seed, "learning_rate": learning_rate} | means)
    return {
        "correct": np.stack(correct),
        "last_correct": np.array(last),
        "epoch": chosen,
        "learning_rate": learning_rate,
        "grid": [{"learning_rate": learning_rate, "selection_accuracy": best}],
        "lines": lines,
    }
