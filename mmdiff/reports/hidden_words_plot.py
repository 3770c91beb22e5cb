"""Hidden words in, PNGs of how often and how far beyond chance out."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Circle
from matplotlib.textpath import TextPath

from mmdiff.reports.hidden_words import Standing
from mmdiff.reports.plots import DOTS_PER_INCH, GREY, _figure, _panel, _png

INK = "#181c21"
WIDTH, HEIGHT, BAR = 10.5, 3.9, 0.55  # inches: of a picture, of a method's row, and below all of them
SHARES = (1.45, 1.0)  # of the width: discs and lines
WIDER = 1.7  # than high
GAP = 0.03  # between bubbles, in parts of the largest one's radius
LARGEST, SMALLEST = 15.0, 5.5  # points of a word
# Red below chance, blue above: four times less and four times more have the full colour.
TIMES = (0.25, 0.5, 1, 2, 4)
COLOURS_OF_TIMES = LinearSegmentedColormap.from_list("times", ["#d55e00", "#f4c9a8", "#eceff2", "#8cc3e6", "#0072b2"])


class Hidden(NamedTuple):
    """What one row shows of a method."""

    often: Sequence[Standing]  # most hidden first
    beyond: Sequence[Standing]  # most surely beyond chance first


def hidden_words(methods: dict[str, Hidden]) -> bytes:
    """One row for each method. Left discs: area is how often a word was hidden, colour in parts of chance. Right the words
    beyond chance: how far, with an interval.

    Raises ValueError where there is nothing to draw.
    """
    if not methods or not all(shown.often for shown in methods.values()):
        raise ValueError("a method without a hidden word: nothing to plot")
    figure = _figure(WIDTH, HEIGHT * len(methods) + BAR)
    grid = figure.add_gridspec(len(methods), 2, width_ratios=SHARES)
    tallest = max(len(shown.beyond) for shown in methods.values())
    farthest = max((standing.high for shown in methods.values() for standing in shown.beyond), default=1.0)
    discs, panels = {}, []
    for row, (name, shown) in enumerate(methods.items()):
        panels.append(_panel(figure, (grid[row, 0],), name, ""))
        discs[name] = panels[-1], _draw_discs(panels[-1], shown.often)
        if shown.beyond:
            panels.append(_panel(figure, (grid[row, 1],), "", "times chance"))
            _draw_lines(panels[-1], shown.beyond, tallest, farthest)
    low, high = math.log2(TIMES[0]), math.log2(TIMES[-1])
    bar = figure.colorbar(
        ScalarMappable(Normalize(low, high), COLOURS_OF_TIMES), ax=panels, location="bottom", shrink=0.5, aspect=45,
        pad=0.15 / len(methods) / HEIGHT,
    )  # fmt: skip
    bar.set_ticks([math.log2(times) for times in TIMES], labels=["¼ or less", "½", "chance", "2 ×", "4 × or more"])
    bar.ax.tick_params(labelsize=9, labelcolor=GREY, length=0)
    bar.outline.set_visible(False)
    figure.draw_without_rendering()  # now panels have the sizes that words must fit into
    for panel, found in discs.values():
        _name_discs(panel, found)
    return _png(figure)


def _draw_lines(panel: Axes, standings: Sequence[Standing], tallest: int, farthest: float) -> None:
    panel.grid(axis="y", visible=False)
    panel.axvline(1, color=GREY, linewidth=1, linestyle="--")
    for place, standing in enumerate(standings):
        panel.plot([standing.low, standing.high], [place, place], color="#9aa3ad", linewidth=1.2, zorder=2)
        panel.plot(
            standing.times, place, marker="o", markersize=6.5, color=_colour(standing.times), markeredgecolor=INK,
            markeredgewidth=0.7, zorder=3,
        )  # fmt: skip
        panel.annotate(
            f"{standing.hidden:,} of {standing.occurs:,}", (0.99, place), xycoords=panel.get_yaxis_transform(), ha="right",
            va="center", fontsize=8, color=GREY,
        )  # fmt: skip
    panel.set_yticks(range(len(standings)), [standing.word for standing in standings], fontsize=9)
    for label in panel.get_yticklabels():
        label.set_color(INK)
        label.set_parse_math(False)  # a word may hold a dollar
    panel.set_ylim(tallest - 0.4, -0.7)
    panel.set_xlim(0, 1.35 * farthest)  # with room for the counts


def _draw_discs(panel: Axes, standings: Sequence[Standing]) -> list[tuple[Standing, Circle]]:
    panel.set_aspect("equal")
    panel.axis("off")
    radii = np.sqrt([standing.hidden for standing in standings])
    radii = radii / radii.max()
    centres = packed(radii)
    low, high = (centres - radii[:, None]).min(axis=0), (centres + radii[:, None]).max(axis=0)
    panel.set_xlim(low[0], high[0])
    panel.set_ylim(low[1], high[1])
    return [
        (standing, panel.add_patch(Circle(centre, radius, facecolor=_colour(standing.times), edgecolor="none")))
        for standing, centre, radius in zip(standings, centres, radii, strict=True)
    ]


def _name_discs(panel: Axes, discs: list[tuple[Standing, Circle]]) -> None:
    (left, _), (right, _) = panel.transData.transform([(0, 0), (1, 0)])
    points = (right - left) * 72 / DOTS_PER_INCH
    for standing, disc in discs:
        white = _luminance(disc.get_facecolor()) < 0.42
        panel.text(
            *disc.center, standing.word, ha="center", va="center_baseline", color="white" if white else INK, parse_math=False,
            fontsize=_size(standing.word, 2 * disc.radius * points),
        )  # fmt: skip


def packed(radii: np.ndarray) -> np.ndarray:
    """Centres `n 2` of discs of which none lies over another, the largest first and in the middle."""
    centres = np.zeros((len(radii), 2))
    if len(radii) > 1:
        centres[1] = (radii[0] + radii[1] + GAP, 0)
    for i in range(2, len(radii)):
        reach = radii[:i] + radii[i] + GAP  # how far from the others this one must stay
        best, nearest = None, math.inf
        for first in range(i):
            for second in range(first):
                for centre in _touching(centres[first], reach[first], centres[second], reach[second]):
                    free = np.hypot(*(centres[:i] - centre).T) > reach - 1e-9
                    far = math.hypot(centre[0] / WIDER, centre[1])
                    if far < nearest and free.all():
                        best, nearest = centre, far
        centres[i] = best
    return centres


def _touching(first: np.ndarray, a: float, second: np.ndarray, b: float) -> list[np.ndarray]:
    """The points at distance `a` from the first and `b` from the second."""
    between = second - first
    apart = math.hypot(*between)
    if apart == 0 or apart > a + b or apart < abs(a - b):
        return []
    along = (a * a - b * b + apart * apart) / (2 * apart)
    aside = math.sqrt(max(a * a - along * along, 0.0))
    middle = first + along * between / apart
    normal = np.array([-between[1], between[0]]) / apart
    return [middle + aside * normal, middle - aside * normal]


def _size(word: str, width: float) -> float:
    """Points at which a word fits into a disc so many points wide."""
    long = TextPath((0, 0), word.replace("$", "s"), size=100, prop=FontProperties()).get_extents().width / 100
    return min(max(0.9 * width / max(long, 0.5), SMALLEST), LARGEST)


def _colour(times: float) -> tuple[float, ...]:
    low, high = math.log2(TIMES[0]), math.log2(TIMES[-1])
    place = (math.log2(times) - low) / (high - low) if times > 0 else 0.0
    return COLOURS_OF_TIMES(min(max(place, 0.0), 1.0))


def _luminance(colour: tuple[float, ...]) -> float:
    return 0.2126 * colour[0] + 0.7152 * colour[1] + 0.0722 * colour[2]
