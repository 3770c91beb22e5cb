"""Probes and runs on text in, rows of text out. Shares come in, percent goes out."""

from collections.abc import Sequence

from mmdiff.reports import text_paper
from mmdiff.reports.analysis import Pair
from mmdiff.reports.tables import NONE, UNMEASURED, mean_and_deviation, test_columns
from mmdiff.reports.text_results import SCORES, Group, Row, Spread, TextRun

MARK = " (the paper's)"
PAPER_ANCHORS = 20


def scores_of(result: dict) -> list[dict]:
    """One row for each way of scoring a probe.json: over all test texts, and over those that training does not hold."""
    columns = _columns(result["metric"], mark=False)
    rows = []
    for texts, scores in (
        (f"all {result['duplicates']['test']:,}", result["scores"]),
        (
            f"{result['duplicates']['test'] - result['duplicates']['in_train']:,} not in train",
            result["deduplicated_scores"],
        ),
    ):
        if scores:
            rows.append(
                {
                    "dataset": text_paper.text_dataset(result["dataset"]).title,
                    "test texts": texts,
                    "probe": result["mode"],
                }
                | {column: mean_and_deviation(scores[metric]) for metric, column in columns.items()}
                | {"seeds": str(len(result["seeds"])), "learning rate": f"{result['learning_rate']:g}"}
            )
    return rows


def main_table(group: Group) -> list[dict]:
    """Table 1: every row's scores beside the paper's cell; methods of the paper that nobody measured say so."""
    columns = _columns(group.metric, mark=bool(text_paper.text_dataset(group.dataset).column))
    paper = f"paper, % (n={text_paper.text_facts()['trials']})"
    first, *others = columns
    empty = dict.fromkeys(
        [columns[first], paper, *(columns[metric] for metric in others), "without copies, %", "runs", "seeds", "probe"],
        NONE,
    )
    shown = [row.method for row in group.rows]
    unmeasured = [
        method for method in text_paper.TEXT_METHODS
        if method not in shown and text_paper.text_cell(method, group.dataset, "table1")
    ]  # fmt: skip
    common = group.probes[0].baseline
    rows = [{"method": "always the commonest label"} | empty | {columns[m]: f"{100 * common[m]:.2f}" for m in columns}]
    for method in [*text_paper.TEXT_METHODS, *(set(shown) - set(text_paper.TEXT_METHODS))]:
        for row in (row for row in group.rows if row.method == method):
            rows.append(
                {"method": row.title}
                | empty
                | {column: in_percent(row.spread(metric)) for metric, column in columns.items()}
                | {
                    paper: _theirs(row, group, "table1"),
                    "without copies, %": in_percent(row.spread(group.metric, deduplicated=True)),
                    "runs": str(len(row.probes)),
                    "seeds": row.seeds,
                    "probe": _named(row),
                }
            )
        if method in unmeasured:
            cell = paper_percent(method, group.dataset, "table1")
            rows.append({"method": titled(method)} | empty | {columns[first]: UNMEASURED, paper: cell})
    return rows


def paired_table(pairs: Sequence[Pair]) -> list[dict]:
    """Tests of the first row against the second by the score that decides, each with its p-value after Holm."""
    return [
        {
            **test_columns(first.title, second.title, test, adjusted),
            "texts": f"{first.probes[0].texts['test']:,}",
            "documents": f"{test.clusters:,}",
            "runs": f"{len(first.probes)} / {len(second.probes)}",
        }
        for first, second, test, adjusted in pairs
    ]


def titled(method: str) -> str:
    return text_paper.TEXT_METHODS[method].title


def _columns(metric: str, mark: bool) -> dict[str, str]:
    """The columns of the scores, the one that decides first."""
    order = [metric, *(name for name in SCORES if name != metric)]
    return {name: f"{SCORES[name]}{MARK if mark and name == metric else ''}, %" for name in order}


