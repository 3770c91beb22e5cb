"""Metrics in, a PNG of their curves out."""

import io
import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Int
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

# Okabe and Ito's colours, those that stand out on white first; the markers differ too.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GREY = "#5c636c"
PANELS_PER_ROW = 3
DOTS_PER_INCH = 180
LETTER, KEY = 0.075, 0.5  # inches of a legend: a letter, and the line before a name with the space around it
SPLITS = ("train", "validation")
UNITS = ("patch", "pooled")  # each has its colour in every picture; a unit that is not here has the next one
Limits = tuple[float, float]


class Counts(NamedTuple):
    """What one row of `distributions` shows."""

    name: str
    below: str  # a second, smaller line, or ""
    values: Int[np.ndarray, " w"]
    unit: str  # of what was hidden; rows of one unit have one colour


class Curve(NamedTuple):
    """Accuracy after each epoch, over seeds; shares."""

    epoch: list[int]
    mean: list[float]
    std: list[float]


class Points(NamedTuple):
    """One line of `scores_against`: means and deviations in percent."""

    x: list[int]
    mean: list[float]
    std: list[float]


def has_curve(lines: list[dict], keys: list[str]) -> bool:
    """Whether `loss_curves` finds something to draw in a run's lines."""
    return any(_curve(lines, key, split)[0] for key in keys for split in SPLITS)


def loss_limits(runs: list[list[dict]], keys: list[str]) -> dict[str, Limits]:
    """Of each key's axis, so that several pictures can be read beside each other."""
    values = {key: [y for lines in runs for split in SPLITS for y in _curve(lines, key, split)[1]] for key in keys}
    return {key: _around(found) for key, found in values.items() if found}


def epoch_limits(curves: list[Curve], chances: list[float]) -> Limits | None:
    """The same for `epoch_curves`, in percent; None without a curve."""
    ends = [
        100 * (m + sign * s) for curve in curves for m, s in zip(curve.mean, curve.std, strict=True) for sign in (-1, 1)
    ]
    return _around([*ends, *(100 * chance for chance in chances)]) if ends else None


def count_limits(values: list[Int[np.ndarray, " w"]]) -> Limits | None:
    """The same for `distributions`; None without a value."""
    return _around(np.concatenate(values).tolist()) if values else None


def _around(values: list[int | float]) -> Limits:
    low, high = min(values), max(values)
    room = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return low - room, high + room


def loss_curves(runs: dict[str, list[dict]], keys: list[str], limits: dict[str, Limits] | None = None) -> bytes:
    """One panel for each key: training as a line, validation as markers, one colour for each run.

    A line of metrics is {"step": 10, "split": "train" or "validation", key: number}; a line without a panel's key, or
    without a finite number there, is left out of that panel. `limits` are those of axes, by key. Raises ValueError where nothing is left to draw.
    """
    shown = [key for key in keys if any(_curve(lines, key, split)[0] for lines in runs.values() for split in SPLITS)]
    if not shown:
        raise ValueError(f"no run holds a finite number for any of {', '.join(keys) or 'no keys'}: nothing to plot")
    columns = min(len(shown), PANELS_PER_ROW)
    rows = math.ceil(len(shown) / columns)
    figure = _figure(max(3.5 * columns, 5.6), 2.75 * rows + 0.45)
    for index, key in enumerate(shown):
        panel = _panel(figure, (rows, columns, index + 1), key.replace("_", " ").replace("/", ": "), "step")
        for number, lines in enumerate(runs.values()):
            colour, marker = _style(number)
            panel.plot(*_curve(lines, key, "train"), color=colour, linewidth=1.4, alpha=0.9)
            panel.plot(
                *_curve(lines, key, "validation"), color=colour, marker=marker, markersize=5.5, linestyle="none",
                markeredgecolor="white", markeredgewidth=0.7, zorder=3,
            )  # fmt: skip
        panel.set_ylim((limits or {}).get(key))
    handles = _legend(list(runs))
    fit = int(figure.get_figwidth() / (LETTER * max(len(handle.get_label()) for handle in handles) + KEY))
    figure.legend(
        handles=handles, loc="outside lower center", ncols=min(max(fit, 1), 4), frameon=False, fontsize=9.5,
        handlelength=1.8,
    )  # fmt: skip
    return _png(figure)


