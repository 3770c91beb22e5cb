"""Probe results in, rows of text for a page or for markdown out."""

import numpy as np

PREDICTIONS = ("audio", "text", "joint")  # from the audio view, from the subtitle view, and of both together


def probe_table(results: list[dict]) -> list[dict]:
    """One row for each result: mean and standard deviation over seeds in percent, and what they were measured on.

    A result is {"name", "accuracy": {prediction: [share right, one for each seed]}, "chance", "questions", "mode"}.
    """
    return [
        {
            "run": result["name"],
            "probe": result["mode"],
            **{f"{name} (%)": _mean_and_deviation(result["accuracy"].get(name, [])) for name in PREDICTIONS},
            "chance (%)": f"{100 * result['chance']:.1f}",
            "seeds": " / ".join(str(n) for n in sorted({len(seeds) for seeds in result["accuracy"].values()})),
            "questions": str(result["questions"]),
        }
        for result in results
    ]


def to_markdown(rows: list[dict]) -> str:
    """The rows as a markdown table; the first row's keys are the columns."""
    if not rows:
        return ""
    names = list(rows[0])
    cells = [names, ["---"] * len(names), *([str(row.get(name, "")) for name in names] for row in rows)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells) + "\n"


def _mean_and_deviation(shares: list[float]) -> str:
    if not len(shares):
        return "–"
    percent = 100 * np.asarray(shares, np.float64)
    # One seed says nothing about spread; a zero there would be a claim.
    return f"{percent.mean():.1f}" + (f" ± {percent.std(ddof=1):.1f}" if len(percent) > 1 else "")
