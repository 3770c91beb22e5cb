"""Kills a run of continued pretraining again and again and compares what it ends with to an unbroken run.

    python benchmarks/kill_and_resume.py --kills 20

Makes its own records, vocabulary and tiny random model. The ways to end a run take turns: SIGKILL while a checkpoint is
being written, SIGTERM, SIGKILL some steps on, SIGKILL while it starts. Compared are the model's bytes, every line of
metrics but for times, and the ids of every batch that was taken.
"""

import argparse
import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
SAVE, TERM, STEPS, START = WAYS = ("SIGKILL in a save", "SIGTERM", "SIGKILL", "SIGKILL at its start")
TIMES = ("seconds_per_step", "examples_per_second", "mfu", "input_wait", "hours_left")
PATIENCE = 300  # seconds until a run that does nothing is given up


class Kill(NamedTuple):
    """How one life of a run ended."""

    way: str
    checkpoint: int  # the step that it went on from
    last_line: int  # the last step that it had written of
    code: int
    left: str  # in its folder of checkpoints
    seconds: float


def make_records(folder: Path) -> None:
    """Twelve clips to train on and five to validate with, of smooth noise, with people who walk."""
    sys.path.insert(0, str(ROOT / "tests"))
    import tiny

    train = [tiny.record(i, boxes=i % 4 > 0, audio=i % 3 > 0) for i in range(12)]
    tiny.write_dataset(folder, train, [tiny.record(i) for i in range(12, 17)])


def noting(workdir: Path) -> list[str]:
    """What makes this file run the words of `mmdiff` that follow, and note what batches were taken."""
    return [sys.executable, __file__, "--note", str(ids_file(workdir))]


def command(records: Path, workdir: Path, steps: int) -> list[str]:
    """The words a user would type, behind those that note batches."""
    fields = {
        "data.records": records,
        "data.tokenizer": records / "tokenizer.json",
        "data.segments": 2,
        "data.text_length": 48,
        "data.threads": 2,
        "model.rows": 4,
        "model.columns": 6,
        "model.dtype": "float32",
        "model.hidden_size": 64,
        **{f"model.{encoder}_layers": 1 for encoder in ("vision", "audio", "joint", "span")},
        "optimizer.learning_rate": 1e-3,
        "optimizer.warmup_steps": 2,
        "train.steps": steps,
        "train.log_every": 1,
        "train.save_every": 5,
        "train.evaluate_every": 12,
        "train.patience": 0,
    }
    words = [*noting(workdir), "pretrain", "--workdir", str(workdir)]
    words += ["--config", str(ROOT / "configs/video_folder.py:difference")]
    return [*words, *(f"--config.{name}={value}" for name, value in fields.items())]


def ids_file(workdir: Path) -> Path:
    return workdir.with_suffix(".batches")


@contextlib.contextmanager
def noting_batches(path: Path) -> Iterator[None]:
    """Each batch's number and ids are written when it is taken."""
    from mmdiff.data.loader import Batches

    go_to, following = Batches.go_to, Batches.__next__

    def note_place(self, batch: int) -> None:
        self.number = batch
        go_to(self, batch)

    def note_batch(self):
        batch = following(self)
        with path.open("a") as file:
            file.write(json.dumps([self.number, batch.id.tolist()]) + "\n")
        self.number += 1
        return batch

    Batches.go_to, Batches.__next__ = note_place, note_batch
    try:
        yield
    finally:
        Batches.go_to, Batches.__next__ = go_to, following


def run_noting_batches(path: Path, words: list[str]) -> int:
    """`mmdiff WORDS` in this process."""
    from mmdiff import cli

    with noting_batches(path):
        return cli.main(words)


def read_lines(path: Path) -> list:
    """Lines of JSON; one that a kill cut short is left out."""
    found = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return found


def last_step(workdir: Path) -> int:
    return max((line["step"] for line in read_lines(workdir / "metrics.jsonl")), default=0)


def start(words: list[str], cache: Path) -> subprocess.Popen:
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(cache),  # a life begins in seconds, not in the time of a compilation
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "PYTHONPATH": str(ROOT),
    }
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment)


