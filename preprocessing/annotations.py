"""Questions in, in any order; the questions of one clip at a time out, in memory that does not grow with their number."""

import json
import sqlite3
from collections import Counter
from collections.abc import Iterator

from preprocessing.detect_people import LabelledBox
from preprocessing.questions import Asked

BOX = ("y0", "x0", "y1", "x1", "label", "part", "score", "source")
SCHEMA = """
create table questions (
    split text, id text, place text, clip text, question text, answers text, label integer, first real, last real,
    primary key (split, id)
);
create index by_clip on questions (clip, split);
create table boxes (clip text, picture integer, box text, unique (clip, picture, box));
create table clips (clip text, split text, primary key (clip, split)) without rowid;
"""


class Annotations:
    """Questions and drawn boxes by clip, in a temporary file that is gone with this object."""

    def __init__(self):
        self._database = sqlite3.connect("", isolation_level=None)  # "": a private file, deleted when closed
        self._database.executescript(SCHEMA)
        self.renamed: Counter = Counter()  # by split and id, how many questions have an id that stands twice
        self._database.execute("begin")  # One transaction: nothing here outlives the process.

    def add(self, split: str, asked: Asked) -> None:
        """Keeps a question; one whose id its split already has gets a number behind it."""
        first, last = asked.span or (None, None)
        row = [
            split,
            asked.id,
            asked.where,
            asked.video,
            asked.text,
            json.dumps(asked.answers),
            asked.label,
            first,
            last,
        ]
        while True:
            try:
                self._database.execute("insert into questions values (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
                break
            except sqlite3.IntegrityError:
                self.renamed[split, asked.id] += 1
                row[1] = f"{asked.id}#{self.renamed[split, asked.id] + 1}"
        self.add_clip(split, asked.video)

    def add_clip(self, split: str, clip: str) -> None:
        """Keeps that a split has a clip, with or without questions."""
        self._database.execute("insert or ignore into clips values (?, ?)", (clip, split))

    def add_box(self, clip: str, picture: int, box: LabelledBox) -> None:
        """Keeps a box drawn in a picture, counted from 0; the same box again is kept once."""
        row = (clip, picture, json.dumps([getattr(box, name) for name in BOX]))
        self._database.execute("insert or ignore into boxes values (?, ?, ?)", row)

    def clips(self, split: str | None = None) -> Iterator[str]:
        """The names of the clips of a split, or of all of them, each once, in order."""
        rows = self._database.execute(
            "select distinct clip from clips where split = ? or ? is null order by clip", (split, split)
        )
        return (clip for (clip,) in rows)

    def splits(self, clip: str | None = None) -> list[str]:
        """Those that have a clip, or this clip."""
        rows = self._database.execute(
            "select distinct split from clips where clip = ? or ? is null order by split", (clip, clip)
        )
        return [split for (split,) in rows]

    def questions(self, clip: str, split: str | None = None) -> list[Asked]:
        """Those about a clip in one of its splits, or in all, as they were added."""
        rows = self._database.execute(
            "select place, id, question, answers, label, first, last from questions"
            " where clip = ? and (split = ? or ? is null) order by rowid",
            (clip, split, split),
        )
        return [
            Asked(place, id, clip, text, tuple(json.loads(answers)), label, None if first is None else (first, last))
            for place, id, text, answers, label, first, last in rows
        ]

    def boxes(self, clip: str) -> dict[int, list[LabelledBox]]:
        """The boxes drawn in each picture of a clip."""
        found: dict[int, list[LabelledBox]] = {}
        rows = self._database.execute("select picture, box from boxes where clip = ? order by picture, box", (clip,))
        for picture, box in rows:
            found.setdefault(picture, []).append(LabelledBox(**dict(zip(BOX, json.loads(box), strict=True))))
        return found

    def count(self, what: str, split: str) -> int:
        """How many `questions` or `clips` a split has."""
        return self._database.execute(f"select count(*) from {what} where split = ?", (split,)).fetchone()[0]

    def shared_clips(self) -> dict[tuple[str, str], int]:
        """How many clips each two splits have in common."""
        rows = self._database.execute(
            "select a.split, b.split, count(*) from clips a join clips b on a.clip = b.clip and a.split < b.split"
            " group by a.split, b.split"
        )
        return {(one, other): count for one, other, count in rows}
