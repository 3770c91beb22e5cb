"""Kills a run of continued pretraining at random moments and compares what it ends with to an unbroken run.

    mmdiff demo OUT --videos VIDEOS
    python benchmarks/kill_and_resume.py OUT --kills 3

Uses the records, the vocabulary and the tiny initial model that a demo left in OUT.
"""

import argparse
import hashlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def command(demo: Path, workdir: Path, steps: int) -> list[str]:
    """The words a user would type."""
    fields = {
        "data.records": demo / "records",
        "data.tokenizer": demo / "tokenizer.json",
        "data.segments": 3,
        "data.text_length": 72,
        "model.checkpoint": demo / "initial.safetensors",
        "model.rows": 8,
        "model.columns": 14,
        "model.dtype": "float32",
        "optimizer.learning_rate": 5e-4,
        "optimizer.warmup_steps": 5,
        "train.steps": steps,
        "train.save_every": 4,
        "train.evaluate_every": 10,
        "train.patience": 0,
    }
    words = [
        sys.executable,
        "-m",
        "mmdiff.cli",
        "pretrain",
        "--config",
        str(ROOT / "configs/video_folder.py:difference"),
    ]
    return [*words, "--workdir", str(workdir), *(f"--config.{name}={value}" for name, value in fields.items())]


def digest(workdir: Path) -> str:
    return hashlib.sha256((workdir / "model.safetensors").read_bytes()).hexdigest()[:16]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    moments = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        whole, broken = Path(folder) / "whole", Path(folder) / "broken"
        start = time.monotonic()
        subprocess.run(command(options.demo, whole, options.steps), check=True, capture_output=True)
        taken = time.monotonic() - start
        print(f"unbroken: {taken:.0f} s, model {digest(whole)}")
        kills = 0
        while True:
            process = subprocess.Popen(
                command(options.demo, broken, options.steps), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            if kills == options.kills:
                assert process.wait() == 0
                break
            try:
                process.wait(timeout=moments.uniform(0.35, 0.6) * taken)
                break  # it was done before its time came
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                kills += 1
                kept = [path.name for path in sorted((broken / "checkpoints").glob("*"))]
                print(f"kill {kills}: checkpoints {', '.join(kept) or 'none'}")
        same = digest(whole) == digest(broken)
        print(f"after {kills} kills: model {digest(broken)}, {'the same' if same else 'NOT THE SAME'}")
        sys.exit(not same)


if __name__ == "__main__":
    main()
