"""A checkpoint file in, a configuration and checked parameters out; and back.

Three formats: the original's msgpack file (float16), safetensors, and a flat npz; all with the released parameter
names. No format is ever unpickled.
"""

import logging
import re
import zipfile
from pathlib import Path

import flax.serialization
import jax
import jax.numpy as jnp
import msgpack
import numpy as np
import safetensors
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict

from mmdiff.errors import UserError
from mmdiff.models.reserve import MerlotReserve, ReserveConfig, init_params
from mmdiff.whole_files import write_whole

log_line = logging.getLogger(__name__)

# Continued pretraining in the original kept neither; a file without them is still a model.
DROPPABLE = ("head", "span_encoder")


class CheckpointError(UserError):
    """A checkpoint file is missing, damaged, or of another model."""


def load_reserve(
    path: str | Path,
    image_grid: tuple[int, int],
    *,
    dtype: str = "float32",
    remat: tuple[str, ...] = (),
    fill: jax.Array | None = None,
) -> tuple[ReserveConfig, dict]:
    """Reads a MERLOT-Reserve checkpoint.

    Args:
      path: the original's msgpack file, a safetensors file, or a flat npz.
      image_grid: rows and columns of patches; the parameters do not depend on it.
      dtype: of matrix products.
      remat: encoders that recompute their activations in training.
      fill: a PRNG key to draw `head` and `span_encoder` from, where the file was saved without them.

    Returns:
      The configuration, its sizes inferred from the shapes, and the parameters in float32 as NumPy arrays.

    Raises:
      CheckpointError: the file is missing or damaged, or a name or shape is not the model's.
    """
    found = read_arrays(path)
    config = infer_config(found, image_grid, dtype=dtype, remat=remat, source=str(path))
    return config, check_params(found, config, source=str(path), fill=fill)


def read_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of a checkpoint file by name, `a/b/c`, in the file's own types. Raises CheckpointError."""
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"no checkpoint file at {path}")
    with path.open("rb") as file:
        head = file.read(9)
    try:
        if head[:2] == b"PK":
            with np.load(path, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
        # Eight bytes of header length, then JSON. A msgpack file may have a brace there, but no such length before it.
        if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**32:
            return {name.replace(".", "/"): array for name, array in safetensors.numpy.load_file(path).items()}
        tree = flax.serialization.msgpack_restore(path.read_bytes())
        if not isinstance(tree, dict) or not isinstance(tree.get("params"), dict):
            raise CheckpointError(f"{path} is msgpack but holds no `params`; is it a MERLOT-Reserve checkpoint?")
        return flatten_dict(tree["params"], sep="/")
    except CheckpointError:
        raise
    except (
        OSError,
        ValueError,
        EOFError,
        KeyError,
        TypeError,
        IndexError,
        zipfile.BadZipFile,
        msgpack.exceptions.UnpackException,
        safetensors.SafetensorError,
    ) as error:
        size = path.stat().st_size
        raise CheckpointError(
            f"{path} ({size:,} bytes) is not a whole checkpoint (msgpack, safetensors or npz): {error}; copy it again"
        ) from None


def infer_config(found: dict, image_grid, *, dtype="float32", remat=(), source="the checkpoint") -> ReserveConfig:
    """The sizes that a tree of released parameter names implies. Raises CheckpointError."""

    def shape(name: str) -> tuple[int, ...]:
        if name not in found:
            raise CheckpointError(
                f"{source} has no {name!r}; it starts with {', '.join(sorted(found)[:3]) or 'nothing'}"
            )
        return np.shape(found[name])

    def layers(prefix: str) -> int:
        return len({match[1] for name in found if (match := re.match(rf"{prefix}/(layer_\d+)/", name))})

    try:
        vocab_size, hidden_size = shape("token_encoder/Embed_0/embedding")
        audio_patch, audio_bins, _ = shape("audio_encoder/embedding/kernel")
        pixels, _ = shape("vision_encoder/embedding/kernel")
        return ReserveConfig(
            hidden_size=hidden_size,
            vision_layers=layers("vision_encoder/transformer"),
            audio_layers=layers("audio_encoder/transformer"),
            joint_layers=layers("joint_transformer"),
            # A file saved without a span encoder gets the release's proportion.
            span_layers=layers("span_encoder/transformer") or max(1, layers("joint_transformer") // 3),
            vocab_size=vocab_size,
            image_grid=tuple(image_grid),
            patch_size=round((pixels / 3) ** 0.5),
            audio_patch_size=audio_patch,
            audio_bins=audio_bins,
            dtype=dtype,
            remat=tuple(remat),
        )
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(f"{source} does not fit a model: {error}") from None


def mismatches(wrong: list[str], missing: list[str], unknown: list[str]) -> list[str]:
    """What is told of parameters of another shape, of those that lack and of those that nobody knows; sorted names."""
    parts = wrong[:3]
    if missing:
        parts.append(f"{len(missing)} missing, such as {missing[0]}")
    if unknown:
        parts.append(f"{len(unknown)} unknown, such as {unknown[0]}")
    return parts


def check_params(found: dict, config: ReserveConfig, *, source: str, fill: jax.Array | None = None) -> dict:
    """The parameters as a float32 tree, every name and shape the model's. Raises CheckpointError."""
    wanted = flatten_dict(jax.eval_shape(lambda: init_params(config, jax.random.key(0))), sep="/")
    dropped = [module for module in DROPPABLE if not any(name.split("/")[0] == module for name in found)]
    if dropped and fill is not None:
        fresh = flatten_dict(_droppable_params(config, fill), sep="/")
        found = found | {name: fresh[name] for name in fresh if name.split("/")[0] in dropped}
        log_line.info(
            "RANDOM WEIGHTS: %s was saved without %s: untrained ones take their place", source, " and ".join(dropped)
        )
    missing = sorted(set(wanted) - set(found))
    surplus = sorted(set(found) - set(wanted))
    wrong = [
        f"{name} is {np.shape(found[name])}, the model needs {wanted[name].shape}"
        for name in sorted(set(wanted) & set(found))
        if np.shape(found[name]) != wanted[name].shape
    ]
    parts = mismatches(wrong, missing, surplus)
    if parts:
        if dropped:
            parts.append(f"it was saved without {' and '.join(dropped)}: pass `fill` to start those at random")
        raise CheckpointError(f"{source} does not match the model: {'; '.join(parts)}")
    return unflatten_dict({name: np.asarray(found[name], np.float32) for name in wanted}, sep="/")


def _droppable_params(config: ReserveConfig, key: jax.Array) -> dict:
    """What `init_params` draws of the modules that a file may lack, without running the others."""

    def touch(model: MerlotReserve, spans: jax.Array) -> None:
        model.project(model.encode_spans(spans))

    return MerlotReserve(config).init(key, jnp.zeros((1, 2), jnp.int32), method=touch)["params"]


def save_safetensors(path: str | Path, params: dict) -> None:
    """Writes the parameters, in their own types, under the released names."""
    flat = {name: np.asarray(array) for name, array in flatten_dict(params, sep="/").items()}
    write_whole(path, safetensors.numpy.save(flat))


def save_reserve(path: str | Path, params: dict, step: int = 0) -> None:
    """Writes the original's format: msgpack of `step`, float16 `params` and an empty `opt_state`."""
    half = jax.tree.map(lambda x: np.asarray(x, np.float16) if x.dtype == jnp.float32 else np.asarray(x), params)
    # In place: a copy would sort the three keys, and the original's order is this one.
    tree = {"step": step, "params": half, "opt_state": None}
    write_whole(path, flax.serialization.msgpack_serialize(tree, in_place=True))