def label_table(group: Group) -> list[dict]:
    """F1 of each class or type of entity: mean over all probes and seeds of a row."""
    labels = dict.fromkeys(
        label for probe in group.probes for label, found in probe.per_label.items() if found.get("support")
    )
    supports = {
        label: max(probe.per_label.get(label, {}).get("support", 0) for probe in group.probes) for label in labels
    }
    rows = []
    for row in group.rows:
        cells = {}
        for label in labels:
            means = [probe.per_label[label]["f1"] for probe in row.probes if label in probe.per_label]
            flat = [share for shares in means for share in shares]
            cells[f"{label} ({supports[label]:,})"] = f"{100 * sum(flat) / len(flat):.1f}" if flat else NONE
        rows.append({"method": row.title} | cells)
    return rows


def small_table(group: Group, methods: tuple[str, ...], table: str) -> list[dict]:
    """One of the paper's small tables: its methods, each with the rows of these texts and its own cell."""
    column = f"{SCORES[group.metric]}, %"
    rows = []
    for method in methods:
        for row in [row for row in group.rows if row.method == method] or [None]:
            rows.append(
                {
                    "method": row.title if row else titled(method),
                    column: in_percent(row.spread(group.metric)) if row else UNMEASURED,
                    "paper, %": _theirs(row, group, table) if row else paper_percent(method, group.dataset, table),
                    "runs": str(len(row.probes)) if row else NONE,
                    "seeds": row.seeds if row else NONE,
                    "probe": _named(row) if row else NONE,
                }
            )
    return rows


def anchors_table(rows: Sequence[Row], metric: str) -> list[dict]:
    """Figure 4: the score of difference masking against how many anchors were found."""
    return [
        {
            "K": str(row.anchors_found),
            "method": row.title,
            f"{SCORES[metric]}, %": in_percent(row.spread(metric)),
            "runs": str(len(row.probes)),
            "seeds": row.seeds,
            "probe": _named(row),
        }
        for row in sorted(rows, key=lambda row: (row.anchors_found, row.method))
    ]


def run_table(runs: Sequence[TextRun]) -> list[dict]:
    """Every run with where it lies."""
    return [
        {
            "run": run.name,
            "path": run.path,
            "dataset": text_paper.text_dataset(run.dataset).title,
            "method": run.title,
            "steps": f"{run.steps:,}",
            "kept step": NONE if run.best_step is None else f"{run.best_step:,}",
            "validation loss": NONE if run.best_loss is None else f"{run.best_loss:.4f}",
            "seed": str(run.seed),
        }
        for run in runs
    ]


def probe_table(groups: Sequence[Group]) -> list[dict]:
    """Every probe with where it lies."""
    return [
        {
            "probe": probe.name,
            "path": probe.path,
            "dataset": text_paper.text_dataset(probe.dataset).title,
            "method": row.title,
            "mode": probe.mode,
            "score, %": mean_and_deviation(probe.scores[probe.metric]),
            "learning rate": f"{probe.learning_rate:g}",
            "checkpoint": probe.checkpoint,
            "texts": probe.records,
        }
        for group in groups
        for row in group.rows
        for probe in row.probes
    ]


def in_percent(found: Spread | None) -> str:
    """As 72.10 ± 0.45, or NONE."""
    if found is None:
        return NONE
    return f"{100 * found.mean:.2f}" + (f" ± {100 * found.std:.2f}" if found.std is not None else "")


def paper_percent(method: str, dataset: str, table: str) -> str:
    """The paper's cell as text, or NONE."""
    cell = text_paper.text_cell(method, dataset, table)
    if cell is None:
        return NONE
    return f"{cell.mean:.2f}" + (f" ± {cell.std:.2f}" if cell.std is not None else "")


def _theirs(row: Row, group: Group, table: str) -> str:
    """The paper's cell, which is of PAPER_ANCHORS anchors where there are any."""
    if row.anchors_found not in (None, PAPER_ANCHORS):
        return NONE
    return paper_percent(row.method, group.dataset, table)


def _named(row: Row) -> str:
    """The first probe of a row, and how many there are beside it."""
    more = len(row.probes) - 1
    return row.probes[0].name + (f" and {more} more" if more else "")