def epoch_curves(curves: dict[str, Curve], chance: float, limits: Limits | None = None) -> bytes:
    """Accuracies of probes against epochs, in percent: the mean over seeds, and one deviation around it.

    `limits` are those of the accuracies' axis.

    Raises ValueError where nothing is left to draw.
    """
    if not any(curve.epoch for curve in curves.values()):
        raise ValueError("no probe holds an epoch: nothing to plot")
    figure = _figure(10.5, 3.4)
    panel = _panel(figure, (1, 1, 1), "joint accuracy, %", "epoch")
    for number, curve in enumerate(curves.values()):
        colour, marker = _style(number)
        low, high = ([100 * (m + sign * s) for m, s in zip(curve.mean, curve.std, strict=True)] for sign in (-1, 1))
        panel.plot(
            curve.epoch, [100 * mean for mean in curve.mean], color=colour, marker=marker, markersize=4, linewidth=1.4
        )
        panel.fill_between(curve.epoch, low, high, color=colour, alpha=0.15, linewidth=0)
    panel.axhline(100 * chance, color=GREY, linewidth=1.2, linestyle="--")
    panel.set_ylim(limits)
    handles = [_handle(name, *_style(number)) for number, name in enumerate(curves)]
    handles.append(Line2D([], [], color=GREY, linewidth=1.2, linestyle="--", label="chance"))
    figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=9.5, handlelength=1.8)
    return _png(figure)


def distributions(rows: list[Counts], what: str, limits: Limits | None = None) -> bytes:
    """One row each: every value as a dot, the middle half of them as a box with the median, mean ± deviation in words.

    `limits` are those of the values' axis.

    Raises ValueError where there is no row, or one without a value.
    """
    if not rows or not all(len(row.values) for row in rows):
        raise ValueError("a row without a value: nothing to plot")
    figure = _figure(10.5, 0.56 * len(rows) + 1.25)
    panel = _panel(figure, (1, 1, 1), "", what)
    panel.grid(axis="y", visible=False)
    panel.grid(axis="x", color="#e6e9ec", linewidth=0.8)
    jitter = np.random.default_rng(0)  # of the picture only
    for place, row in enumerate(rows):
        colour, marker = _unit_style(row.unit)
        low, middle, high = np.percentile(row.values, (25, 50, 75))
        offset = jitter.uniform(-0.26, 0.26, len(row.values)) if len(row.values) > 1 else np.zeros(1)
        panel.plot(
            row.values, place + offset, color=colour, marker=marker, markersize=3.6, linestyle="none",
            alpha=max(0.18, min(0.8, 30 / len(row.values))), markeredgewidth=0,
        )  # fmt: skip
        panel.add_patch(
            Rectangle((low, place - 0.32), high - low, 0.64, facecolor="none", edgecolor="#181c21", linewidth=1.1)
        )
        panel.plot([middle, middle], [place - 0.32, place + 0.32], color="#181c21", linewidth=2.4)
        deviation = f" ± {row.values.std(ddof=1):,.1f}" if len(row.values) > 1 else ""
        panel.annotate(
            f"{row.values.mean():,.1f}{deviation}", (1.01, place), xycoords=panel.get_yaxis_transform(), va="center",
            fontsize=9.5,
        )  # fmt: skip
    panel.annotate(
        "mean ± sd", (1.01, -0.75), xycoords=panel.get_yaxis_transform(), va="center", fontsize=9, color=GREY,
        annotation_clip=False,
    )  # fmt: skip
    panel.set_ylim(len(rows) - 0.45, -0.55)
    panel.set_xlim(limits)
    panel.set_yticks(range(len(rows)), [row.name for row in rows], fontsize=9.5, color="#181c21")
    if any(row.below for row in rows):
        panel.set_yticks(
            range(len(rows)), [row.name + (f"\n{row.below}" if row.below else "") for row in rows], fontsize=9
        )
        for label in panel.get_yticklabels():
            label.set_color("#181c21")
    handles = []
    for unit in dict.fromkeys(row.unit for row in rows):
        colour, marker = _unit_style(unit)
        label = f"one window, unit {unit}"
        handles.append(Line2D([], [], color=colour, marker=marker, markersize=5, linestyle="none", label=label))
    handles.append(Rectangle((0, 0), 1, 1, facecolor="none", edgecolor="#181c21", label="middle half of the windows"))
    handles.append(Line2D([], [], color="#181c21", linewidth=2.4, label="median"))
    figure.legend(
        handles=handles, loc="outside lower center", ncols=min(len(handles), 4), frameon=False, fontsize=9.5,
        handlelength=1.8,
    )  # fmt: skip
    return _png(figure)


