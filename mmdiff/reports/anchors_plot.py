"""Table and picture of the words that set a corpus apart: `mmdiff anchors`."""

import io
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from mmdiff.data.corpus import count_words
from mmdiff.data.text_corpora import read_corpus
from mmdiff.errors import UserError
from mmdiff.masking.anchors import word_anchors_config
from mmdiff.masking.tf_icf import FoundWord, WordRules, common_words_warning, find_words, read_general
from mmdiff.reports.plots import COLOURS, DOTS_PER_INCH, GREY
from mmdiff.reports.tables import NONE, to_markdown
from mmdiff.whole_files import write_whole

INK = "#181c21"
FAINT = "#c3c8ce"
RATIOS = (1, 10, 100, 1_000, 10_000, 100_000)  # those whose lines lie in the picture are drawn
ROW = 0.235  # inches of a bar
LETTER, LINE, DOT = 0.069, 0.15, 0.05  # inches: of a name, a letter and its height; half a dot
AWAY = (0.08, 0.2, 0.34, 0.48, 0.65, 0.85, 1.1)  # inches between a name and its dot, the nearer the better
ANGLES = [math.pi * turn / 8 for turn in (4, 8, 0, 12, 6, 2, 10, 14, 7, 5, 9, 3, 11, 1, 13, 15)]  # above first


class CorpusAnchors(NamedTuple):
    """The anchors of a corpus, and what they were found in."""

    name: str
    found: list[FoundWord]
    rules: WordRules
    source: str  # of the general frequencies
    texts: int
    counts: Mapping[str, int]
    general: Mapping[str, int]

    def describe(self) -> str:
        """A table, what it was made of, and a warning where anchors are common words."""
        warning = common_words_warning(self.found)
        return (
            f"{anchors_table(self.found)}{self.texts:,} training texts of {self.name}, {sum(self.counts.values()):,} words; "
            f"in general: {self.source}, {sum(self.general.values()):,} words"
            + (f"\nWARNING: {warning}" if warning else "")
        )

    def write(self, folder: str | Path) -> Path:
        """anchors.png and anchors.json of a folder; returns the picture."""
        folder = Path(folder)
        stored = {
            "corpus": self.name,
            "training_texts": self.texts,
            "words": sum(self.counts.values()),
            "unigrams": self.source,
            "rules": self.rules._asdict(),
            "found": [word._asdict() for word in self.found],
            "warning": common_words_warning(self.found),
        }
        write_whole(folder / "anchors.json", (json.dumps(stored, indent=2, ensure_ascii=False) + "\n").encode())
        title = f"Words of {self.name}"
        picture = anchors_plot(self.found, self.counts, self.general, self.rules.min_count, title)
        write_whole(folder / "anchors.png", picture)
        return folder / "anchors.png"


def corpus_anchors(folder: str | Path, **rules) -> CorpusAnchors:
    """The words that set a corpus' training texts apart.

    Args:
      folder: of the corpus, or one file.
      rules: fields of AnchorsConfig that say what may be found; those left out are as where text starts from.

    Raises CorpusError or TfIcfError, as what cannot be read says, or UserError for a rule that means nothing.
    """
    config = word_anchors_config(**rules)
    try:
        config.validate()
    except ValueError as error:
        raise UserError(str(error)) from None
    corpus = read_corpus(folder)
    if "train" not in corpus.splits:
        raise UserError(f"{folder} holds no training texts, and anchors are looked for in no others")
    general = read_general(config.unigrams)
    counts = count_words(text.text for text in corpus.splits["train"])
    found = find_words(counts, general, config.find, config.rules())
    source = Path(config.unigrams).name or "wordfreq (English)"
    return CorpusAnchors(corpus.name, found, config.rules(), source, len(corpus.splits["train"]), counts, general)


def anchors_table(found: Sequence[FoundWord]) -> str:
    """The anchors as Markdown, best first."""
    return to_markdown(
        [
            {
                "": str(place),
                "word": word.word,
                "count": f"{word.count:,}",
                "in general": f"{word.general_count:,}" if word.general_count else NONE,
                "TF-ICF": _short(word.tf_icf),
            }
            for place, word in enumerate(found, start=1)
        ]
    )


def _short(score: float) -> str:
    return f"{score:,.0f}" if score >= 100 else f"{score:.3g}"


def anchors_plot(
    found: Sequence[FoundWord], counts: Mapping[str, int], general: Mapping[str, int], min_count: int, title: str
) -> bytes:
    """A PNG: every word by how often it occurs in general and here, the anchors named; and the anchors' TF-ICF.

    Args:
      found: the anchors, best first; at least one.
      counts: of every word of the domain.
      general: of words in general.
      min_count: what an anchor needs; above 1, the line above which it lies is drawn.
      title: of the picture.
    """
    if not found:
        raise ValueError("no anchors: nothing to plot")
    figure = Figure(figsize=(11.5, max(4.6, ROW * len(found) + 1.3)), dpi=DOTS_PER_INCH, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)
    FigureCanvasAgg(figure)
    words, bars = figure.subplots(1, 2, width_ratios=(1.55, 1))
    _scatter(words, found, counts, general, min_count, title)
    _bars(bars, found)
    _name_anchors(figure, words, found, counts, general)
    out = io.BytesIO()
    figure.savefig(out, format="png", facecolor="white")
    return out.getvalue()


def _places(words: Sequence[str], counts: Mapping[str, int], general: Mapping[str, int]) -> tuple[list, list]:
    """Per million words in general and here; words that general lacks lie where the rarest do."""
    total, general_total, rarest = sum(counts.values()), sum(general.values()), min(general.values())
    return [1e6 * general.get(word, rarest) / general_total for word in words], [
        1e6 * counts[word] / total for word in words
    ]


