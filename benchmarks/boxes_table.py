"""Millions of boxes in, what it takes to write them as Parquet and COCO json, and to import them again, out.

    python benchmarks/boxes_table.py [--clips 20000] [--boxes 250]

Each step runs in a process of its own, which tells its peak memory. Importing ends with the boxes of every tenth clip.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from preprocessing.boxes_table import ClipBoxes, write_boxes
from preprocessing.coco import write_coco
from preprocessing.import_boxes import Sampled, open_boxes

FPS, WIDTH, HEIGHT = 3.0, 640, 360
PICTURES = 200  # of a clip
FILES = {"parquet": "boxes.parquet", "coco": "boxes.json", "mot": "mot"}


def clips(count: int, boxes: int) -> Iterator[ClipBoxes]:
    """The same clips every time."""
    for number in range(count):
        rng = np.random.default_rng(number)
        corner = rng.uniform(0, 300, (boxes, 2))
        yield ClipBoxes(
            video=f"clip_{number:06d}.mp4",
            fps=FPS,
            pictures=PICTURES,
            width=WIDTH,
            height=HEIGHT,
            frame=np.sort(rng.integers(0, PICTURES, boxes)).astype(np.int32),
            track=rng.integers(0, 8, boxes).astype(np.int32),
            label=["person"] * boxes,
            part=["body"] * boxes,
            score=rng.uniform(0.5, 1, boxes).astype(np.float32),
            box=np.concatenate([corner, corner + 50], axis=1).astype(np.float32),
            source=["detected"] * boxes,
        )


def write_mot(folder: Path, made: Iterator[ClipBoxes]) -> None:
    """A file for each clip, whose frames are counted at our rate."""
    folder.mkdir()
    for clip in made:
        sides = np.concatenate([clip.box[:, :2], clip.box[:, 2:] - clip.box[:, :2]], axis=1)
        rows = np.column_stack([clip.frame + 1, clip.track + 1, sides, clip.score])
        np.savetxt(folder / Path(clip.video).with_suffix(".txt"), rows, "%d,%d,%.2f,%.2f,%.2f,%.2f,%.4f")


def read(path: Path, count: int) -> int:
    """How many boxes every tenth clip has."""
    imported = open_boxes(path, FPS)
    found = 0
    for number in range(0, count, 10):
        sampled = Sampled(f"clip_{number:06d}.mp4", FPS, PICTURES, WIDTH, HEIGHT, 25.0)
        found += sum(map(len, imported.boxes_of(sampled)[0]))
    return found


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=20_000)
    parser.add_argument("--boxes", type=int, default=250, help="of a clip")
    parser.add_argument("--step", nargs=3, help="one step: write or read, a format, a folder")
    given = parser.parse_args()
    if given.step:
        what, kind, folder = given.step
        path = Path(folder, FILES[kind])
        began, result = time.perf_counter(), {}
        if what == "write":
            {"parquet": write_boxes, "coco": write_coco, "mot": write_mot}[kind](path, clips(given.clips, given.boxes))
        else:
            result["boxes"] = read(path, given.clips)
        used = resource.getrusage(resource.RUSAGE_SELF)
        result |= {"seconds": time.perf_counter() - began, "cpu": used.ru_utime + used.ru_stime}
        print(json.dumps(result | {"peak": used.ru_maxrss // 1024}))
        return
    with tempfile.TemporaryDirectory() as folder:
        for kind, name in FILES.items():
            for what in ("write", "read"):
                words = ["--clips", str(given.clips), "--boxes", str(given.boxes), "--step", what, kind, folder]
                done = subprocess.run([sys.executable, __file__, *words], stdout=subprocess.PIPE, check=True)
                told = json.loads(done.stdout)
                path = Path(folder, name)
                size = sum(file.stat().st_size for file in (path.iterdir() if path.is_dir() else [path]))
                print(
                    f"{what} {kind}: {told['seconds']:.1f} s ({told['cpu']:.1f} s of CPU, making the boxes included), "
                    f"peak {told['peak']} MB, file {size / 1e6:.0f} MB"
                    + (f", {told['boxes']:,} boxes of every tenth clip" if "boxes" in told else ""),
                    flush=True,
                )


if __name__ == "__main__":
    main()
