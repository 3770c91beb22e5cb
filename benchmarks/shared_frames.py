"""How many frames windows look at, and how many are stored, over the real questions of a dataset.

    python benchmarks/shared_frames.py tvqa --data ../shared/data/tvqa

Only the annotation is needed: a clip is taken to last a minute, or until the last time that a question asks about.
"""

import argparse
from pathlib import Path

from preprocessing.datasets import open_dataset
from preprocessing.options import Options
from preprocessing.plan_windows import SEGMENT, THIRDS, WINDOWS, clipped, last_picture, window

SECONDS = 60.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("--data", type=Path, required=True)
    options = parser.parse_args()
    annotations = open_dataset(options.data, Options(dataset=options.dataset)).read().annotations
    for kind in ("spans", "grid"):
        stored = seen = questions = 0
        for clip in annotations.clips():
            asked = [question.span for question in annotations.questions(clip)]
            seconds = max([SECONDS, *(span[1] for span in asked if span)])
            last = last_picture(seconds)
            spans = [clipped(span, last) for span in asked]
            (plan,) = WINDOWS[kind](seconds, spans, 7)
            middles = {min(max(start + SEGMENT // 2, 0), round(last * THIRDS)) for start in plan.segments}
            stored += len(middles)
            seen += sum(len(window(span, seconds, 7, on_grid=kind == "grid")) for span in spans)
            questions += len(spans)
        print(f"{kind}: {questions} questions look at {seen} frames; {stored} are stored, {seen / stored:.2f} to one")


if __name__ == "__main__":
    main()
