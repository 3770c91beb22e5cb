"""What was measured in, rows of text out; and rows as Markdown and as LaTeX.

A row is {column: text}; the first row's keys are the columns. Shares come in, percent goes out. What nobody measured is
NONE, or says so: a number in a table is always that of a named run.
"""

import re
from collections.abc import Sequence

import numpy as np

from mmdiff.reports import paper
from mmdiff.reports.collect import VIEWS, Probe, Run
from mmdiff.reports.hidden_share import BUDGET, COVER, INSIDE, Hidden, Spread
from mmdiff.reports.page import layout
from mmdiff.reports.significance import Paired

NONE, UNMEASURED = "—", "not measured"
PEOPLE = ("person",)  # the paper's anchors for video
PAPER = f"paper, % (n={paper.facts()['trials']})"


def probe_table(results: list[dict]) -> list[dict]:
    """One row for each result: mean and standard deviation over seeds in percent, and what they were measured on.

    A result is {"name", "accuracy": {prediction: [share right, one for each seed]}, "chance", "questions", "mode"}.
    """
    return [
        {
            "run": result["name"],
            "probe": result["mode"],
            **{f"{view} (%)": mean_and_deviation(result["accuracy"].get(view, []), digits=1) for view in VIEWS},
            "chance (%)": f"{100 * result['chance']:.1f}",
            "seeds": " / ".join(str(n) for n in sorted({len(seeds) for seeds in result["accuracy"].values()})),
            "questions": str(result["questions"]),
        }
        for result in results
    ]


def accuracy_table(probes: list[Probe]) -> list[dict]:
    """Probes of the same questions beside chance and the paper, whose other strategies stand there unmeasured."""
    dataset = probes[0].dataset
    chances = sorted({f"{100 * probe.chance:.2f}" for probe in probes})
    columns = ("joint accuracy, %", PAPER, "mode", "chosen on", "seeds", "chance, %", "questions", "coverage", "probe")
    empty = dict.fromkeys(columns, NONE)
    rows = [((-1, ""), {"strategy": "chance", **empty, "joint accuracy, %": " / ".join(chances)})]
    for probe in probes:
        row = {
            "strategy": probe.title,
            "joint accuracy, %": mean_and_deviation(probe.joint),
            PAPER: paper_accuracy(probe.strategy, dataset, paper.ACCURACY),
            "mode": probe.mode,
            "chosen on": probe.selection,
            "seeds": str(len(probe.joint)),
            "chance, %": f"{100 * probe.chance:.2f}",
            "questions": f"{probe.questions:,}",
            "coverage": _coverage(probe.coverage.get("validation")),
            "probe": probe.name,
        }
        rows.append((paper.order(probe.strategy, paper.METHODS), row))
    for strategy in paper.METHODS.keys() - {probe.strategy for probe in probes}:
        if paper.cell(strategy, dataset, paper.ACCURACY):
            row = {"strategy": paper.title(strategy), **empty, "joint accuracy, %": UNMEASURED}
            row[PAPER] = paper_accuracy(strategy, dataset, paper.ACCURACY)
            rows.append((paper.order(strategy, paper.METHODS), row))
    return [row for _, row in sorted(rows, key=lambda pair: pair[0])]


def view_table(probes: list[Probe]) -> list[dict]:
    """What the joint accuracy is made of, and where it was chosen."""
    return [
        {
            "strategy": probe.title,
            **{f"{view}, %": mean_and_deviation(probe.accuracy[view]) for view in VIEWS},
            "joint at the last epoch, %": mean_and_deviation(probe.last_epoch_accuracy["joint"]),
            "chosen epoch": _range(probe.epoch),
            "learning rate": NONE if probe.learning_rate is None else f"{probe.learning_rate:g}",
            "mode": probe.mode,
            "chosen on": probe.selection,
            "probe": probe.name,
        }
        for probe in probes
    ]


def paired_table(pairs: Sequence[tuple[Probe, Probe, Paired, float]]) -> list[dict]:
    """Tests of the first probe against the second, each with its p-value after Holm."""
    return [
        {
            **test_columns(first.title, second.title, test, adjusted),
            "videos": f"{test.clusters:,}",
            "questions": f"{first.questions:,}",
            "seeds": f"{len(first.joint)} / {len(second.joint)}",
            "mode": first.mode,
            "chosen on": first.selection,
            "probes": f"{first.name}, {second.name}",
        }
        for first, second, test, adjusted in pairs
    ]


