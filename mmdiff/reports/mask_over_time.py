"""The masks of every frame of a window in, small pictures in order of time and the share hidden of each out.

A strategy may spend its whole budget in a few frames: here a reader sees in which.
"""

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from mmdiff.reports.mask_gallery import (
    GAP,
    HEADING,
    INK,
    MARGIN,
    MUTED,
    PAPER,
    SHEET_WIDTH,
    TEXT,
    MaskedFrame,
    Row,
    draw,
    draw_heading,
    font,
    shorten,
)

PER_LINE = 8  # frames: more would be too small
WIDEST, HIGHEST = 240, 200  # pixels of a small picture
PLOT = 84  # pixels of the height of a curve
SMOOTH = 3  # a curve is drawn so many times as large, and shrunk
LINE, EVEN = (0, 114, 178), (150, 156, 164)  # blue, grey
RULE = (214, 218, 223)


def over_time(rows: list[Row]) -> list[UInt8[np.ndarray, "height width 3"]]:
    """A picture for each PER_LINE frames: each row's frames, and below each the share of it that is hidden.

    The first row's titles are the times. A row without a hidden patch is frames only: there is nothing to plot.
    """
    frames = len(rows[0].frames)
    if not frames or any(len(row.frames) != frames for row in rows):
        raise ValueError(f"rows of {[len(row.frames) for row in rows]} frames; each must have as many, and one or more")
    shares = [[float(frame.hidden.mean()) for frame in row.frames] for row in rows]
    # One scale for all, in steps of a fifth.
    top = max(np.ceil(max(max(row) for row in shares) * 5) / 5, 0.2)
    lines = -(-frames // PER_LINE)
    per_line = -(-frames // lines)
    return [
        _draw_lines(rows, shares, range(start, min(start + per_line, frames)), top)
        for start in range(0, frames, per_line)
    ]


def _draw_lines(rows: list[Row], shares: list[list[float]], shown: range, top: float) -> np.ndarray:
    high, wide = (max(frame.image.shape[axis] for row in rows for frame in row.frames) for axis in (0, 1))
    space = (SHEET_WIDTH - 2 * MARGIN - GUTTER - (len(shown) - 1) * GAP) / len(shown)
    scale = min(space / wide, WIDEST / wide, HIGHEST / high)
    cell = round(wide * scale)
    pitch = max(cell, 64) + GAP  # room for "100%" over a narrow frame
    text = "share of each frame that is hidden; dashed: its share of all frames"
    width = max(2 * MARGIN + GUTTER + len(shown) * pitch, 2 * MARGIN + round(font(TEXT - 2).getlength(text)), 900)
    parts = []
    for row, share in zip(rows, shares, strict=True):
        plotted = any(share)
        high_here = round(max(frame.image.shape[0] for frame in row.frames) * scale)
        titled = row is rows[0]
        part = Image.new(
            "RGB", (width, HEADING + high_here + (TEXT + 10 if titled else 0) + (PLOT + 44 if plotted else 14)), PAPER
        )
        pen = ImageDraw.Draw(part)
        draw_heading(pen, MARGIN, 0, row.name, "", width - 2 * MARGIN)
        for column, index in enumerate(shown):
            picture = Image.fromarray(draw(_bare(row.frames[index]), scale))
            part.paste(picture, (MARGIN + GUTTER + column * pitch, HEADING))
            if titled:
                small = font(TEXT - 4)
                pen.text(
                    (MARGIN + GUTTER + column * pitch, HEADING + high_here + 4),
                    shorten(row.frames[index].title, small, pitch - 4),
                    MUTED,
                    small,
                )
        if plotted:
            values = [share[index] for index in shown]
            middles = [MARGIN + GUTTER + column * pitch + cell / 2 for column in range(len(shown))]
            _draw_curve(part, HEADING + high_here + 8, middles, values, float(np.mean(share)), top)
        parts.append(part)
    out = Image.new("RGB", (width, 2 * MARGIN + sum(part.height for part in parts) + TEXT + 10), PAPER)
    y = MARGIN
    for part in parts:
        out.paste(part, (0, y))
        y += part.height
    pen = ImageDraw.Draw(out)
    pen.line((MARGIN, y, width - MARGIN, y), RULE, 2)
    pen.text((MARGIN, y + 10), text, INK, font(TEXT - 2))
    return np.asarray(out)


GUTTER = 64  # for the numbers of a curve's axis


def _bare(frame: MaskedFrame) -> MaskedFrame:
    """Without what would be too small to read."""
    return MaskedFrame(frame.image, frame.hidden, np.zeros_like(frame.pooled), [], frame.title)


def _draw_curve(part: Image.Image, y: int, x: list[float], values: list[float], mean: float, top: float) -> None:
    """Dots and a line between them, each with its number; rules at nothing and at the top of the scale."""
    bottom = y + PLOT
    left, right = round(MARGIN + GUTTER), round(max(x) + (x[1] - x[0]) / 2 if len(x) > 1 else max(x) + 100)
    right = min(right, part.width - MARGIN)

    def height(share: float) -> float:
        return bottom - share / top * (PLOT - 12)

    pen, small = ImageDraw.Draw(part), font(TEXT - 6)
    for share in (0.0, top):
        pen.line((left, height(share), right, height(share)), RULE, 1)
        pen.text((left - 8, height(share)), f"{100 * share:.0f}%", MUTED, small, anchor="rm")
    for start in range(left, right, 14):
        pen.line((start, height(mean), min(start + 7, right), height(mean)), EVEN, 2)
    # Slanted lines have steps: draw them larger and shrink them.
    size = (part.width * SMOOTH, (PLOT + 8) * SMOOTH)
    layer = Image.new("L", size, 0)
    brush = ImageDraw.Draw(layer)
    points = [(px * SMOOTH, (height(v) - y + 4) * SMOOTH) for px, v in zip(x, values, strict=True)]
    if len(points) > 1:
        brush.line(points, 255, 3 * SMOOTH, joint="curve")
    for px, py in points:
        brush.ellipse((px - 5 * SMOOTH, py - 5 * SMOOTH, px + 5 * SMOOTH, py + 5 * SMOOTH), 255)
    layer = layer.resize((part.width, PLOT + 8), Image.Resampling.LANCZOS)
    part.paste(Image.new("RGB", layer.size, LINE), (0, y - 4), layer)
    for px, value in zip(x, values, strict=True):
        # With a rim of paper: the dashed rule runs behind.
        pen.text(
            (px, height(value) - 9), f"{100 * value:.0f}%", INK, small, anchor="mb", stroke_width=3, stroke_fill=PAPER
        )