def _scatter(
    panel: Axes,
    found: Sequence[FoundWord],
    counts: Mapping[str, int],
    general: Mapping[str, int],
    min_count: int,
    title: str,
) -> None:
    names = {word.word for word in found}
    others = [word for word in counts if word not in names]
    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.plot(
        *_places(others, counts, general), marker="o", markersize=2.6, markeredgewidth=0, linestyle="none", color=GREY,
        alpha=0.22, rasterized=True,
    )  # fmt: skip
    panel.plot(
        *_places([word.word for word in found], counts, general), marker="o", markersize=5, linestyle="none",
        color=COLOURS[1], markeredgecolor="white", markeredgewidth=0.6, zorder=4,
    )  # fmt: skip
    low, high = panel.get_xlim()
    low /= 8  # room for names
    panel.set_xlim(low, high)
    bottom, top = panel.get_ylim()
    panel.set_ylim(bottom, top)
    for ratio in RATIOS:
        panel.plot((low, high), (low * ratio, high * ratio), color=FAINT, linewidth=0.8, linestyle=":", zorder=1)
        right = min(high, top / ratio)
        if low < right and bottom < right * ratio:
            panel.annotate(
                f"x{ratio:,}", (right, right * ratio), xytext=(-3, -3), textcoords="offset points", ha="right",
                va="top", fontsize=7.5, color=GREY,
            )  # fmt: skip
    if min_count > 1:
        line = 1e6 * min_count / sum(counts.values())
        panel.axhline(line, color=COLOURS[0], linewidth=0.9, linestyle="--", zorder=2)
        panel.annotate(
            f"{min_count} times", (high, line), xytext=(-3, 2), textcoords="offset points", ha="right", fontsize=8,
            color=COLOURS[0],
        )  # fmt: skip
    _dress(panel, title, "per million words in general (words not listed there: as the rarest)")
    panel.set_ylabel("per million words here", fontsize=9.5, color=GREY)


def _name_anchors(
    figure: Figure, panel: Axes, found: Sequence[FoundWord], counts: Mapping[str, int], general: Mapping[str, int]
) -> None:
    """The name of each dot where nothing else is, as near to it as that is possible; of many, some get none."""
    figure.canvas.draw()  # lays the panels out: only now it is known where a dot lies
    x, y = _places([word.word for word in found], counts, general)
    to_inches = figure.dpi_scale_trans.inverted()
    dots = [to_inches.transform(panel.transData.transform(dot)).tolist() for dot in zip(x, y, strict=True)]
    inside = panel.get_window_extent().transformed(to_inches).extents.tolist()
    taken = [(dx - DOT, dy - DOT, dx + DOT, dy + DOT) for dx, dy in dots]
    for (dot_x, dot_y), place, word in zip(dots, zip(x, y, strict=True), found, strict=True):
        half = LETTER * len(word.word) / 2
        for away, angle in itertools.product(AWAY, ANGLES):
            # The name's middle: as far from the dot as its nearest edge is to be.
            right = math.cos(angle) * (away + half if abs(math.cos(angle)) > 0.3 else away)
            up = math.sin(angle) * (away + LINE / 2)
            box = (dot_x + right - half, dot_y + up - LINE / 2, dot_x + right + half, dot_y + up + LINE / 2)
            fits = box[0] > inside[0] and box[1] > inside[1] and box[2] < inside[2] and box[3] < inside[3]
            if fits and _is_free(box, taken):
                taken.append(box)
                arrow = {
                    "arrowstyle": "-",
                    "color": COLOURS[1],
                    "alpha": 0.6,
                    "linewidth": 0.6,
                    "shrinkA": 0,
                    "shrinkB": 2,
                }
                panel.annotate(
                    word.word, place, xytext=(72 * right, 72 * up), textcoords="offset points", ha="center", va="center",
                    fontsize=8.5, color=INK, arrowprops=arrow if away > AWAY[0] else None, zorder=5,
                    path_effects=[withStroke(linewidth=2, foreground="white")],
                )  # fmt: skip
                break


def _is_free(box: tuple, taken: list[tuple]) -> bool:
    left, low, right, high = np.transpose(taken)
    return not ((box[0] < right) & (left < box[2]) & (box[1] < high) & (low < box[3])).any()


def _bars(panel: Axes, found: Sequence[FoundWord]) -> None:
    panel.set_xscale("log")
    scores = [word.tf_icf for word in found]
    panel.barh(range(len(found)), scores, height=0.62, color=COLOURS[0], alpha=0.85, zorder=2)
    panel.set_xlim(min(1.0, min(scores) / 2), max(scores) * 9)
    for place, word in enumerate(found):
        panel.annotate(
            f"{_short(word.tf_icf)}  ({word.count:,})", (word.tf_icf, place), xytext=(4, 0), textcoords="offset points",
            va="center", fontsize=8, color=GREY,
        )  # fmt: skip
    _dress(panel, "TF-ICF (and how often it occurs here)", "times as common here as in general")
    panel.set_yticks(range(len(found)), [word.word for word in found], fontsize=9)
    panel.set_ylim(len(found) - 0.4, -0.6)
    panel.tick_params(axis="y", length=0)
    for label in panel.get_yticklabels():
        label.set_color(INK)


def _dress(panel: Axes, title: str, x: str) -> None:
    panel.set_title(title, fontsize=10.5, loc="left", fontweight="bold")
    panel.set_xlabel(x, fontsize=9.5, color=GREY)
    panel.tick_params(labelsize=9, color=FAINT, labelcolor=GREY, which="both")
    panel.minorticks_off()
    panel.spines[["top", "right"]].set_visible(False)
    panel.spines[["left", "bottom"]].set_color(FAINT)
