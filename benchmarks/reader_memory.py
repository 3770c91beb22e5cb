"""How much memory reading the annotations takes, at 10,000 and at 100,000 questions.

    python benchmarks/reader_memory.py

Each size runs in a process of its own on a synthetic `tvqa_train.jsonl` about 1,400 clips, in an order that
scatters them: `mmdiff preprocess` must then give out the questions of one clip after another. Measured is everything
that it does before it looks at pictures. What is printed is the growth of the peak resident memory of the process over
what it held before.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def write(path: Path, rows: int) -> None:
    clips = 1_400  # in either case, as if the larger file asked more of the same
    order = list(range(rows))
    random.Random(0).shuffle(order)
    with path.open("w") as file:
        for number in order:
            clip = number % clips
            answers = {f"a{i}": f"this is what somebody may answer, number {i} of five" for i in range(5)}
            row = {"qid": number, "q": f"What is asked in question {number} of all?", "answer_idx": number % 5}
            row |= {"ts": "12.5-20.75", "vid_name": f"s01e{clip:06d}_seg01_clip_00", "show_name": "The Big Bang Theory"}
            file.write(json.dumps(row | answers) + "\n")


def measure(folder: Path) -> dict:
    from preprocessing.build import clip_of, manifest_of
    from preprocessing.datasets import open_dataset
    from preprocessing.options import Options

    dataset = open_dataset(folder, Options(dataset="tvqa"))
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    read = dataset.read()
    questions = sum(len(read.annotations.questions(clip)) for clip in read.annotations.clips())
    for clip in read.annotations.clips():
        clip_of(dataset, read, clip)
    manifest_of(dataset, read)
    seconds = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"questions": questions, "grown_MB": round((after - before) / 1024, 1), "seconds": round(seconds, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure)))
        return
    for rows in (10_000, 100_000):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "tvqa_train.jsonl"
            write(path, rows)
            command = [sys.executable, __file__, "--measure", folder]
            told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            print(f"{path.stat().st_size / 1e6:.1f} MB of annotation: {told.strip()}")


if __name__ == "__main__":
    main()
