"""What a linear probe costs, beside the plain way: the whole network, forward and backward, for every epoch and seed.

    python benchmarks/miniature_trees.py MINI --shared ../shared --clips 2 --seconds 40 --questions 2
    mmdiff preprocess tvqa --data MINI/tvqa RECORDS
    python benchmarks/probe_cost.py RECORDS --tokenizer ../shared/data/tokenizer/lowercase_encoder.json --size base

Both ways get the same questions and the same random weights. Ours is `mmdiff probe`: one forward pass for every frame,
piece of sound and candidate, then heads for all seeds and learning rates from the cache. The plain way is the original's
(docs/original_code.md): `mmdiff probe --mode finetune`'s step, a gradient with respect to every parameter, over all
training questions in each epoch, and a forward pass over the validation questions after it, one question at a time as
on one TPU core.

FLOPs are those that XLA's `cost_analysis` counts for the compiled programs, times how often each runs. Wall time is
measured; of the plain way `--plain-epochs` epochs of one seed are run, and multiplied. Ours includes reading records
and writing features; compilation is left out of both.
"""

import argparse
import dataclasses
import json
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from machine_load import MachineLoad

from mmdiff.data.loader import stack
from mmdiff.data.question_examples import Questions, question_example
from mmdiff.data.tokenizer import Tokenizer
from mmdiff.data.video_examples import DataConfig
from mmdiff.models.reserve import MerlotReserve
from mmdiff.objectives.question_answering import UNUSED, QuestionAnswering, QuestionConfig, first_projection
from mmdiff.probing import encoder as frozen
from mmdiff.probing import features
from mmdiff.probing.linear_probe import LinearProbeConfig, train_heads
from mmdiff.training import runs
from mmdiff.training.config import ModelConfig

SIZES = {
    "base": ModelConfig(),
    "tiny": ModelConfig(
        hidden_size=128, vision_layers=2, audio_layers=2, joint_layers=2, span_layers=1, rows=8, columns=14
    ),
}
SPLITS = ("train", "validation")


class Counted:
    """A jitted function, compiled apart, whose FLOPs and calls are counted."""

    compiling = 0.0  # seconds, of all of them

    def __init__(self, name: str, function, counted: dict):
        self._name, self._function, self._counted, self._compiled = name, function, counted, {}

    def __call__(self, model, *arguments):
        shapes = str(jax.tree.map(lambda x: (x.shape, x.dtype), arguments))
        if shapes not in self._compiled:
            began = time.perf_counter()
            self._compiled[shapes] = self._function.lower(model, *arguments).compile()
            Counted.compiling += time.perf_counter() - began
        program = self._compiled[shapes]
        calls = self._counted.setdefault(self._name, [0.0, 0])
        calls[0], calls[1] = calls[0] + program.cost_analysis()["flops"], calls[1] + 1
        return program(*arguments)


def ours(model, params, data, questions, tokenizer, heads: LinearProbeConfig) -> dict:
    """The whole probe."""
    counted: dict[str, list[float]] = {}
    for name in ("_encode_frames", "_encode_segments", "_ask"):
        setattr(frozen, name, Counted(name.strip("_"), getattr(frozen, name), counted))
    encoder = frozen.Encoder(model, params, jax.local_devices(), heads.at_once)
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        pairs = [
            features.compute_features(Path(folder), split, encoder, data, questions, tokenizer, False)
            for split in SPLITS
        ]
        passed = time.perf_counter() - began - Counted.compiling
    found, took = zip(*pairs, strict=True)
    for _ in range(2):  # The first time compiles.
        began = time.perf_counter()
        outcome = train_heads(*found, heads, questions)
        training = time.perf_counter() - began
    seconds = passed + training
    asked = [len(split) for split in found]
    # XLA counts what a scan holds once. A head's score is 2 d multiply-adds a view, its gradient twice that.
    answers, width = found[0].candidates.shape[1], found[0].rows.shape[-1]
    lanes = heads.seeds * len(heads.learning_rates)
    head_flops = lanes * heads.epochs * answers * 2 * 2 * width * (3 * asked[0] + asked[1])
    return {
        "flops": sum(flops for flops, _ in counted.values()) + head_flops,
        "flops_of_heads": head_flops,
        "calls": {name: calls for name, (_, calls) in counted.items()},
        "seconds": seconds,
        "seconds_of_features": passed,
        "questions_per_second": sum(asked) / passed,
        "frames_encoded": sum(split["frames"] for split in took),
        "frames_of_all_questions": sum(split["frames_per_question_pass"] for split in took),
        "joint_accuracy": float(outcome.correct[..., 2].mean()),
    }


