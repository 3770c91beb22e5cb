"""A method and a corpus in, what the paper's tables on text say of them out. The facts lie in paper_text_tables.json."""

import functools
import json
from pathlib import Path
from typing import NamedTuple

from mmdiff.reports.paper import Cell


class TextMethod(NamedTuple):
    """A method of continued pretraining on text, and its row in each of the paper's tables, "" where it has none."""

    title: str
    table1: str = ""  # the main table
    table3: str = ""  # how words are compared with anchors
    table7: str = ""  # tokens or words


class TextDataset(NamedTuple):
    """A corpus, its column in the paper's tables ("" where it has none), and what to know before comparing."""

    title: str
    column: str = ""
    note: str = ""


# In the order of a report's rows, which is the paper's. The first is no method: the model as it came.
TEXT_METHODS = {
    "none": TextMethod("no continued pretraining"),
    "random_word": TextMethod("random word", "Random Masking (Word)"),
    "random_token": TextMethod("random token", "Random Masking (Token)"),
    "span": TextMethod("spans (SpanBERT)"),
    "pmi": TextMethod("collocations (PMI)"),
    "mst": TextMethod("lowest attention (MST)", "MST"),
    "attn": TextMethod("highest attention (AttnMask)", "AttnMask"),
    "dga": TextMethod("soft-masked gradients (DGA)", "DGA"),
    "selective": TextMethod("selective masking", "Selective Masking"),
    "entity": TextMethod("entities (EntityBERT)", "EntityBERT"),
    "entity_anchors": TextMethod("anchors as entities"),
    "salient_span": TextMethod("one salient span (REALM)", "Salient Span"),
    "salient_anchors": TextMethod("one anchor"),
    "salient_filled": TextMethod("salient spans, then words"),
    "mslm": TextMethod("mask-specific loss (MSLM)"),
    "mslm_anchors": TextMethod("mask-specific loss, of anchors"),
    "difference_token": TextMethod("difference, tokens", table7="Token"),
    "difference_centroid": TextMethod("difference, centroid", table3="Centroid"),
    "difference": TextMethod("difference", "Difference-Masking", "Nearest-Neighbor", "Word"),
}
# By the names of the folders that the corpora come in.
TEXT_DATASETS = {
    "citation_intent": TextDataset("ACL-ARC", "ACL-ARC"),
    "chemprot": TextDataset("ChemProt", "ChemProt"),
    "sci-cite": TextDataset("SciCite"),
    "NCBI-disease-IOB": TextDataset("NCBI-disease"),
    "BC5CDR-chem-IOB": TextDataset("BC5CDR, chemicals"),
    "BC5CDR-disease-IOB": TextDataset("BC5CDR, diseases"),
    "BC2GM-IOB": TextDataset("BC2GM"),
}


def text_dataset(name: str) -> TextDataset:
    """What is known of a corpus."""
    return TEXT_DATASETS.get(name) or TextDataset(name)


def text_cell(method: str, dataset: str, table: str) -> Cell | None:
    """The paper's cell of a method, in percent, or None."""
    row = getattr(TEXT_METHODS.get(method), table, "")
    found = text_facts()[table].get(row, {}).get(text_dataset(dataset).column)
    return Cell(float(found[0]), found[1], table) if found else None


class Figure3(NamedTuple):
    """What the paper's Figure 3 shows of a corpus. The sizes of its bubbles cannot be read."""

    words: tuple[str, ...]  # most masked
    beside: str  # what it sets them beside
    others: tuple[str, ...]


def figure3(title: str) -> Figure3 | None:
    """Of the corpus with this title, or None. To which of the two "human" and "language" belong is a reading."""
    found = text_facts()["figure3"].get(title)
    return found and Figure3(tuple(found["words"]), found["beside"], tuple(found["others"]))


@functools.cache
def text_facts() -> dict:
    """paper_text_tables.json."""
    return json.loads(Path(__file__).with_name("paper_text_tables.json").read_text(encoding="utf-8"))
