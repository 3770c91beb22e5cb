"""A strategy and a dataset in, what the paper's tables say of them out. The facts lie in paper_tables.json."""

import functools
import json
from pathlib import Path
from typing import NamedTuple


class Method(NamedTuple):
    """A masking strategy, and its row in each of the paper's tables, "" where it has none."""

    title: str
    table1: str = ""  # accuracy, the main table
    table2: str = ""  # percent of hidden patches inside boxes of people
    table5: str = ""  # accuracy, face against body
    table6: str = ""  # accuracy, CLIP


class Cell(NamedTuple):
    """A mean in percent; the deviation is over the paper's five trials, where it is printed."""

    mean: float
    std: float | None
    table: str


class Dataset(NamedTuple):
    """A dataset, its column in the paper's tables ("" where it has none), and what to know before comparing."""

    title: str
    column: str
    note: str


# In the order of a report's rows, which is the paper's. The first is no strategy: the model as it came.
METHODS = {
    "none": Method("no continued pretraining"),
    "random": Method("random", "Random Masking (Token)", "Random", "Random Masking"),
    "mst": Method("lowest attention (MST)", "MST"),
    "attn": Method("highest attention (AttnMask)", "AttnMask", "AttnMask"),
    "clip": Method("CLIP similarity", table6="CLIP"),
    "difference_face": Method("difference (face)", table5="Difference-Masking (Face)"),
    "difference_body": Method(
        "difference (body)",
        "Difference-Masking",
        "Difference-Masking",
        "Difference-Masking (Body)",
        "Difference-Masking",
    ),
    "difference_both": Method("difference (face and body)"),
}
DATASETS = {
    "tvqa": Dataset("TVQA", "TVQA", ""),
    "tvqa_plus": Dataset("TVQA+", "", "The paper has no TVQA+."),
    "social_iq": Dataset(
        "Social-IQ",
        "Social-IQ",
        "The paper does not say among how many answers its model chose on Social-IQ: its cells may be of another task.",
    ),
    "social_iq2": Dataset("Social-IQ 2.0", "", "The paper has no Social-IQ 2.0."),
    "video_folder": Dataset("a folder of videos", "", "A folder of videos is not in the paper."),
}
ACCURACY = ("table1", "table5", "table6")  # where a strategy's accuracy may stand, the first one with deviations


def strategy_id(strategy: str | None, where: str | None) -> str:
    """The key of METHODS; a strategy that is not there is its own name."""
    if strategy is None:
        return "none"
    # Only this one aims at boxes: elsewhere `where` is a setting that does nothing.
    return f"difference_{where}" if strategy == "difference" and where else strategy


def title(strategy: str, variant: str = "") -> str:
    """A strategy's name in a table, with what tells its run from others of the same strategy."""
    name = METHODS[strategy].title if strategy in METHODS else strategy
    return f"{name}, {variant}" if variant else name


def order(name: str, known: dict[str, Method] | dict[str, Dataset]) -> tuple[int, str]:
    """Sorts strategies (METHODS) or datasets (DATASETS) as they stand here, and those nobody knows behind."""
    return (list(known).index(name) if name in known else len(known), name)


def dataset(name: str) -> Dataset:
    """What is known of a dataset; one that nobody knows is not in the paper."""
    return DATASETS.get(name) or Dataset(name, "", f"The paper has no {name}.")


def cell(strategy: str, dataset_name: str, tables: tuple[str, ...]) -> Cell | None:
    """The first of `tables` (such as ACCURACY) that has this strategy and dataset, or None."""
    column = dataset(dataset_name).column
    for table in tables:
        method = getattr(METHODS.get(strategy), table, "")
        for row in facts()[table]["rows"] if method and column else ():
            if row["method"] == method and row[column] is not None:
                found = row[column]
                mean, std = (found["mean"], found["std"]) if isinstance(found, dict) else (found, None)
                return Cell(float(mean), std, table)
    return None


@functools.cache
def facts() -> dict:
    """paper_tables.json."""
    return json.loads(Path(__file__).with_name("paper_tables.json").read_text(encoding="utf-8"))
