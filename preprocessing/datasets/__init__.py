"""The datasets that mmdiff can read, by name; a new one is a subclass of `dataset.Dataset` and a line here."""

import importlib
from pathlib import Path

from preprocessing.datasets.dataset import Dataset
from preprocessing.options import Options
from preprocessing.problems import PreprocessError

DATASETS = {
    "tvqa": "preprocessing.datasets.tvqa:Tvqa",
    "tvqa_plus": "preprocessing.datasets.tvqa_plus:TvqaPlus",
    "social_iq": "preprocessing.datasets.social_iq:SocialIq",
    "social_iq2": "preprocessing.datasets.social_iq2:SocialIq2",
    "video_folder": "preprocessing.datasets.video_folder:VideoFolder",
}


def dataset_class(name: str) -> type[Dataset]:
    """The class behind a name of DATASETS. Raises PreprocessError, naming those there are, for any other."""
    if name not in DATASETS:
        raise PreprocessError(f"dataset {name!r} is unknown; known: {', '.join(DATASETS)}")
    module, _, attribute = DATASETS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def open_dataset(data: Path, options: Options, out: Path | None = None) -> Dataset:
    """The dataset that `options.dataset` names, in the folder given; `out`, if it lies within, is no part of it."""
    return dataset_class(options.dataset)(data, options, out)