def live_and_end(words: list[str], cache: Path, workdir: Path, way: str, moments: random.Random) -> Kill | None:
    """One life; None where the run was done before its time came."""
    began, before = time.monotonic(), last_step(workdir)
    checkpoints = workdir / "checkpoints"
    begun_from = max((int(path.name) for path in checkpoints.glob("*") if path.name.isdigit()), default=0)
    process = start(words, cache)
    step = before + moments.randint(1, 9)
    at_start = began + moments.uniform(0.2, 6.0)

    def its_time_has_come() -> bool:
        if way == START:
            return time.monotonic() > at_start
        if way == SAVE:
            return last_step(workdir) > before and any(checkpoints.glob("*.orbax-checkpoint-tmp"))
        return last_step(workdir) >= step

    while not its_time_has_come():
        if process.poll() is not None:
            if process.returncode:
                sys.exit(f"a run ended with {process.returncode}: {process.stderr.read()[-2000:]}")
            return None
        if time.monotonic() - began > PATIENCE:
            process.kill()
            sys.exit(f"a run did nothing for {PATIENCE} seconds")
        time.sleep(0.002)
    process.send_signal(signal.SIGTERM if way == TERM else signal.SIGKILL)
    process.communicate()
    left = sorted(path.name.replace(".orbax-checkpoint-tmp", " unfinished") for path in checkpoints.glob("*"))
    seconds = time.monotonic() - began
    return Kill(way, begun_from, last_step(workdir), process.returncode, ", ".join(left) or "none", seconds)


def digest(workdir: Path) -> str:
    return hashlib.sha256((workdir / "model.safetensors").read_bytes()).hexdigest()[:16]


def lines_without_times(workdir: Path) -> list[dict]:
    found = read_lines(workdir / "metrics.jsonl")
    return [{name: value for name, value in line.items() if name not in TIMES} for line in found]


def batches(workdir: Path) -> dict[int, set[tuple[int, ...]]]:
    """For each batch's number the ids that were taken under it, however often."""
    found = defaultdict(set)
    for number, ids in read_lines(ids_file(workdir)):
        found[number].add(tuple(ids))
    return found


def differences(whole: Path, broken: Path) -> list[str]:
    """What of a run is not as in an unbroken one."""
    wrong = ["the model is another"] if digest(whole) != digest(broken) else []
    wrong += ["the lines of metrics differ"] if lines_without_times(whole) != lines_without_times(broken) else []
    return wrong + (["the batches differ"] if batches(whole) != batches(broken) else [])


def stress(folder: Path, kills: int, steps: int, seed: int) -> list[str]:
    """Prints a table of the kills; returns what is not as in an unbroken run, nothing where all is."""
    moments = random.Random(seed)
    records, whole, broken = (folder / name for name in ("records", "whole", "broken"))
    cache = Path(os.environ.get("JAX_COMPILATION_CACHE_DIR", folder / "cache"))
    make_records(records)
    began = time.monotonic()
    process = start(command(records, whole, steps), cache)
    said = process.communicate()[1]
    if process.returncode:
        sys.exit(said)
    print(f"unbroken: {steps} steps in {time.monotonic() - began:.0f} s, model {digest(whole)}\n", flush=True)
    print("| kill | way | went on from step | last line | exit code | checkpoints left | seconds |", flush=True)
    print("| ---: | --- | ---: | ---: | ---: | --- | ---: |", flush=True)
    done = 0
    words = command(records, broken, steps)
    for number in range(kills):
        kill = live_and_end(words, cache, broken, WAYS[number % len(WAYS)], moments)
        if kill is None:
            break
        done += 1
        print(f"| {done} | {' | '.join(map(str, kill[:-1]))} | {kill.seconds:.1f} |", flush=True)
        if kill.way == TERM and kill.code != 75:
            return [f"SIGTERM ended in {kill.code}, not in 75"]
    process = start(words, cache)
    said = process.communicate()[1]
    if process.returncode:
        sys.exit(said)
    wrong = [f"only {done} of {kills} kills came before its end: give more --steps"] if done < kills else []
    wrong += differences(whole, broken)
    taken = len(read_lines(ids_file(broken)))
    print(f"\nafter {done} kills: model {digest(broken)}; {taken} batches taken, {steps} different ones", flush=True)
    return wrong


def main() -> None:
    if sys.argv[1:2] == ["--note"]:
        sys.exit(run_noting_batches(Path(sys.argv[2]), sys.argv[3:]))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        wrong = stress(Path(folder), options.kills, options.steps, options.seed)
    print("\n".join(wrong) or "model, metrics and batches are those of the unbroken run, bit for bit")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
