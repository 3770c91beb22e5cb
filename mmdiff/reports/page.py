"""Statements, tables and pictures in, one HTML file that holds them all and can be mailed out."""

import base64
import dataclasses
import io
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jinja2
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from mmdiff.whole_files import write_whole

# Also "53.1 ± 1.2", "3 / 5", "-1.2 to 3.4", "98.3% of 120", "1e-05", "21 %", "4 s", "–", and what stands for no number.
NUMBER = re.compile(r"(?:[-+−–—\d.,±/\s]|% of|\bto\b|e-\d)*[%s]?|nan|inf|not measured")


class Piece(NamedTuple):
    """Some of a text: as it is, or marked, in one of six shades; 0 is for what is not known."""

    text: str
    marked: bool = False
    shade: int = 0  # 0 to 5; of what is not marked, the fifth underlines
    tip: str = ""  # shown where one points


class ShadedText(NamedTuple):
    """One text, with other words marked in each of its rows."""

    caption: str
    rows: list[tuple[str, list[Piece]]]  # by titles


@dataclasses.dataclass
class Section:
    """A part of the report: a heading, plain text (a blank line starts a paragraph), a table or several, pictures, texts."""

    heading: str
    text: str
    images: list[tuple[str, bytes]]  # caption, PNG (or, on pages alone, WebP)
    table: list[dict] | None  # rows; the first row's keys are the columns
    tables: dict[str, list[dict]] = dataclasses.field(default_factory=dict)  # by their captions
    shaded: list[ShadedText] = dataclasses.field(default_factory=list)
    legends: list[list[Piece]] = dataclasses.field(default_factory=list)  # of what shades mean, on pages alone

    @property
    def paragraphs(self) -> list[str]:
        return [part.strip() for part in re.split(r"\n\s*\n", self.text) if part.strip()]

    @property
    def captioned(self) -> list[tuple[str, list[dict]]]:
        """All tables that hold a row, each with its caption or ""."""
        return [(caption, rows) for caption, rows in (("", self.table or []), *self.tables.items()) if rows]


def write_report(
    folder: Path,
    title: str,
    notes: list[str],
    sections: list[Section],
    name: str = "report.html",
    links: Sequence[tuple[str, str]] = (),
) -> Path:
    """Writes a page; the notes stand above everything else, and links (text, file beside it) above the notes."""
    shown = [
        {
            "heading": section.heading,
            "anchor": f"section-{number}",
            "paragraphs": section.paragraphs,
            "images": [{"caption": caption, "source": embed(png)} for caption, png in section.images],
            "tables": [{"caption": caption, **layout(rows)} for caption, rows in section.captioned],
            "shaded": section.shaded,
            "legends": section.legends,
        }
        for number, section in enumerate(sections)
    ]
    return write(Path(folder) / name, "report.html", title=title, notes=notes, sections=shown, links=links)


def write(path: Path, template: str, **values) -> Path:
    """Renders one of this package's templates; everything in `values` is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    write_whole(path, environment.get_template(template).render(**values).encode())
    return path


def layout(rows: list[dict]) -> dict | None:
    """Columns, each with whether it holds numbers (these are set flush right), and the cells; None without rows.

    The floats of a column get the same number of decimals; give strings where the digits matter.
    """
    if not rows:
        return None
    names = list(rows[0])
    columns = [_written([row.get(name) for row in rows]) for name in names]
    numbers = [all(NUMBER.fullmatch(cell) for cell in column) for column in columns]
    return {
        "columns": [{"name": name, "number": number} for name, number in zip(names, numbers, strict=True)],
        "cells": [list(cells) for cells in zip(*columns, strict=True)],
    }


def embed(picture: bytes) -> str:
    """A PNG or a WebP as the address that an <img> can carry."""
    kind = "webp" if picture.startswith(b"RIFF") else "png"
    return f"data:image/{kind};base64," + base64.b64encode(picture).decode()


def encode_png(image: UInt8[np.ndarray, "height width 3"]) -> bytes:
    """The picture as the bytes of a PNG file."""
    out = io.BytesIO()
    Image.fromarray(image).save(out, format="png")  # `optimize` saves a thirtieth and takes seconds
    return out.getvalue()


def encode_webp(image: UInt8[np.ndarray, "height width 3"]) -> bytes:
    """The picture as a WebP: a third of a PNG of photographs, and no eye tells them apart."""
    out = io.BytesIO()
    Image.fromarray(image).save(out, format="webp", quality=92)
    return out.getvalue()


def _written(values: list) -> list[str]:
    """A column's values as text, its floats with three digits of the largest."""
    largest = max((abs(value) for value in values if isinstance(value, float) and math.isfinite(value)), default=0.0)
    decimals = 2 if largest == 0 else min(max(2 - math.floor(math.log10(largest)), 0), 6)
    return [
        f"{value:.{decimals}f}" if isinstance(value, float) else "" if value is None else str(value) for value in values
    ]
