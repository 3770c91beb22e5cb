"""The folder of a run in, what it was and what it trained out."""

import dataclasses
import json
import logging
from pathlib import Path

import jax

from mmdiff.data.tokenizer import Tokenizer
from mmdiff.errors import UserError
from mmdiff.models.pretrained import CheckpointError, load_reserve
from mmdiff.models.reserve import ReserveConfig, init_params
from mmdiff.training.config import ConfigError, ModelConfig, as_loaded, differences, to_json
from mmdiff.whole_files import is_taken, write_whole

CONFIG, RECORDS, TOKENIZER = "config.json", "records.digest", "tokenizer.json"  # what a run is made of
ANCHORS, TARGETS = "anchors.json", "targets.json"  # what it compares labels with; what it hid of each window
MODEL, METRICS, SUMMARY = "model.safetensors", "metrics.jsonl", "summary.json"  # what it makes; the last at its end
MARKS = "marks"  # of `selective`: a corpus whose words are tagged
BOX_BUDGET = "box_budget"  # in the summary of a run whose strategy looks at boxes
TEXT_MODEL, HIDDEN_WORDS = "model", "hidden_words.json"  # what a run on text makes: a Hugging Face folder; what it hid

log_line = logging.getLogger(__name__)


SIZES = ("hidden_size", "vision_layers", "audio_layers", "joint_layers", "span_layers")  # that a checkpoint decides
MOUNTS = tuple(map(Path, ("/mnt", "/media")))  # where buckets and disks are mounted by custom


class RunError(UserError):
    """A folder is not the run it should be, or a run cannot go on."""


def claim(folder: Path, config, tokenizer: bytes, records: str, source: str) -> None:
    """Makes the folder this run's, or finds that it is.

    Args:
      folder: the run's.
      config: what the run is started with.
      tokenizer: the vocabulary, kept in the folder.
      records: a digest of the records or texts it trains on.
      source: where they lie, for messages.

    Raises RunError where the folder belongs to something else or cannot be written in, or the records have changed.
    """
    require_place(folder)
    stored = folder / CONFIG
    if stored.exists():
        changed = differences(read_config(folder), config)
        if changed:
            raise RunError(
                f"{folder} holds another run ({'; '.join(changed[:5])}{' ...' if len(changed) > 5 else ''}): "
                "give another --workdir, or the same configuration to go on with it"
            )
    elif is_taken(folder):
        raise RunError(f"{folder} is not empty and holds no run of mmdiff: give a new folder as --workdir")
    # The configuration first: it says whose the folder is, should a kill come between.
    made_of = {CONFIG: to_json(config).encode(), RECORDS: records.encode(), TOKENIZER: tokenizer}
    try:
        for name, content in made_of.items():
            if not (folder / name).exists():
                write_whole(folder / name, content)
    except OSError as error:
        raise RunError(
            f"cannot write in {folder} ({error.strerror}): make room or mend it, or give another --workdir"
        ) from None
    if (folder / RECORDS).read_text() != records:
        raise RunError(f"{source} no longer holds what the run in {folder} was started on: give another --workdir")


def require_place(folder: Path) -> None:
    """Raises RunError where a bucket or disk should be mounted and is not: a run would fill the local disk instead.

    That is below one of MOUNTS, with no mount in between and nothing there; or below a folder of `/` that is not there.
    """
    above = (folder.absolute(), *folder.absolute().parents)
    root, there = above[-1], next(path for path in above if path.exists())
    mounts = next((path for path in MOUNTS if path in above), None)
    if mounts is None:
        unmounted = there == root and len(above) > 2
    else:
        mounted = any(path.is_mount() for path in above if path != root)
        unmounted = not mounted and (there in (root, mounts) or not any(there.iterdir()))
    if unmounted:
        raise RunError(
            f"nothing is mounted for {folder}, of which only {there} is there: mount the bucket or disk, or make the folder "
            "if it is meant to be on this one"
        )


def read_config(folder: Path) -> dict:
    """The configuration a run was started with. Raises RunError where there is none."""
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise RunError(f"{folder} is not the folder of a run: it has no {CONFIG}")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunError(f"{path} is not JSON ({error}): it was changed by hand, or is of another program") from None


def build_model(config: ModelConfig, tokenizer: Tokenizer, key: jax.Array) -> tuple[ReserveConfig, dict]:
    """The model a configuration asks for: from its checkpoint, or at random in its sizes.

    Raises:
      CheckpointError: the checkpoint is missing, damaged, or of another vocabulary.
      ConfigError: the sizes make no model, or are not the checkpoint's.
    """
    if not config.checkpoint:
        sizes = model_sizes(config, tokenizer.size)
        return sizes, jax.jit(init_params, static_argnums=0)(sizes, key)
    grid = (config.rows, config.columns)
    path = checkpoint_file(config.checkpoint)
    sizes, params = load_reserve(path, grid, dtype=config.dtype, remat=tuple(config.remat), fill=key)
    if sizes.vocab_size < tokenizer.size:
        raise CheckpointError(
            f"{path} knows {sizes.vocab_size} tokens and the vocabulary has {tokenizer.size}: give the one it was "
            "trained with as --config.data.tokenizer"
        )
    with_sizes_of(config, sizes)
    return sizes, params


def with_sizes_of(config: ModelConfig, sizes: ReserveConfig) -> ModelConfig:
    """The configuration with the sizes that the checkpoint has, as a run records it.

    Raises ConfigError where it asks for other ones.
    """
    default = ModelConfig()
    return dataclasses.replace(
        config,
        **{
            name: as_loaded(
                f"model.{name}", getattr(config, name), getattr(default, name), getattr(sizes, name), config.checkpoint
            )
            for name in SIZES
        },
    )


def model_sizes(config: ModelConfig, vocabulary: int) -> ReserveConfig:
    """The sizes of a model that starts at random. Raises ConfigError where they make no model."""
    try:
        return ReserveConfig(
            hidden_size=config.hidden_size,
            vision_layers=config.vision_layers,
            audio_layers=config.audio_layers,
            joint_layers=config.joint_layers,
            span_layers=config.span_layers,
            vocab_size=vocabulary,
            image_grid=(config.rows, config.columns),
            dtype=config.dtype,
            remat=tuple(config.remat),
        )
    except ValueError as error:
        raise ConfigError(f"model: {error}") from None


def checkpoint_file(path: str | Path) -> Path:
    """The file of a checkpoint given as a file, or as the folder of a run: its best model so far."""
    path = Path(path)
    if path.is_dir():
        if not (path / MODEL).exists():
            raise CheckpointError(f"{path} holds no {MODEL}: the run there has not been evaluated yet, or it is no run")
        if not (path / SUMMARY).exists():
            log_line.warning("the run in %s has not finished: this is its best model so far", path)
        return path / MODEL
    return path
