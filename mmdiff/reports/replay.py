"""The folder of a run that stopped at a number that is none in, what is none there and whose fault it is out: `mmdiff replay`."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from mmdiff.data.video_examples import VideoBatch
from mmdiff.models.pretrained import infer_config
from mmdiff.models.reserve import MerlotReserve
from mmdiff.objectives.masked_video import MaskedVideo
from mmdiff.reports.viewed_runs import stored_config
from mmdiff.training.nonfinite import read_dump
from mmdiff.training.target_encoder import without_target_encoder
from mmdiff.training.train_step import make_gradient

SHOWN = 8  # names of a list


@dataclasses.dataclass
class Replay:
    """What a step gave when it was taken again, without its update."""

    step: int
    loss: float
    metrics: list[str]  # names of those that are no numbers
    params: list[str]  # of parameters before the step that hold what is no number
    gradients: list[str]  # of parameters whose gradient holds such
    examples: list[str]  # that give such a loss or gradient by themselves
    among: int  # so many

    def describe(self) -> str:
        """Lines for a person."""
        lines = [
            f"step {self.step}, taken again: loss {self.loss:.6g}",
            f"metrics that are no numbers: {_some(self.metrics)}",
            f"parameters that held such before the step: {_some(self.params)}",
            f"parameters whose gradient holds such: {_some(self.gradients)}",
            f"examples that give such by themselves: {_some(self.examples)} (of {self.among})",
        ]
        if not (self.metrics or self.gradients):
            lines.append(
                "the loss and every gradient are numbers this time: it was the update, or arithmetic of another kind of device"
            )
        elif not self.examples:
            lines.append("no example does it alone: it takes the batch together")
        return "\n".join(lines)


def replay(run: str | Path) -> Replay:
    """Takes the step of a run's last dump again, of the whole batch and of each example by itself, on one device.

    Raises RunError where the folder holds no dump, or is not that of a run of `mmdiff pretrain`.
    """
    run = Path(run)
    config = stored_config(run)
    dump = read_dump(run)
    flat = flatten_dict(without_target_encoder(dump.params), sep="/")
    grid = (config.model.rows, config.model.columns)
    sizes = infer_config(flat, grid, dtype=config.model.dtype, remat=tuple(config.model.remat), source=str(run))
    objective = MaskedVideo(MerlotReserve(sizes), config.masking, config.objective)
    batch = VideoBatch(**dump.arrays)
    count = len(batch.id)
    step = jnp.asarray(dump.step - 1, jnp.int32)  # steps are drawn for by how many were made before

    whole = jax.jit(make_gradient(objective, config.train.accumulation))
    gradients, metrics = whole(dump.params, batch, dump.key, step)
    alone = jax.jit(make_gradient(objective, 1))
    guilty = []
    for i in range(count):
        one = jax.tree.map(lambda x, i=i: x[i : i + 1], batch)
        if any(_holds_such(x) for x in jax.tree.leaves(alone(dump.params, one, dump.key, step))):
            guilty.append(dump.names[i] if dump.names else f"number {i}")
    return Replay(
        dump.step,
        float(metrics["loss"]),
        _such(metrics),
        _such(dump.params),
        _such(gradients),
        guilty,
        count,
    )


def _such(tree: dict) -> list[str]:
    return [name for name, array in flatten_dict(tree, sep="/").items() if _holds_such(array)]


def _holds_such(array) -> bool:
    return not bool(np.isfinite(np.asarray(array)).all())


def _some(names: list[str]) -> str:
    if not names:
        return "none"
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{', '.join(names[:SHOWN])}{more}"
