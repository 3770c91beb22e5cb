"""Videos in, hundreds of broken copies out: each must be decoded or refused, without a crash, a hang or a flood.

    python benchmarks/mutated_videos.py --count 240 --seed 0 --videos ../shared/videos

Every copy is read in a process of its own that may take so much memory and time: its pictures, its sound, its
subtitles, and what `mmdiff check` looks at. Ends with exit code 1 where anything else happens.
"""

import argparse
import collections
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "preprocessing")]

from clips import make_clip, walking_square
from mutate import mutate

from mmdiff.whole_files import write_whole
from preprocessing.clip import Media
from preprocessing.decode_audio import decode_audio
from preprocessing.decode_video import SampledFrames
from preprocessing.inspect_media import inspect
from preprocessing.problems import VideoError
from preprocessing.spectrogram import SAMPLE_RATE
from preprocessing.subtitles import read_cues

GOOD = ("whole", "partly", "refused")
ADDRESSES = 8 << 30  # bytes of addresses that one process may take, so that a flood ends there
MEMORY = 1024  # megabytes of memory that reading one of these small files may take
MADE = [(".mp4", "libx264"), (".mkv", "libx264"), (".webm", "libvpx-vp9"), (".avi", "mpeg4"), (".ts", "libx264")]
REAL = (".mp4", ".mkv", ".webm", ".avi", ".ts")


def originals(folder: Path, videos: Path | None) -> list[Path]:
    """Small clips with sound, in every container, and the videos of a folder."""
    made = [
        make_clip(folder / f"made{suffix}", walking_square(3), tone=3, audio_rate=48_000, codec=codec)
        for suffix, codec in MADE
    ]
    return made + (sorted(path for path in videos.iterdir() if path.suffix in REAL) if videos else [])


def read(path: Path) -> dict:
    """Everything that preprocessing reads of a video."""
    inspect("x", Media(path))
    sampled = SampledFrames(path, 3.0)
    said = {"pictures": 0}
    try:
        for _ in sampled:
            said["pictures"] += 1
        sound, problem = decode_audio(path, SAMPLE_RATE, sampled.seconds)
        if sound:
            with sound:
                assert np.isfinite(sound.peak)
        _, problem_of_cues = read_cues(path)
    except VideoError as error:
        return {"outcome": "refused", "said": error.problem.problem, **said}
    told = "; ".join(filter(None, (sampled.problem, problem, problem_of_cues)))
    return {"outcome": "partly" if told else "whole", "said": told, **said}


def _read_apart(path: Path, answer) -> None:
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 2)  # FFmpeg has much to say.
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
    began = time.perf_counter()
    try:
        result = read(path)
    except Exception as error:  # noqa: BLE001  whatever it is, it should have been a VideoError
        result = {"outcome": "escaped", "said": repr(error)}
    result["seconds"] = round(time.perf_counter() - began, 2)
    result["megabytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    if result["megabytes"] > MEMORY:
        result["outcome"] = "flood"
    answer.send(result)


def outcome_of(path: Path, limit: float) -> dict:
    """What came of reading a file in a process of its own."""
    fork = multiprocessing.get_context("fork")
    receiver, sender = fork.Pipe(duplex=False)
    process = fork.Process(target=_read_apart, args=(path, sender))
    process.start()
    sender.close()
    try:
        if not receiver.poll(limit):
            return {"outcome": "hang", "said": f"nothing after {limit:.0f} s"}
        return receiver.recv()
    except EOFError:
        process.join()
        return {"outcome": "crash", "said": f"exit code {process.exitcode}"}
    finally:
        process.kill()
        process.join()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=240)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--videos", type=Path, help="a folder of real videos, beside those that are made here")
    parser.add_argument("--limit", type=float, default=30.0, help="seconds for one file")
    parser.add_argument("--output", type=Path, help="where to write what came of each, as json")
    parser.add_argument("--keep", type=Path, help="a folder for the copies that were not dealt with")
    parser.add_argument("--only-write", type=Path, help="write the copies to this folder, for `mmdiff preprocess`")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        paths = originals(Path(folder), arguments.videos)
        for number in range(arguments.count):
            rng = np.random.default_rng([arguments.seed, number])
            path = paths[number % len(paths)]
            mutation, data = mutate(path.read_bytes(), paths[rng.integers(len(paths))].read_bytes(), rng)
            if arguments.only_write:
                write_whole(arguments.only_write / f"{number:04d}{path.suffix}", data)
                continue
            copy = Path(folder) / f"{number:04d}{path.suffix}"
            copy.write_bytes(data)
            row = {"number": number, "video": path.name, "mutation": mutation, **outcome_of(copy, arguments.limit)}
            row["said"] = row["said"].replace(str(copy), "FILE")
            rows.append(row)
            if row["outcome"] not in GOOD:
                print(json.dumps(row))
                if arguments.keep:
                    write_whole(arguments.keep / copy.name, data)
            copy.unlink()
    if arguments.only_write:
        return 0
    counts = collections.Counter(row["outcome"] for row in rows)
    bad = sum(count for outcome, count in counts.items() if outcome not in GOOD)
    summary = {
        "files": len(rows),
        "seed": arguments.seed,
        **{outcome: counts[outcome] for outcome in (*GOOD, "crash", "hang", "escaped", "flood")},
        "longest_seconds": max(row.get("seconds", arguments.limit) for row in rows),
        "most_megabytes": max(row.get("megabytes", 0) for row in rows),
        "most_pictures": max(row.get("pictures", 0) for row in rows),
    }
    print(json.dumps(summary))
    if arguments.output:
        lines = ",\n".join(json.dumps(row) for row in rows)
        write_whole(arguments.output, f'{{"summary": {json.dumps(summary)},\n"rows": [\n{lines}\n]}}\n'.encode())
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
