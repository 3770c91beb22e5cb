"""Frames with their boxes and masks in, pictures of what was hidden and one page that shows them out.

Colours are Okabe and Ito's, which colour-blind readers tell apart; what matters also differs in form: a hidden patch is
hatched, a hidden pooled token has a dashed edge, a box has a caption.
"""

import dataclasses
from pathlib import Path

import matplotlib
import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageDraw, ImageFont

from mmdiff.reports import page

PATCH = 16  # pixels of an image patch, as in the released encoders
VEIL, STRIPE = (0, 62, 108), (86, 180, 233)  # a dark shade of the palette's blue, and its sky blue
BOX, TOKEN = (230, 159, 0), (255, 255, 255)  # orange, white
INK, PAPER, MUTED = (24, 28, 33), (255, 255, 255), (92, 99, 108)
OPACITY = 0.82  # enough that nobody takes a hidden patch for a dark one, little enough to see what it hid
SHEET_WIDTH = 1760  # pixels; a page shows it at about 1,100, where the text is 15 pixels high
LARGEST_SCALE = 3.0
MARGIN, GAP, TEXT = 24, 14, 24


@dataclasses.dataclass
class MaskedFrame:
    """One frame as the model gets it, and what the mask hides of it."""

    image: UInt8[np.ndarray, "y x 3"]  # [16 rows, 16 columns, 3]
    hidden: Bool[np.ndarray, "rows columns"]  # patches chosen
    pooled: Bool[np.ndarray, "pooled_rows pooled_columns"]  # pooled 2 x 2 tokens that count as masked
    boxes: list[tuple]  # (y0, x0, y1, x1, caption), as shares of this image
    title: str

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


def contact_sheet(rows: list[list[MaskedFrame]], row_labels: list[str]) -> UInt8[np.ndarray, "height width 3"]:
    """One row for each strategy, one column for each frame in order of time, a legend below."""
    if not rows or not all(rows) or len(rows) != len(row_labels):
        raise ValueError(f"{len(rows)} rows for {len(row_labels)} labels; each label needs a row with a frame or more")
    columns = max(len(row) for row in rows)
    space = (SHEET_WIDTH - 2 * MARGIN - (columns - 1) * GAP) / columns
    scale = min(space / max(frame.image.shape[1] for row in rows for frame in row), LARGEST_SCALE)
    cells = [[draw(frame, scale) for frame in row] for row in rows]
    label, title = _font(TEXT + 4, bold=True), _font(TEXT - 2)
    label_height, title_height = TEXT + 18, TEXT + 12
    heights = [label_height + max(len(cell) for cell in row) + title_height for row in cells]
    legend = _legend()
    cell_width = max(cell.shape[1] for row in cells for cell in row)
    width = max(2 * MARGIN + columns * cell_width + (columns - 1) * GAP, legend.width + 2 * MARGIN)
    sheet = Image.new("RGB", (width, 2 * MARGIN + sum(heights) + len(rows) * GAP + legend.height), PAPER)
    pen, top = ImageDraw.Draw(sheet), MARGIN
    for row, frames, name, height in zip(cells, rows, row_labels, heights, strict=True):
        pen.text((MARGIN, top), _shorten(name, label, width - 2 * MARGIN), INK, label)
        for column, (cell, frame) in enumerate(zip(row, frames, strict=True)):
            left = MARGIN + column * (cell_width + GAP)
            sheet.paste(Image.fromarray(cell), (left, top + label_height))
            caption = _shorten(frame.title, title, cell.shape[1])
            pen.text((left, top + label_height + len(cell) + 5), caption, MUTED, title)
        top += height + GAP
    pen.line((MARGIN, top, width - MARGIN, top), (214, 218, 223), 2)
    sheet.paste(legend, (MARGIN, top + MARGIN // 2 + 4))
    return np.asarray(sheet)


def write_gallery(folder: Path, sheets: list[tuple[str, str, np.ndarray]], summary: list[dict], heading: str) -> Path:
    """Writes every sheet (title, description, picture) as a PNG, and index.html, which also holds them all."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    shown = []
    for number, (title, description, picture) in enumerate(sheets):
        png = page.encode_png(picture)
        (folder / f"sheet_{number:02d}.png").write_bytes(png)
        shown.append({"title": title, "description": description, "source": page.embed(png)})
    return page.write(folder / "index.html", "gallery.html", title=heading, table=page.layout(summary), sheets=shown)


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
    font, line = _font(max(11, min(TEXT - 6, round(height / 15)))), line + 1
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
        caption = _shorten(caption, font, width - 10)
        place = _free_place(corner, round(font.getlength(caption)) + 8, font.size + 6, corners, taken, (width, height))
        taken.append(place)
        pen.rectangle(place, fill=BOX)
        pen.text((place[0] + 4, (place[1] + place[3]) / 2), caption, INK, font, anchor="lm")


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


def _legend() -> Image.Image:
    """The three signs, drawn by `draw` itself, each with its meaning."""
    grey, none, all_ = np.full((32, 32, 3), 176, np.uint8), np.zeros((2, 2), bool), np.ones((2, 2), bool)
    one, no = np.ones((1, 1), bool), np.zeros((1, 1), bool)
    signs = [
        (MaskedFrame(grey, np.eye(2, dtype=bool), no, [], ""), "patch hidden from the model"),
        (MaskedFrame(grey, all_, one, [], ""), "pooled 2 × 2 token that counts as masked"),
        (
            MaskedFrame(grey, none, no, [(0.14, 0.14, 0.86, 0.86, "")], ""),
            "box of a face or body; * derived from a face",
        ),
    ]
    font, scale, space = _font(TEXT), 1.6, 44
    side = round(2 * PATCH * scale)
    width = sum(side + 14 + round(font.getlength(text)) + space for _, text in signs) - space
    strip, left = Image.new("RGB", (width, side + 4), PAPER), 0
    pen = ImageDraw.Draw(strip)
    for sign, text in signs:
        strip.paste(Image.fromarray(draw(sign, scale)), (left, 2))
        left += side + 14
        pen.text((left, side / 2 + 2), text, INK, font, anchor="lm")
        left += round(font.getlength(text)) + space
    return strip


def _shorten(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    # matplotlib carries DejaVu, so that text looks the same on every machine.
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)