def test_columns(first: str, second: str, test: Paired, adjusted: float) -> dict[str, str]:
    """What every table of paired tests says of a pair, by the titles of its members."""
    return {
        "first": first,
        "second": second,
        "first - second, points": f"{100 * test.difference:+.2f}",
        "95% interval": f"{100 * test.low:+.2f} to {100 * test.high:+.2f}",
        "p": _p_value(test.p_value),
        "p (Holm)": _p_value(adjusted),
    }


def hidden_table(rows: Sequence[Hidden]) -> list[dict]:
    """Which share of the hidden patches lay inside boxes that match the anchors, seen where, and what those cover."""
    anchors, coverages = ({getattr(row.run, name) for row in rows} for name in ("anchors", "min_coverage"))
    return [
        {
            "strategy": paper.title(run.strategy),
            "preset": run.preset or NONE,
            **({"anchors": ", ".join(run.anchors)} if len(anchors) > 1 else {}),
            **({"min. coverage": _number(run.min_coverage)} if len(coverages) > 1 else {}),
            INSIDE: UNMEASURED if share is None else f"{100 * share:.1f}",
            "paper, %": _percent(paper_share(run), digits=0),
            COVER: NONE if cover is None else f"{100 * cover:.1f}",
            BUDGET: NONE if run.box_budget is None else f"{100 * run.box_budget:.1f}",
            "ratio, %": NONE if run.ratio is None else f"{100 * run.ratio:g}",
            "measured in": _measured_in(split, lines, windows),
            "run": run.name,
        }
        for run, share, split, lines, windows, cover, _ in rows
    ]


def _measured_in(split: str, lines: int, windows: int) -> str:
    if windows:
        return f"{split}, {counted(windows, 'window')}"
    return f"{split}, {counted(lines, 'line', 'mean of ')}" if lines else NONE


def target_table(rows: Sequence[Hidden]) -> list[dict]:
    """How many pooled places each window's masking makes targets; a dash where nobody counted them."""
    return [
        {
            "strategy": paper.title(run.strategy),
            "preset": run.preset or NONE,
            "unit": run.unit,
            "hidden at": run.hide_at,
            "targets a window": mean_and_std(targets),
            "min to max": NONE if targets is None else f"{targets.low:,} to {targets.high:,}",
            "of all pools, %": NONE if targets is None else f"{100 * targets.of_pools:.1f}",
            "windows": f"{windows:,}" if windows else NONE,
            "run": run.name,
        }
        for run, _, _, _, windows, _, targets in rows
    ]


def method_table(probes: list[Probe], methods: tuple[str, ...], table: str) -> list[dict]:
    """One of the paper's small tables: its methods, each with the probes of the same questions and its own cell."""
    dataset, rows = probes[0].dataset, []
    for strategy in methods:
        measured = [probe for probe in probes if probe.strategy == strategy]
        for probe in measured or [None]:
            rows.append(
                {
                    "strategy": probe.title if probe else paper.title(strategy),
                    "joint accuracy, %": mean_and_deviation(probe.joint) if probe else UNMEASURED,
                    "seeds": str(len(probe.joint)) if probe else NONE,
                    "questions": f"{probe.questions:,}" if probe else NONE,
                    "mode": probe.mode if probe else NONE,
                    "chosen on": probe.selection if probe else NONE,
                    "paper, %": paper_accuracy(strategy, dataset, (table,)),
                    "probe": probe.name if probe else NONE,
                }
            )
    return rows


def source_tables(probes: list[Probe], runs: list[Run], run_of: dict[str, Run]) -> dict[str, list[dict]]:
    """Every probe and run with where it lies; `run_of` gives the run that made a probe's checkpoint."""
    return {
        "Probes": [
            {
                "probe": probe.name,
                "path": probe.path,
                "dataset": dataset_title(probe.dataset, probe.protocol),
                "strategy": probe.title,
                "mode": probe.mode,
                "checkpoint": probe.checkpoint,
                "steps": f"{run_of[probe.path].steps:,}" if probe.path in run_of else NONE,
                "records": probe.records,
            }
            for probe in probes
        ],
        "Continued pretraining": [
            {
                "run": run.name,
                "path": run.path,
                "dataset": dataset_title(run.dataset, None),
                "strategy": run.title,
                "steps": f"{run.steps:,}",
                "kept step": NONE if run.best_step is None else f"{run.best_step:,}",
                "seed": NONE if run.seed is None else str(run.seed),
                "records": run.records or NONE,
            }
            for run in runs
        ],
    }


def dataset_title(name: str, protocol: str | None) -> str:
    """As in "Social-IQ, protocol a2"."""
    return paper.dataset(name).title + (f", protocol {protocol}" if protocol else "")


