"""Statements, tables and pictures in, the same report as HTML, Markdown and LaTeX out."""

import itertools
from collections.abc import Callable
from pathlib import Path

import jinja2
from markupsafe import Markup

from mmdiff.reports.page import Piece, Section, write_report
from mmdiff.reports.tables import LATEX, escape_latex, escape_markdown, to_latex, to_markdown
from mmdiff.whole_files import write_whole

LATIN = 0x180  # the first sign behind Latin letters with accents
# TeX's own braces and percents are everywhere.
TEX = {
    "block_start_string": "<%",
    "block_end_string": "%>",
    "variable_start_string": "<<",
    "variable_end_string": ">>",
    "comment_start_string": "<#",
    "comment_end_string": "#>",
}


def write_documents(folder: Path, title: str, notes: list[str], sections: list[Section]) -> Path:
    """Writes report.html, whose path comes back, and report.md and report.tex with their pictures beside them."""
    names = (f"picture-{number}.png" for number in itertools.count(1))
    pictures = {png: next(names) for section in sections for _, png in section.images}
    for png, name in pictures.items():
        write_whole(folder / name, png)
    # "**(**Collins" is not bold in Markdown, "<b>(</b>Collins" is.
    for name, escape, escape_corpus, to_table, bold, delimiters in (
        ("report.md", escape_markdown, escape_markdown, to_markdown, "<b>{}</b>", {}),
        ("report.tex", escape_latex, _escape_latin, to_latex, r"\textbf{{{}}}", TEX),
    ):
        shown = [
            {
                "heading": section.heading,
                "paragraphs": section.paragraphs,
                "tables": [(caption, Markup(to_table(rows))) for caption, rows in section.captioned],
                "pictures": [(caption, Markup(pictures[png])) for caption, png in section.images],
                "shaded": [
                    (text.caption, [(title, _in_bold(pieces, escape_corpus, bold)) for title, pieces in text.rows])
                    for text in section.shaded
                ],
            }
            for section in sections
        ]
        template = _environment(escape, delimiters).get_template(name)
        write_whole(folder / name, template.render(title=title, notes=notes, sections=shown).encode())
    return write_report(folder, title, notes, sections)


def _escape_latin(text: str) -> str:
    """A corpus' text for any LaTeX: it may hold signs of all the world, and of broken encodings, at which pdflatex stops."""
    return escape_latex("".join(sign if sign in LATEX or _is_latin(sign) else "?" for sign in text))


def _is_latin(sign: str) -> bool:
    return sign.isprintable() and ord(sign) < LATIN


def _in_bold(pieces: list[Piece], escape: Callable[[str], str], bold: str) -> Markup:
    """A text without colours, in one line."""
    written = []
    for piece in pieces:
        words = " ".join(map(escape, piece.text.split()))
        before, after = (" " if piece.text[place].isspace() else "" for place in (0, -1))
        written.append(f"{before}{bold.format(words) if piece.marked else words}{after if words else ''}")
    return Markup("".join(written))


def _environment(escape: Callable[[str], str], delimiters: dict[str, str]) -> jinja2.Environment:
    """Templates in which everything that is not marked as markup is escaped."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        finalize=lambda value: value if isinstance(value, Markup) else escape(str(value)),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        **delimiters,
    )