def plain(model, params, data, questions, tokenizer, epochs: int) -> dict:
    """Epochs of one seed, without an optimizer's update."""
    objective = QuestionAnswering(model, questions)
    kernel = first_projection(model.config.hidden_size, 0, questions)
    params = {name: x for name, x in params.items() if name not in UNUSED} | {"proj": {"kernel": jnp.asarray(kernel)}}
    asked = {split: Questions(data.records, split) for split in SPLITS}
    slots = max(max(split.answers) for split in asked.values())
    config = model.config

    def batches(split: str):
        for number in range(len(asked[split])):
            example = question_example(
                *asked[split][number], slots, data, config.image_grid, config.patch_size, tokenizer, None
            )
            yield stack([example])

    def gradient(params, batch):
        return jax.value_and_grad(lambda p: objective(p, batch, None, None)[0])(params)

    first = next(batches("train"))
    step = jax.jit(gradient).lower(params, first).compile()
    answer = jax.jit(objective.correct).lower(params, first).compile()
    flops = [program.cost_analysis()["flops"] for program in (step, answer)]
    seconds = []
    for _ in range(epochs):
        began = time.perf_counter()
        for batch in batches("train"):
            jax.block_until_ready(step(params, batch))
        for batch in batches("validation"):
            jax.block_until_ready(answer(params, batch))
        seconds.append(time.perf_counter() - began)
    counts = [len(split) for split in asked.values()]
    return {
        "flops_of_epoch": float(np.dot(flops, counts)),
        "flops_of_step": flops[0],
        "flops_of_answer": flops[1],
        "seconds_of_epochs": seconds,
        "temporary_GiB": step.memory_analysis().temp_size_in_bytes / 2**30,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", help="of mmdiff preprocess, with train and validation questions")
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--size", choices=SIZES, default="base")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--plain-epochs", type=int, default=1, help="of the plain way to run; the rest is multiplied")
    options = parser.parse_args()
    load = MachineLoad()
    data = DataConfig(records=options.records, tokenizer=options.tokenizer)
    tokenizer, questions = Tokenizer(options.tokenizer), QuestionConfig()
    heads = LinearProbeConfig(seeds=options.seeds, epochs=options.epochs, patience=0)
    size = dataclasses.replace(SIZES[options.size], dtype=options.dtype)
    sizes, params = runs.build_model(size, tokenizer, jax.random.key(0))
    model = MerlotReserve(sizes)
    mine = ours(model, params, data, questions, tokenizer, heads)
    mine["peak_memory_bytes"] = features.peak_memory()["host"]  # before the plain way raises it
    theirs = plain(model, params, data, questions, tokenizer, options.plain_epochs)
    epochs = options.epochs * options.seeds
    ratios = {
        "epochs_times_seeds": epochs,
        "flops": theirs["flops_of_epoch"] * epochs / mine["flops"],
        "wall": float(np.mean(theirs["seconds_of_epochs"])) * epochs / mine["seconds"],
    }
    print(
        json.dumps(
            {"size": options.size, "ours": mine, "plain": theirs, "plain / ours": ratios, "load": load.describe()},
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
