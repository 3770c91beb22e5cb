"""A state and the loop's own memory in, a folder that survives a kill at any moment out."""

import dataclasses
import hashlib
import itertools
import json
import logging
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from mmdiff.models.pretrained import CheckpointError
from mmdiff.training import hosts
from mmdiff.training.state import TrainState

SUMS = "sha256.json"  # of a checkpoint's files: Orbax itself does not notice a flipped bit in an array
# Written or changed when a checkpoint gets its name, with nothing in them that is restored.
UNSUMMED = (SUMS, "_CHECKPOINT_METADATA", "commit_success.txt")
SLICED_FROM = 2**20  # bytes that each replica of an array would write: cutting out fewer costs more than it saves
DAMAGED = "damaged_checkpoints"  # beside the folder of checkpoints: those that were not as they were written

log_line = logging.getLogger(__name__)


@dataclasses.dataclass
class Progress:
    """What early stopping remembers."""

    best_loss: float = math.inf
    best_step: int = -1
    evaluations_without_improvement: int = 0
    evaluated_step: int = -1

    def update(self, step: int, loss: float, min_improvement: float) -> bool:
        """Notes an evaluation; True where it is the best so far."""
        self.evaluated_step = step
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
    """The last two states of a run.

    Orbax writes aside and renames: a checkpoint is whole or absent when a run is killed. One that was damaged since is
    told by its sums; where the one before is whole, it is moved to DAMAGED and the run goes on from there.

    Raises CheckpointError where there are checkpoints and none is whole.
    """

    def __init__(self, folder: Path):
        self._folder = Path(folder).absolute()
        self._set_damaged_aside()
        # Orbax lets replicas of an array write a part each, which a program of XLA for each shape and part cuts out.
        arrays = ocp.type_handlers.ArrayHandler(min_slice_bytes_for_replica_parallel=SLICED_FROM)
        registry = ocp.type_handlers.create_type_handler_registry((jax.Array, arrays))
        self._manager = ocp.CheckpointManager(
            self._folder,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=2,
                create=True,
                cleanup_tmp_directories=True,  # what a kill left unfinished
                async_options=ocp.AsyncOptions(post_finalization_callback=self._seal),
            ),
            item_handlers={
                "state": ocp.PyTreeCheckpointHandler(type_handler_registry=registry),
                "progress": ocp.JsonCheckpointHandler(),
            },
        )

    @property
    def latest_step(self) -> int | None:
        return self._manager.latest_step()

    def save(self, step: int, state: TrainState, progress: Progress) -> None:
        """Begins to write the state after `step` if it is not there. Errors show in `check`, `wait` or the next save."""
        if step == self.latest_step:
            return
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.PyTreeSave(_kept(state)),
                progress=ocp.args.JsonSave(dataclasses.asdict(progress)),
            ),
        )

    def check(self) -> None:
        """Raises what went wrong in a save that has ended; on several hosts the next save does."""
        if jax.process_count() == 1 and not self._manager.is_saving_in_progress():
            self.wait()

    def wait(self) -> None:
        """Until all is written. Raises what went wrong."""
        self._manager.wait_until_finished()

    def restore(self, shapes: TrainState, shardings: TrainState) -> tuple[TrainState, Progress]:
        """The latest state, placed by `shardings` whatever mesh it was saved from.

        Raises CheckpointError, with what differs, where it is the state of another model or optimizer.
        """
        step = self.latest_step
        self._require_shapes(step, shapes)
        target = jax.tree.map(
            lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes, shardings
        )
        placed = ocp.checkpoint_utils.construct_restore_args(_kept(target))
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.PyTreeRestore(_kept(target), restore_args=placed), progress=ocp.args.JsonRestore()
            ),
        )
        finite = jax.jit(lambda: jnp.ones((), bool), out_shardings=shardings.finite)()
        return TrainState(**restored.state, finite=finite), Progress(**restored.progress)

    def close(self) -> None:
        """Waits for what is being written. Raises what went wrong."""
        self.wait()
        self._manager.close()

    def _require_shapes(self, step: int, shapes: TrainState) -> None:
        stored, wanted = (_named_shapes(tree) for tree in (self._manager.item_metadata(step).state.tree, _kept(shapes)))
        wrong = [
            f"{name} is {stored.get(name, 'not there')} and should be {wanted.get(name, 'not there')}"
            for name in sorted(stored | wanted)
            if stored.get(name) != wanted.get(name)
        ]
        if wrong:
            raise CheckpointError(
                f"{self._folder / str(step)} is the checkpoint of another model or optimizer: {'; '.join(wrong[:3])}"
                f"{f'; and {len(wrong) - 3} more' if len(wrong) > 3 else ''}: give another --workdir, or the "
                "configuration and initial model that the run was started with"
            )

    def _seal(self) -> None:
        """Writes the sums of a checkpoint that is complete but for its name; Orbax calls it on the first host."""
        for unfinished in self._folder.glob("*.orbax-checkpoint-tmp"):
            (unfinished / SUMS).write_text(json.dumps(_sums(unfinished), indent=0))

    def _set_damaged_aside(self) -> None:
        """Moves what is newer than the newest whole checkpoint; nothing where none is whole."""
        damages: dict[Path, str] = {}
        found = ""
        if hosts.first() and self._folder.exists():  # all hosts go on from the same step, or none does
            folders = [path for path in self._folder.iterdir() if path.name.isdigit()]
            newest_first = sorted(folders, key=lambda path: int(path.name), reverse=True)
            damages = dict(itertools.takewhile(lambda pair: pair[1], ((path, _damage(path)) for path in newest_first)))
            if damages and len(damages) == len(folders):
                found = "; ".join(f"{path.name}: {damage}" for path, damage in damages.items())
        if hosts.agree(bool(found)):
            raise CheckpointError(
                f"no checkpoint in {self._folder} is whole ({found or 'the first host says why'}): put a copy of one "
                "back, or start again with another --workdir"
            )
        for path, damage in damages.items():
            moved = _aside(path)
            log_line.warning("%s is damaged (%s): moved to %s; going on from the one before", path, damage, moved)
        hosts.wait("damaged checkpoints are aside")


def _kept(state: TrainState) -> dict:
    """What of a state is saved: none is that is not finite."""
    return {"step": state.step, "params": state.params, "opt_state": state.opt_state}


def _named_shapes(tree) -> dict[str, tuple[int, ...]]:
    """The shapes of a tree's arrays, whatever kinds of nodes hold them."""
    return {name: tuple(x.shape) for name, x in ocp.tree.to_flat_dict(tree, sep="/").items() if hasattr(x, "shape")}


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in UNSUMMED)


def _sums(folder: Path) -> dict[str, str]:
    sums = {}
    for path in _files(folder):
        with path.open("rb") as file:
            sums[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return sums


def _damage(folder: Path) -> str:
    """What is wrong with a checkpoint; nothing where every file is as it was written."""
    try:
        written = json.loads((folder / SUMS).read_text())
    except (OSError, ValueError):
        return f"{SUMS} is missing or not whole"
    found = _sums(folder)
    for name, digest in written.items():
        if name not in found:
            return f"{name} is missing"
        if found[name] != digest:
            return f"{name} has changed"
    return ""


def _aside(folder: Path) -> Path:
    """Moves a checkpoint out of the way, to a name that is free."""
    kept = folder.parent.parent / DAMAGED
    kept.mkdir(exist_ok=True)
    number = 0
    while (moved := kept / (folder.name + (f"_{number}" if number else ""))).exists():
        number += 1
    return folder.rename(moved)
