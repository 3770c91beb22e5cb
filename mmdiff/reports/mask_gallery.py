"""Frames with their boxes, scores and masks in, contact sheets of what was hidden out.

Colours are Okabe and Ito's, which colour-blind readers tell apart; what matters also differs in form: a hidden patch is
hatched, a target has a dashed edge, a box has a caption.
"""

import dataclasses
import functools
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from mmdiff.reports.heat import tint

PATCH = 16  # pixels of an image patch, as in the released encoders
VEIL, STRIPE = (0, 62, 108), (86, 180, 233)  # a dark shade of the palette's blue, and its sky blue
BOX, TOKEN = (230, 159, 0), (255, 255, 255)  # orange, white
INK, PAPER, MUTED = (24, 28, 33), (255, 255, 255), (92, 99, 108)
OPACITY = 0.82  # enough that nobody takes a hidden patch for a dark one, little enough to see what it hid
SHEET_WIDTH = 1760  # pixels; a page shows it at about 1,100, where the text is 15 pixels high
LARGEST_SCALE, LARGEST_HEIGHT = 3.0, 480  # of a frame; pixels
SIDE_BY_SIDE = 2  # up to so many frames leave room for their heat maps
MARGIN, GAP, TEXT = 24, 14, 24
HEADING = TEXT + 18  # of a row