def scores_against(lines: dict[str, Points], score: str, x: str, level: tuple[str, float] | None = None) -> bytes:
    """Each line's mean with one deviation as a whisker; `level` is a named dashed line.

    Raises ValueError where there is nothing to draw.
    """
    if not any(points.x for points in lines.values()):
        raise ValueError("no point: nothing to plot")
    figure = _figure(10.5, 3.4)
    panel = _panel(figure, (1, 1, 1), score, x)
    handles = []
    for number, (name, points) in enumerate(lines.items()):
        colour, marker = _style(number)
        panel.errorbar(
            points.x, points.mean, yerr=points.std, color=colour, marker=marker, markersize=5.5, linewidth=1.4, capsize=3,
            markeredgecolor="white", markeredgewidth=0.7,
        )  # fmt: skip
        handles.append(_handle(name, colour, marker))
    if level:
        panel.axhline(level[1], color=GREY, linewidth=1.2, linestyle="--")
        handles.append(Line2D([], [], color=GREY, linewidth=1.2, linestyle="--", label=level[0]))
    panel.set_xticks(sorted({place for points in lines.values() for place in points.x}))
    figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=9.5, handlelength=1.8)
    return _png(figure)


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)
    FigureCanvasAgg(figure)
    return figure


def _panel(figure: Figure, place: tuple[int, int, int] | tuple[SubplotSpec], title: str, x: str) -> Axes:
    panel = figure.add_subplot(*place)
    panel.set_title(title, fontsize=10.5, loc="left", fontweight="bold")
    panel.set_xlabel(x, fontsize=9.5, color=GREY)
    panel.tick_params(labelsize=9, color="#c3c8ce", labelcolor=GREY)
    panel.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    panel.yaxis.set_major_locator(MaxNLocator(5))
    panel.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    panel.grid(axis="y", color="#e6e9ec", linewidth=0.8)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
    panel.spines[["left", "bottom"]].set_color("#c3c8ce")
    panel.margins(x=0.03)
    return panel


def _png(figure: Figure) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="png", facecolor="white")
    return out.getvalue()


def _curve(lines: list[dict], key: str, split: str) -> tuple[list, list]:
    points = [(line["step"], line[key]) for line in lines if line.get("split") == split and line.get(key) is not None]
    points = sorted(point for point in points if math.isfinite(point[1]))
    return [step for step, _ in points], [value for _, value in points]


def _style(number: int) -> tuple[str, str]:
    return COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]


def _unit_style(unit: str) -> tuple[str, str]:
    return _style(UNITS.index(unit) if unit in UNITS else len(UNITS))


def _legend(names: list[str]) -> list[Line2D]:
    handles = [_handle(name, *_style(number)) for number, name in enumerate(names)]
    handles.append(Line2D([], [], color=GREY, linewidth=1.4, label="line: training"))
    handles.append(
        Line2D([], [], color=GREY, marker="o", markersize=5.5, linestyle="none", label="markers: validation")
    )
    return handles


def _handle(name: str, colour: str, marker: str) -> Line2D:
    return Line2D([], [], color=colour, marker=marker, markersize=5.5, markeredgecolor="white", label=name)
