"""A step whose loss or gradient is no number in; a folder that holds all it was made of out, and back.

The step itself changed nothing (`train_step.make_train_step`), and nothing after it did: the parameters are still those
that it was taken with, on any device and however late it is noticed. Nothing here replaces a number that is none.
"""

import json
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from flax.traverse_util import unflatten_dict

from mmdiff.models.pretrained import read_arrays, save_safetensors
from mmdiff.training.runs import RunError
from mmdiff.whole_files import whole, write_whole

FOLDER = "nonfinite"  # in that of a run
BATCH, PARAMS, STEP = "batch.npz", "params.safetensors", "step.json"


class Dump(NamedTuple):
    """A step to take again: arrays of the whole batch by their places in it, parameters before it, what it drew from."""

    step: int  # the one that failed, counted from 1
    arrays: dict[str, np.ndarray]
    params: dict
    key: jax.Array
    names: list[str]  # of the examples, where they have any


def write_dump(run: Path, dump: Dump) -> Path:
    """Writes the folder of a step; it is whole once its STEP is there."""
    folder = run / FOLDER / f"step_{dump.step}"
    folder.mkdir(parents=True, exist_ok=True)
    with whole(folder / BATCH) as unfinished, unfinished.open("wb") as file:
        np.savez_compressed(file, **dump.arrays)
    save_safetensors(folder / PARAMS, dump.params)
    told = {"step": dump.step, "key": np.asarray(jax.random.key_data(dump.key)).tolist(), "examples": dump.names}
    write_whole(folder / STEP, (json.dumps(told, indent=2) + "\n").encode())
    return folder


def read_dump(run: Path) -> Dump:
    """The last dump of a run. Raises RunError where there is none."""
    folders = [path.parent for path in (run / FOLDER).glob(f"step_*/{STEP}")]
    if not folders:
        raise RunError(f"{run} holds no {FOLDER}/step_N: every loss and gradient of the run there was a number")
    folder = max(folders, key=lambda path: int(path.name.removeprefix("step_")))
    try:
        told = json.loads((folder / STEP).read_text(encoding="utf-8"))
        with np.load(folder / BATCH, allow_pickle=False) as archive:
            arrays = dict(archive)
        key = jax.random.wrap_key_data(np.asarray(told["key"], np.uint32))
        params = unflatten_dict(read_arrays(folder / PARAMS), sep="/")
        return Dump(told["step"], arrays, params, key, told["examples"])
    except (ValueError, KeyError, TypeError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise RunError(f"{folder} cannot be read ({error}): it was changed or not written whole") from None


def arrays_of(batch) -> dict[str, np.ndarray]:
    """The arrays of a batch by their places in its tuples, such as `frames` or `answers.text_tokens`."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(array)
        for path, array in jax.tree_util.tree_leaves_with_path(batch)
    }
