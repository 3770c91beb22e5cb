"""The name of a model in, the folder in which transformers saved it out: safetensors only, never what must be unpickled."""

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from preprocessing.problems import PreprocessError

CONFIG, WEIGHTS = "config.json", ("model.safetensors", "model-*-of-*.safetensors")


def find_folder(name: str, wanted: Sequence[str], said: str, refusal: str) -> Path:
    """The folder of that name; that of a hub id is fetched, or found in the hub's cache.

    Args:
      name: as the user gave it.
      wanted: patterns of the files to fetch.
      said: begins the sentence on what the hub does not give.
      refusal: the whole sentence on a name that is neither.

    Raises PreprocessError with one of the two.
    """
    folder = Path(os.path.expanduser(name))  # What follows a colon the shell leaves as it is.
    if folder.is_dir():
        return folder
    if folder.exists() or name.count("/") != 1 or name.startswith((".", "~", "/")):
        raise PreprocessError(refusal)
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(name, allow_patterns=list(wanted)))
    except Exception as error:  # of the network, of the hub, of its cache: many kinds that share no base
        told = str(error).strip().splitlines() or [type(error).__name__]
        raise PreprocessError(f"{said} is no folder, and the hub does not give it: {told[0]}") from error


def names_of_weights(folder: Path, said: str, advice: str, called: Callable[[str], str]) -> set[str]:
    """The names of all tensors of a model; nothing else of them is read.

    Raises PreprocessError, which begins as `said` and ends with `advice`, where there is no safetensors, and which begins
    with what a file is `called` where it cannot be read.
    """
    import safetensors

    files, held = _weight_files(folder), set()
    if not files:
        raise PreprocessError(
            f"{said} holds no {WEIGHTS[0]}, and other formats, which can hide programs, are not read; {advice}"
        )
    for path in files:
        try:
            with safetensors.safe_open(path, framework="numpy") as file:
                held |= set(file.keys())
        except (OSError, safetensors.SafetensorError) as error:
            raise PreprocessError(f"{called(path.name)} cannot be read ({error}); copy it again") from None
    return held


def digest_of_model(folder: Path) -> str:
    """A name for all that decides what a model says: its weights, its settings, its vocabulary."""
    found = hashlib.sha256()
    for path in sorted({*_weight_files(folder), *folder.glob("*.json"), *folder.glob("merges.txt")}):
        with path.open("rb") as file:
            found.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()} ".encode())
    return found.hexdigest()[:16]


def _weight_files(folder: Path) -> list[Path]:
    return sorted(path for pattern in WEIGHTS for path in folder.glob(pattern))
