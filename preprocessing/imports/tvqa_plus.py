"""TVQA+ json in, the boxes that people drew in each clip out."""

from pathlib import Path

import ijson

from preprocessing.annotations import Annotations
from preprocessing.datasets import tvqa_plus
from preprocessing.imports.coco import open_json
from preprocessing.problems import PreprocessError, Problem


def read_tvqa_plus(path: Path) -> tuple[Annotations, set[str], list[Problem]]:
    """The boxes by clip and picture, the names of the clips, and what is wrong with the rows of the file.

    Raises PreprocessError where it is no list of questions with boxes.
    """
    try:
        with open_json(path) as file:
            first = next(ijson.items(file, "item"), None)
    except ijson.JSONError as error:
        raise PreprocessError(f"{path} cannot be read as JSON ({str(error).splitlines()[0]}); write it again") from None
    if not isinstance(first, dict) or not {"vid_name", "bbox"} <= first.keys():
        raise PreprocessError(
            f"{path} is a list, but not that of TVQA+; detections of COCO need the images they belong to: "
            'give a file with "images", "annotations" and "categories"'
        )
    annotations, clips, problems = Annotations(), set(), []
    for row in tvqa_plus._rows("", path):
        for clip, picture, box in row.boxes:
            annotations.add_box(clip, picture, box)
            clips.add(clip)
        if row.problem:
            problems.append(Problem(row.where, "boxes", row.problem, row.advice))
    return annotations, clips, problems
