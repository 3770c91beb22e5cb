"""TVQA+: questions about The Big Bang Theory with boxes that people drew and named: Sheldon, a laptop, people."""

import difflib
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType

import ijson

from mmdiff.data.records import PARTS
from preprocessing.datasets.dataset import TRAIN, VALIDATION, Official, Row, row_of
from preprocessing.datasets.tvqa import Tvqa, asked
from preprocessing.detect_people import LabelledBox

MOST_PICTURES = 100_000  # of a clip
HEIGHT, WIDTH = 360, 640  # of the pictures that were drawn on; the largest boxes end at 361 and 641
BODY, FACE, OBJECT = PARTS

# Labels are free text of the annotators; these stand for people (read through all 890 of the validation file).
NAMES = (
    "adam", "alex", "alfred", "alicia", "amy", "arthur", "barry", "bernadette", "bernie", "bert", "beth", "bethany",
    "beverley", "beverly", "beyonce", "blossom", "carrie", "charlie", "claire", "colonel", "cooper", "crawley",
    "dave", "david", "davis", "dennis", "elizabeth", "emily", "ester", "fisher", "flatow", "fowler", "gablehauser",
    "glen", "hofstadter", "howard", "ira", "james", "josh", "katee", "kathy", "koothrappali", "kripke", "kurt",
    "lalita", "leanord", "lenord", "latham", "leonard", "lesley", "leslie", "lucy", "mandy", "mikayla", "mike", "millstone", "missy",
    "nimoy", "nurse", "penny", "priya", "professor", "raf", "raj", "rajesh", "ramona", "ricky", "rosenblatt",
    "rostenkowski", "seibert", "sheen", "sheldon", "sherry", "steph", "stephanie", "stewart", "stuart", "toby",
    "underhill", "wheaton", "wil", "williams", "wolowitz", "wyatt", "zack",
)  # fmt: skip
NAMES_AND_WORDS = ("Page", "Will")  # names with a capital, else words
PEOPLE = re.compile(
    r"person|people|man|men|woman|women|guy|guys|girl|girls|boy|boys|lady|ladies|gang|"
    r"group|friend|friends|everyone|everybody|someone|somebody|kid|kids|child|children|baby|"
    r"mother|mom|father|dad|parents|son|daughter|brother|sister|wife|husband|girlfriend|"
    r"boyfriend|driver|officer|policeman|nurse|doctor|dr|receptionist|waiter|waitress|bartender|"
    r"student|students|host|professor|crowd|audience|scientist|scientists|colleague|colleagues|"
    r"stranger|vet|agent|cashier|couple|doctors|fellas|gentleman|hooker|judge|maid|officers|"
    r"paramedics|parent|passenger|patient|physicist|police|preschooler|roommate|roommates|"
    r"superhero|transvestite|goth|cowboy"
)
CLOSE = 0.8  # of difflib's ratio: Sheldin, Penney, Leonrd


class TvqaPlus(Tvqa):
    """Lei et al. 2020, https://arxiv.org/abs/1904.11574. Files of media are TVQA's."""

    name = "tvqa_plus"
    description = "TVQA+: the questions of TVQA about The Big Bang Theory, with boxes drawn and named by people."
    homepage = "https://github.com/jayleicn/TVQAplus"
    licence = Tvqa.licence.replace("(jayleicn/TVQA)", "(jayleicn/TVQAplus)")
    citation = """@inproceedings{lei2020tvqaplus,
  title={TVQA+: Spatio-Temporal Grounding for Video Question Answering},
  author={Lei, Jie and Yu, Licheng and Berg, Tamara L and Bansal, Mohit},
  booktitle={ACL},
  year={2020}
}"""
    official = MappingProxyType({TRAIN: Official(23_545, 3_364), VALIDATION: Official(3_017, 431)})
    detector = "human"

    files = MappingProxyType({TRAIN: "tvqa_plus_train.json", VALIDATION: "tvqa_plus_val.json"})
    folders = ("tvqa_plus_annotations_with_test", "tvqa_plus_annotations", ".")
    wanted = "unpack tvqa_plus_annotations.tar.gz there, so that tvqa_plus_annotations/tvqa_plus_train.json exists"

    def rows_of(self, split: str, path: Path) -> Iterator[Row]:
        return _rows(split, path)


def _rows(split: str, path: Path) -> Iterator[Row]:
    where = path.name
    try:
        with path.open("rb") as file:
            for number, fields in enumerate(ijson.items(file, "item", use_float=True), 1):
                where = f"{path.name}: item {number}"
                yield row_of(split, where, functools.partial(_row, split, where, fields))
    except ijson.JSONError as error:
        yield Row(split, where, problem=f"the file cannot be read further ({error})", advice="download it again")
    if where == path.name:
        yield Row(split, where, problem="holds no list of questions", advice="download it again", is_question=False)


def _row(split: str, where: str, fields: dict) -> Row:
    if type(fields) is not dict:
        raise ValueError("is not a JSON object")
    question = asked(where, fields)
    boxes, bad = [], 0
    for drawn in (fields.get("bbox") or {}).values():
        for box in drawn:
            try:
                boxes.append((question.video, _picture(box), _box(box)))
            except (KeyError, TypeError, ValueError):
                bad += 1
    problem = f"{bad} of its boxes have no picture, no label or no area" if bad else None
    return Row(split, where, (question,), tuple(boxes), problem, "these boxes are left out")


def _picture(box: dict) -> int:
    """Counted from 0. Raises ValueError for a number that no clip has."""
    number = box["img_id"]
    if type(number) is not int or not 0 < number < MOST_PICTURES:
        raise ValueError(f"no picture {number!r}")
    return number - 1


def _box(box: dict) -> LabelledBox:
    """Edges as shares of the picture, cut at its borders. Raises ValueError where nothing is left."""
    top, left, height, width = (float(box[name]) for name in ("top", "left", "height", "width"))
    label = box["label"]
    y0, x0 = max(top / HEIGHT, 0.0), max(left / WIDTH, 0.0)
    y1, x1 = min((top + height) / HEIGHT, 1.0), min((left + width) / WIDTH, 1.0)
    if not (y0 < y1 and x0 < x1 and isinstance(label, str) and label.strip()):
        raise ValueError("no area, or no label")
    return LabelledBox(y0, x0, y1, x1, label.strip(), part_of(label), 1.0, source="annotated")


@functools.cache
def part_of(label: str) -> str:
    """What a label stands for: a person's body, a face, or an object. Names may be misspelt if they have a capital."""
    written = label.strip()
    word = written.casefold()
    if word in ("face", "faces"):
        return FACE
    if PEOPLE.fullmatch(word) or word in NAMES or word.removesuffix("s") in NAMES or written in NAMES_AND_WORDS:
        return BODY
    alike = difflib.get_close_matches(word, NAMES, 3, CLOSE) if written[0].isupper() else []
    return BODY if any(name[0] == word[0] for name in alike) else OBJECT
