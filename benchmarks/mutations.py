"""Breaks ten central facts of the code, one at a time, and prints which test notices: each must be caught.

    python benchmarks/mutations.py

Works in a copy of the files that git knows. The tests must pass there before anything is broken. Ends with exit code 1 where
a broken fact is not noticed.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]


class Mutation(NamedTuple):
    """A fact, the text of a file that makes it true, the text that breaks it, and the tests that should notice: files, or some of them."""

    fact: str
    file: str
    right: str
    wrong: str
    tests: tuple[str, ...]


MUTATIONS = [
    Mutation(
        "the budget is exact",
        "mmdiff/masking/selection.py",
        "return eligible & (rank < budget)",
        "return eligible & (rank <= budget)",
        ("tests/masking/test_selection.py",),
    ),
    Mutation(
        "groups fall whole",
        "mmdiff/masking/selection.py",
        "jax.random.gumbel(group_key, score.shape)[first]",
        "jax.random.gumbel(group_key, score.shape)",
        ("tests/masking/test_selection.py",),
    ),
    Mutation(
        "a frame is cropped from its top and its left",
        "mmdiff/data/video_examples.py",
        "resized[crop.top : crop.top + wanted[0], crop.left : crop.left + wanted[1]]",
        "resized[crop.left : crop.left + wanted[0], crop.top : crop.top + wanted[1]]",
        ("tests/data/test_video_examples.py",),
    ),
    Mutation(
        "a box is rows and columns, in that order",
        "mmdiff/data/patch_boxes.py",
        "rows = along(boxes[:, 0], boxes[:, 2], grid[0])\n    columns = along(boxes[:, 1], boxes[:, 3], grid[1])",
        "rows = along(boxes[:, 1], boxes[:, 3], grid[0])\n    columns = along(boxes[:, 0], boxes[:, 2], grid[1])",
        ("tests/data/test_patch_boxes.py",),
    ),
    Mutation(
        "padding has no loss",
        "mmdiff/objectives/masked_language.py",
        "weighed = jnp.where(valid, jnp.where(hidden, weight, 1.0) * scored.loss, 0).sum(axis=1)",
        "weighed = (jnp.where(hidden, weight, 1.0) * scored.loss).sum(axis=1)",
        ("tests/objectives/test_masked_language.py::test_neither_padding_nor_the_size_of_batches_changes_the_loss",),
    ),
    Mutation(
        "every step hides something else",
        "mmdiff/objectives/masked_language.py",
        "mask_key if self.masking.static else jax.random.fold_in(mask_key, step)",
        "mask_key",
        ("tests/objectives/test_masked_language.py::test_masks_are_a_texts_own",),
    ),
    Mutation(
        "a run goes on at the batch where it stopped",
        "mmdiff/training/loop.py",
        "batches.go_to(int(state.step))",
        "batches.go_to(0)",
        ("tests/training/test_resume.py::test_a_run_that_goes_on_ends_with_the_bits_and_lines_of_an_unbroken_one",),
    ),
    Mutation(
        "a batch counts by its examples",
        "mmdiff/training/loop.py",
        "sum(float(metrics[name]) * int(count) for metrics, count in batches) / total",
        "sum(float(metrics[name]) for metrics, _ in batches) / len(batches)",
        ("tests/training/test_health.py",),
    ),
    Mutation(
        "a number that is none changes nothing",
        "mmdiff/training/train_step.py",
        'finite = state.finite & jnp.isfinite(metrics["loss"]) & jnp.isfinite(norm)',
        "finite = state.finite",
        ("tests/training/test_health.py",),
    ),
    Mutation(
        "one run at a time works in a folder",
        "preprocessing/build.py",
        "fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)",
        "pass",
        ("tests/preprocessing/test_stages.py::test_two_runs_do_not_work_in_one_folder",),
    ),
]


def copied(folder: Path) -> Path:
    """The files that git knows, in a new folder with the shared material beside it."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (folder / "copy" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / "copy" / name)
    if (ROOT.parent / "shared").exists():
        (folder / "shared").symlink_to((ROOT.parent / "shared").resolve())
    return folder / "copy"


def first_failure(copy: Path, tests: tuple[str, ...]) -> str | None:
    """The test that fails first; None where all pass. Ends the program where they cannot be run."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "-p", "no:cacheprovider", *tests]
    # A file is changed more than once in a second: compiled modules, told apart by the time, would be of another one.
    settings = {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    caches = {
        "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".cache" / "jax"),
        "MMDIFF_CACHE": str(ROOT / ".cache" / "mmdiff"),
    }
    environment = os.environ | settings | caches
    ran = subprocess.run(command, cwd=copy, capture_output=True, text=True, env=environment, check=False)
    if ran.returncode == 0:
        return None
    failed = re.search(r"^(?:FAILED|ERROR) (\S+::\S+)", ran.stdout, re.MULTILINE)
    if ran.returncode != 1 or not failed:
        sys.exit(
            f"pytest ended with exit code {ran.returncode} and without a failed test:\n{ran.stdout[-2000:]}{ran.stderr[-2000:]}"
        )
    return failed[1]


def line_of(mutation: Mutation, copy: Path) -> int:
    """Where the text that makes the fact true stands. Ends the program unless that is one place."""
    text = (copy / mutation.file).read_text(encoding="utf-8")
    if text.count(mutation.right) != 1:
        sys.exit(
            f"{mutation.file} holds {mutation.right!r} {text.count(mutation.right)} times, not once: mend {__file__}"
        )
    return text[: text.index(mutation.right)].count("\n") + 1


def caught_by(mutation: Mutation, copy: Path) -> str | None:
    """The test that notices a broken fact; the file is then as it was."""
    path = copy / mutation.file
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace(mutation.right, mutation.wrong), encoding="utf-8")
    try:
        return first_failure(copy, mutation.tests)
    finally:
        path.write_text(text, encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    survived = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = copied(Path(folder))
        places = [f"{mutation.file}:{line_of(mutation, copy)}" for mutation in MUTATIONS]
        tests = tuple(dict.fromkeys(test for mutation in MUTATIONS for test in mutation.tests))
        if failed := first_failure(copy, tests):
            sys.exit(f"{failed} fails with nothing broken")
        print("| fact | broken at | caught by | seconds |\n| --- | --- | --- | --- |")
        for mutation, place in zip(MUTATIONS, places, strict=True):
            began = time.perf_counter()
            caught = caught_by(mutation, copy)
            survived += caught is None
            seconds = time.perf_counter() - began
            print(f"| {mutation.fact} | {place} | {caught or 'NOTHING'} | {seconds:.0f} |", flush=True)
    return survived > 0


if __name__ == "__main__":
    sys.exit(main())