@dataclasses.dataclass
class MaskedFrame:
    """One frame as the model gets it, and what the mask hides of it."""

    image: UInt8[np.ndarray, "y x 3"]  # [16 rows, 16 columns, 3]
    hidden: Bool[np.ndarray, "rows columns"]  # patches chosen
    pooled: Bool[np.ndarray, "pooled_rows pooled_columns"]  # pooled 2 x 2 tokens that count as masked
    boxes: list[tuple]  # (y0, x0, y1, x1, caption), as shares of this image
    title: str
    heat: Float[np.ndarray, "rows columns"] | None = None  # how much each patch is wanted, as `Heat.value`

    def __post_init__(self):
        rows, columns = self.hidden.shape
        wanted = (rows * PATCH, columns * PATCH, 3), (rows // 2, columns // 2)
        if (self.image.shape, self.pooled.shape) != wanted:
            raise ValueError(
                f"frame {self.title!r}: with {rows} x {columns} patches the image must be {wanted[0]} and the pooled "
                f"tokens {wanted[1]}, not {self.image.shape} and {self.pooled.shape}"
            )


def draw(frame: MaskedFrame, scale: float) -> UInt8[np.ndarray, "height width 3"]:
    """The frame, enlarged, with hidden patches veiled, masked pooled tokens dashed and boxes captioned."""
    rows, columns = frame.hidden.shape
    height, width = round(rows * PATCH * scale), round(columns * PATCH * scale)
    picture = np.asarray(Image.fromarray(frame.image).resize((width, height), Image.Resampling.LANCZOS))
    ys, xs = _edges(rows, PATCH * scale), _edges(columns, PATCH * scale)
    hidden = np.repeat(np.repeat(frame.hidden, np.diff(ys), axis=0), np.diff(xs), axis=1)[..., None]
    veiled = (1 - OPACITY) * picture + OPACITY * _hatch(height, width, PATCH * scale)
    # A seam of the bare picture between hidden patches, so that they can be counted.
    seam = np.zeros((height, width, 1), bool)
    seam[ys[1:-1]] = seam[:, xs[1:-1]] = True
    veiled = np.where(seam, 0.55 * veiled + 0.45 * picture, veiled)
    image = Image.fromarray(np.where(hidden, np.round(veiled), picture).astype(np.uint8))

    pen = ImageDraw.Draw(image)
    line = max(1, round(scale / 1.5))
    for row, column in np.argwhere(frame.pooled):
        inset = 2 * line
        _dashed(
            pen,
            xs[2 * column] + inset,
            ys[2 * row] + inset,
            xs[2 * column + 2] - 1 - inset,
            ys[2 * row + 2] - 1 - inset,
            dash=max(3, round(PATCH * scale / 6)),
            width=line,
        )
    _draw_boxes(pen, frame.boxes, width, height, line)
    return np.asarray(image)


class Row(NamedTuple):
    """One line of a sheet, or two where its frames have a heat map: that one first."""

    name: str
    note: str
    frames: list[MaskedFrame]  # in order of time


def draw_heat(frame: MaskedFrame, scale: float) -> UInt8[np.ndarray, "height width 3"]:
    """The frame, enlarged and grey, under the colours of how much each patch is wanted."""
    rows, columns = frame.hidden.shape
    height, width = round(rows * PATCH * scale), round(columns * PATCH * scale)
    picture = np.asarray(Image.fromarray(frame.image).resize((width, height), Image.Resampling.LANCZOS))
    ys, xs = _edges(rows, PATCH * scale), _edges(columns, PATCH * scale)
    return tint(picture, np.repeat(np.repeat(frame.heat, np.diff(ys), axis=0), np.diff(xs), axis=1))


def contact_sheet(rows: list[Row]) -> UInt8[np.ndarray, "height width 3"]:
    """One row for each strategy, one column for each frame in order of time, a legend below."""
    if not rows or not all(row.frames for row in rows):
        raise ValueError(f"{len(rows)} rows; each needs a frame or more, and there must be one")
    frames = [frame for row in rows for frame in row.frames]
    columns = max(len(row.frames) for row in rows)
    with_heat = any(frame.heat is not None for frame in frames)
    beside = with_heat and columns <= SIDE_BY_SIDE
    across = 2 * columns if beside else columns
    space = (SHEET_WIDTH - 2 * MARGIN - (across - 1) * GAP) / across
    scale = min(
        space / max(frame.image.shape[1] for frame in frames),
        LARGEST_HEIGHT / max(frame.image.shape[0] for frame in frames),
        LARGEST_SCALE,
    )
    legend = draw_legend(with_heat)
    cell_width = max(round(frame.image.shape[1] * scale) for frame in frames)
    width = max(2 * MARGIN + across * cell_width + (across - 1) * GAP, legend.width + 2 * MARGIN)
    strips = [_draw_row(row, scale, cell_width, width, beside) for row in rows]
    sheet = Image.new("RGB", (width, 2 * MARGIN + sum(strip.height for strip in strips) + legend.height + 12), PAPER)
    top = MARGIN
    for strip in strips:
        sheet.paste(strip, (0, top))
        top += strip.height
    ImageDraw.Draw(sheet).line((MARGIN, top, width - MARGIN, top), (214, 218, 223), 2)
    sheet.paste(legend, (MARGIN, top + MARGIN // 2 + 4))
    return np.asarray(sheet)


def _draw_row(row: Row, scale: float, cell_width: int, width: int, beside: bool) -> Image.Image:
    """Its name and note, its heat maps, and, below or `beside` them, its frames with their titles."""
    lines, titles = [[draw(frame, scale) for frame in row.frames]], [frame.title for frame in row.frames]
    if any(frame.heat is not None for frame in row.frames):
        lines.insert(0, [draw_heat(frame, scale) for frame in row.frames])
        if beside:
            lines, titles = [[*lines[0], *lines[1]]], titles * 2
    heights = [max(map(len, line)) for line in lines]
    strip = Image.new("RGB", (width, HEADING + sum(heights) + 6 * (len(lines) - 1) + TEXT + 12 + GAP), PAPER)
    pen, top = ImageDraw.Draw(strip), HEADING
    draw_heading(pen, MARGIN, 0, row.name, row.note, width - 2 * MARGIN)
    for line, height in zip(lines, heights, strict=True):
        for column, cell in enumerate(line):
            strip.paste(Image.fromarray(cell), (MARGIN + column * (cell_width + GAP), top))
        top += height + 6
    title = font(TEXT - 2)
    for column, text in enumerate(titles):
        left = MARGIN + column * (cell_width + GAP)
        pen.text((left, top - 1), shorten(text, title, cell_width), MUTED, title)
    return strip


def draw_heading(pen: ImageDraw.ImageDraw, left: int, top: int, name: str, note: str, width: int) -> None:
    """A row's name, and what is said of it, on one line."""
    bold, plain = font(TEXT + 4, bold=True), font(TEXT)
    # The note gives way to the name, and then the name to the sheet.
    name = shorten(name, bold, width)
    pen.text((left, top + TEXT + 6), name, INK, bold, anchor="ls")
    taken = bold.getlength(name) + TEXT
    if note and width - taken > 8 * TEXT:
        pen.text((left + taken, top + TEXT + 6), shorten(note, plain, int(width - taken)), MUTED, plain, anchor="ls")


def _edges(count: int, step: float) -> list[int]:
    return [round(index * step) for index in range(count + 1)]


def _hatch(height: int, width: int, patch: float) -> np.ndarray:
    """Diagonal stripes with soft edges, three to a patch."""
    y, x = np.mgrid[:height, :width]
    period = max(patch / 3, 4.0)
    distance = np.abs((x + y) % period - period / 2)  # from the middle of a stripe, in pixels along x
    share = np.clip(period / 8 + 0.5 - distance, 0, 1)[..., None] * 0.6
    return (1 - share) * np.array(VEIL) + share * np.array(STRIPE)


def _dashed(pen, x0: int, y0: int, x1: int, y1: int, dash: int, width: int) -> None:
    """White dashes with dark gaps: one of the two stands out on any picture."""
    pen.rectangle((x0, y0, x1, y1), outline=INK, width=width)
    for start in range(x0, x1, 2 * dash):
        end = min(start + dash, x1)
        for y in (y0, y1):
            pen.line((start, y, end, y), TOKEN, width)
    for start in range(y0, y1, 2 * dash):
        end = min(start + dash, y1)
        for x in (x0, x1):
            pen.line((x, start, x, end), TOKEN, width)


def _draw_boxes(pen, boxes: list[tuple], width: int, height: int, line: int) -> None:
    """Outlines first and captions last, so that no outline crosses a caption."""
    letters, line = font(max(11, min(TEXT - 6, round(height / 15)))), line + 1
    corners = []
    for y0, x0, y1, x1, _ in boxes:
        corner = (round(x0 * (width - 1)), round(y0 * (height - 1)), round(x1 * (width - 1)), round(y1 * (height - 1)))
        corners.append(corner)
        pen.rectangle(corner, outline=INK, width=line + 2)  # a dark rim: orange alone is lost on bright pictures
    for x0, y0, x1, y1 in corners:
        pen.rectangle((x0 + 1, y0 + 1, max(x1 - 1, x0 + 1), max(y1 - 1, y0 + 1)), outline=BOX, width=line)
    taken: list[tuple] = []
    for corner, (*_, caption) in zip(corners, boxes, strict=True):
        if not caption:
            continue
        caption = shorten(caption, letters, width - 10)
        long = round(letters.getlength(caption)) + 8
        place = _free_place(corner, long, letters.size + 6, corners, taken, (width, height))
        taken.append(place)
        pen.rectangle(place, fill=BOX)
        pen.text((place[0] + 4, (place[1] + place[3]) / 2), caption, INK, letters, anchor="lm")


def _free_place(corner: tuple, long: int, high: int, boxes: list[tuple], taken: list[tuple], size: tuple) -> tuple:
    """Where along its box a caption hides least: another caption never if it can, the inside of boxes as little."""
    x0, y0, x1, y1 = corner
    width, height = size
    candidates = []
    for x in (x0, x1 + 1 - long):
        candidates += [(x, y) for y in (y0 - high, y1 + 1, y0, y1 + 1 - high)]
    candidates += [(x, y) for x in (x0 - long, x1 + 1) for y in (y0, y1 + 1 - high)]

    def cost(candidate: tuple) -> tuple:
        x, y = candidate
        left, top = min(max(x, 0), width - long), min(max(y, 0), height - high)
        place = (left, top, left + long, top + high)
        # A caption that had to be pushed into the picture lies less clearly along its box.
        pushed = abs(left - x) * high + abs(top - y) * long
        return (
            sum(_overlap(place, other) for other in taken),
            pushed + sum(_overlap(place, box) for box in boxes),
            place,
        )

    return min(map(cost, candidates), key=lambda option: option[:2])[2]


def _overlap(one: tuple, two: tuple) -> int:
    across, down = min(one[2], two[2]) - max(one[0], two[0]), min(one[3], two[3]) - max(one[1], two[1])
    return max(across, 0) * max(down, 0)


def draw_legend(with_heat: bool) -> Image.Image:
    """Every sign, drawn by `draw` and `draw_heat` themselves, with its meaning."""
    grey, none, all_ = np.full((32, 32, 3), 176, np.uint8), np.zeros((2, 2), bool), np.ones((2, 2), bool)
    one, no = np.ones((1, 1), bool), np.zeros((1, 1), bool)
    scale = 1.6
    signs = [
        (draw(MaskedFrame(grey, none, no, [(0.14, 0.14, 0.86, 0.86, "")], ""), scale), "box; * derived from a face"),
        (draw(MaskedFrame(grey, np.eye(2, dtype=bool), no, [], ""), scale), "patch hidden from the model"),
        (draw(MaskedFrame(grey, all_, one, [], ""), scale), "target: a pooled 2 × 2 place that the model must tell"),
    ]
    if with_heat:
        side = round(2 * PATCH * scale)
        ramp = np.tile(np.linspace(0, 1, 5 * side), (side, 1))
        bar = tint(np.full((*ramp.shape, 3), 128, np.uint8), ramp)
        bare = tint(np.full((side, side, 3), 128, np.uint8), np.full((side, side), np.nan))
        signs += [
            (bar, "how much a patch is wanted, from least to most"),
            (bare, "not wanted: hidden only to fill the budget"),
        ]
    return _lay_out([(Image.fromarray(sign), text) for sign, text in signs], SHEET_WIDTH - 2 * MARGIN)


def _lay_out(signs: list[tuple[Image.Image, str]], width: int) -> Image.Image:
    """Signs and their meanings in lines no longer than `width`."""
    plain, space, places, left, top = font(TEXT), 44, [], 0, 0
    for sign, text in signs:
        long = sign.width + 14 + round(plain.getlength(text))
        if left and left + long > width:
            left, top = 0, top + sign.height + 14
        places.append((left, top))
        left += long + space
    right = max(
        x + sign.width + 14 + round(plain.getlength(text)) for (x, _), (sign, text) in zip(places, signs, strict=True)
    )
    strip = Image.new("RGB", (right, top + max(sign.height for sign, _ in signs) + 4), PAPER)
    pen = ImageDraw.Draw(strip)
    for (x, y), (sign, text) in zip(places, signs, strict=True):
        strip.paste(sign, (x, y))
        pen.text((x + sign.width + 14, y + sign.height / 2), text, INK, plain, anchor="lm")
    return strip


def shorten(text: str, letters: ImageFont.FreeTypeFont, width: int) -> str:
    """The text, or as much of its beginning as fits, and an ellipsis."""
    if letters.getlength(text) <= width:
        return text
    while text and letters.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


@functools.cache
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, pixels high."""
    # matplotlib carries DejaVu, so that text looks the same on every machine.
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)
