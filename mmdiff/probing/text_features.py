"""A frozen encoder and texts in, a vector of every unit that is asked out: computed once and kept on disk."""

import functools
import logging
import time
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from tqdm import tqdm

from mmdiff.data.text_batches import text_evaluation_batches
from mmdiff.data.text_tasks import AskedText, TaskSplit
from mmdiff.models.text_encoder import TextEncoderConfig, TextModel
from mmdiff.probing.encoder import FeatureError
from mmdiff.training.sharding import make_mesh, put_batch, replicated
from mmdiff.whole_files import whole

VERSION = 1  # Raise it when the same model and texts give other features than before.

log_line = logging.getLogger(__name__)


class UnitFeatures(NamedTuple):
    """The asked units of a split."""

    features: Float[np.ndarray, "a d"]  # float16
    label: Int[np.ndarray, " a"]
    unit: Int[np.ndarray, " a"]  # places among the split's units


def compute_unit_features(
    path: Path,
    split: TaskSplit,
    config: TextEncoderConfig,
    params: dict,
    pool: str | None,
    at_once: int,
    lengths: tuple[int, ...],
    progress_bar: bool = True,
) -> tuple[UnitFeatures, dict]:
    """The features of a split, and what the pass over it took.

    Args:
      path: a file that is these features' alone (it is named by what they depend on); what it holds is not computed again.
      split: the texts.
      config: of the encoder.
      params: of the encoder, as TextModel has them.
      pool: a row of `text_config.POOLS`, for a text's one unit; None where units are words: of each its first token.
      at_once: texts that one device encodes at a time.
      lengths: that texts are padded to.
      progress_bar: whether there is one.

    Raises FeatureError where the model's features are no numbers.
    """
    unit = np.flatnonzero(split.asked)
    label = split.gold[unit]
    stored = _read(path, (len(unit), config.hidden_size))
    if stored is not None:
        log_line.info("features of %d units from %s", len(unit), path)
        return UnitFeatures(stored, label, unit), {"units": len(unit), "computed_units": 0, "seconds": 0.0}
    begun = time.perf_counter()
    features = np.zeros((len(split.gold), config.hidden_size), np.float16)
    mesh = make_mesh(0)
    params = jax.device_put({"encoder": params["encoder"]}, replicated(mesh))
    batches = text_evaluation_batches(split.examples, lengths, at_once * mesh.size, 0, 1)
    model = TextModel(config)
    with tqdm(total=len(split), desc=path.stem, unit="text", disable=not progress_bar) as bar:
        for batch in batches:
            found = _encode(model, params, put_batch(mesh, batch), pool)
            rows = np.asarray(found, np.float16)
            for row in np.flatnonzero(batch.valid.any(axis=1)):
                places = np.flatnonzero(batch.label[row]) if pool is None else slice(0, 1)
                features[split.units_of(int(batch.number[row]))] = rows[row][places]
            bar.update(int(batch.valid.any(axis=1).sum()))
    features = features[unit]
    if not np.isfinite(features).all():
        raise FeatureError("the model's features are not finite numbers: its weights are damaged, or have diverged")
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as unfinished, unfinished.open("wb") as file:
        np.save(file, features)
    seconds = time.perf_counter() - begun
    return UnitFeatures(features, label, unit), {"units": len(unit), "computed_units": len(unit), "seconds": seconds}


@functools.partial(jax.jit, static_argnums=(0, 3))
def _encode(model: TextModel, params: dict, batch: AskedText, pool: str | None) -> Float[Array, "b u d"]:
    """Every token's hidden state; or one vector for each text."""
    hidden = model.apply({"params": params}, batch.tokens, batch.valid, method="encode").astype(jnp.float32)
    if pool is None:
        return hidden
    if pool == "first":
        return hidden[:, :1]
    valid = jnp.asarray(batch.valid)[..., None]
    return jnp.where(valid, hidden, 0).sum(axis=1, keepdims=True) / jnp.maximum(valid.sum(axis=1, keepdims=True), 1)


def _read(path: Path, shape: tuple[int, int]) -> np.ndarray | None:
    """Features as they were written; None where there are none, or what is there is something else."""
    if not path.exists():
        return None
    try:
        stored = np.load(path, allow_pickle=False)
        sound = stored.shape == shape and stored.dtype == np.float16 and bool(np.isfinite(stored).all())
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile, zlib.error):
        sound = False
    if not sound:
        log_line.warning("%s holds no whole features: they are computed again", path)
        return None
    return stored