def paper_share(run: Run) -> paper.Cell | None:
    """The cell of the paper's Table 2, whose boxes are those of people, if the run's are."""
    return paper.cell(run.strategy, run.dataset, ("table2",)) if run.anchors == PEOPLE else None


def paper_accuracy(strategy: str, dataset: str, tables: tuple[str, ...]) -> str:
    """The paper's cell as text, or NONE."""
    return _percent(paper.cell(strategy, dataset, tables), digits=2)


def mean_and_deviation(shares: list[float], digits: int = 2) -> str:
    """In percent, as 72.10 ± 0.45: the sample deviation."""
    if not len(shares):
        return NONE
    percent = 100 * np.asarray(shares, np.float64)
    # One seed says nothing about spread; a zero there would be a claim.
    spread = f" ± {percent.std(ddof=1):.{digits}f}" if len(percent) > 1 else ""
    return f"{percent.mean():.{digits}f}{spread}"


def mean_and_std(targets: Spread | None) -> str:
    """As 343.7 ± 16.8, or NONE."""
    if targets is None:
        return NONE
    return f"{targets.mean:,.1f}" + ("" if targets.std is None else f" ± {targets.std:,.1f}")


def counted(number: int, what: str, before: str = "") -> str:
    """As "1 window", or "mean of 12 lines"."""
    return f"{before}{number:,} {what}{'s' * (number != 1)}"


def to_markdown(rows: list[dict]) -> str:
    """The rows as a Markdown table, padded so that it also reads well as it is."""
    table = layout(rows)
    if table is None:
        return ""
    numbers = [column["number"] for column in table["columns"]]
    lines = [[escape_markdown(text) for text in cells] for cells in (_header(table), *table["cells"])]
    widths = [max(3, *(len(line[i]) for line in lines)) for i in range(len(numbers))]

    def written(cells: list[str]) -> str:
        padded = [
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, number in zip(cells, widths, numbers, strict=True)
        ]
        return "| " + " | ".join(padded) + " |"

    rule = ["-" * (width - 1) + ":" if number else "-" * width for width, number in zip(widths, numbers, strict=True)]
    return "\n".join([written(lines[0]), written(rule), *map(written, lines[1:])]) + "\n"


def to_latex(rows: list[dict]) -> str:
    """The rows as a booktabs tabular."""
    table = layout(rows)
    if table is None:
        return ""
    columns = "".join("r" if column["number"] else "l" for column in table["columns"])
    lines = [" & ".join(escape_latex(cell) for cell in cells) + r" \\" for cells in (_header(table), *table["cells"])]
    return "\n".join(
        [
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            lines[0],
            r"\midrule",
            *lines[1:],
            r"\bottomrule",
            r"\end{tabular}",
        ]
    )


MARKDOWN = re.compile(r"[\\|<*~\[\]]|&(?=#?\w+;)|(?<!\w)_|_(?!\w)")  # within a word, _ is only itself
LATEX = {
    "\\": r"\textbackslash{}",
    **{sign: "\\" + sign for sign in "{}$&#%_"},
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "±": r"$\pm$",
    "−": r"$-$",
    "–": "--",
    "—": "---",
    "×": r"$\times$",
    "…": r"\ldots{}",
    "\n": " ",
}


def escape_markdown(text: str) -> str:
    """Text that Markdown shows as it is, in a cell too."""
    return MARKDOWN.sub(lambda found: "\\" + found[0], " ".join(text.split()))


def escape_latex(text: str) -> str:
    """Text that LaTeX sets as it is."""
    return "".join(LATEX.get(sign, sign) for sign in text)


def _header(table: dict) -> list[str]:
    return [column["name"] for column in table["columns"]]


def _percent(cell: paper.Cell | None, digits: int) -> str:
    if cell is None:
        return NONE
    return f"{cell.mean:.{digits}f}" + (f" ± {cell.std:.{digits}f}" if cell.std is not None else "")


def _coverage(counts: dict | None) -> str:
    if not counts or not counts["annotated"]:
        return NONE
    return f"{100 * counts['kept'] / counts['annotated']:.1f}% of {counts['annotated']:,}"


def _range(values: list[int]) -> str:
    if not values:
        return NONE
    return str(min(values)) if min(values) == max(values) else f"{min(values)} to {max(values)}"


def _number(value: float | None) -> str:
    return NONE if value is None else f"{value:g}"


def _p_value(value: float) -> str:
    return f"{value:.4f}"
