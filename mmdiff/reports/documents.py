"""Statements, tables and pictures in, the same report as HTML, Markdown and LaTeX out."""

import itertools
from collections.abc import Callable
from pathlib import Path

import jinja2
from markupsafe import Markup

from mmdiff.reports.page import Section, write_report
from mmdiff.reports.tables import escape_latex, escape_markdown, to_latex, to_markdown
from mmdiff.whole_files import write_whole

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
    for name, escape, to_table, delimiters in (
        ("report.md", escape_markdown, to_markdown, {}),
        ("report.tex", escape_latex, to_latex, TEX),
    ):
        shown = [
            {
                "heading": section.heading,
                "paragraphs": section.paragraphs,
                "tables": [(caption, Markup(to_table(rows))) for caption, rows in section.captioned],
                "pictures": [(caption, Markup(pictures[png])) for caption, png in section.images],
            }
            for section in sections
        ]
        template = _environment(escape, delimiters).get_template(name)
        write_whole(folder / name, template.render(title=title, notes=notes, sections=shown).encode())
    return write_report(folder, title, notes, sections)


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
