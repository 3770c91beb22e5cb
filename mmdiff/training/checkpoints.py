"""A state, a data position and the loop's own memory in, a folder that survives a kill at any moment out."""

import dataclasses
import math
from pathlib import Path

import grain.python as grain
import jax
import orbax.checkpoint as ocp

from mmdiff.training.train_step import TrainState


@dataclasses.dataclass
class Progress:
    """What early stopping remembers."""

    best_loss: float = math.inf
    best_step: int = -1
    evaluations_without_improvement: int = 0

    def update(self, step: int, loss: float, min_improvement: float) -> bool:
        """Notes an evaluation; True where it is the best so far."""
        better = loss < self.best_loss - min_improvement
        if better:
            self.best_loss, self.best_step, self.evaluations_without_improvement = loss, step, 0
        else:
            self.evaluations_without_improvement += 1
        return better

    def should_stop(self, patience: int) -> bool:
        """At the (patience + 1)-th evaluation in a row without improvement, as in the original; never with 0."""
        return 0 < patience < self.evaluations_without_improvement


class Checkpoints:
    """The last two states of a run. Orbax writes aside and renames: a checkpoint is whole or absent."""

    def __init__(self, folder: Path):
        self._manager = ocp.CheckpointManager(
            Path(folder).absolute(),
            options=ocp.CheckpointManagerOptions(max_to_keep=2, create=True, enable_async_checkpointing=True),
        )

    @property
    def latest_step(self) -> int | None:
        return self._manager.latest_step()

    def save(self, state: TrainState, batches: grain.DatasetIterator, progress: Progress) -> None:
        self._manager.save(
            int(state.step),
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state),
                data=grain.PyGrainCheckpointSave(batches),
                progress=ocp.args.JsonSave(dataclasses.asdict(progress)),
            ),
        )

    def restore(
        self, state: TrainState, shardings: TrainState, batches: grain.DatasetIterator
    ) -> tuple[TrainState, Progress]:
        """The latest state, placed by `shardings` whatever mesh it was saved from; moves `batches` to its position."""
        target = jax.tree.map(
            lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), state, shardings
        )
        restored = self._manager.restore(
            self.latest_step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(target),
                data=grain.PyGrainCheckpointRestore(batches),
                progress=ocp.args.JsonRestore(),
            ),
        )
        return restored.state, Progress(**restored.progress)

    def close(self) -> None:
        """Waits for what is being written."""
        self._manager.wait_until_finished()
        self._manager.close()
