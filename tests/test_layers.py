"""Imports point one way, and the training half needs neither torch nor TensorFlow nor transformers."""

import ast
import functools
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAYERS = [
    "errors",
    "ranges",
    "whole_files",
    "user_cache",
    "compiled_programs",
    "data",
    "models",
    "masking",
    "objectives",
    "training",
    "probing",
    "reports",
    "sweep",
    "demo",
    "cli",
]
MODULES = sorted((ROOT / "mmdiff").rglob("*.py"))


def layer(path: Path) -> str:
    return path.relative_to(ROOT / "mmdiff").with_suffix("").parts[0]


@functools.cache
def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path):
    if layer(path) == "__init__":
        return
    below = set(LAYERS[: LAYERS.index(layer(path)) + 1])
    for name in imported(path):
        if name.startswith("mmdiff."):
            assert name.split(".")[1] in below, f"{path.name} imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_heavy_libraries_are_never_imported_by_mmdiff(path):
    heavy = {"torch", "torchvision", "facenet_pytorch", "tensorflow", "transformers", "av", "skimage"}
    assert not {name.split(".")[0] for name in imported(path)} & heavy
    if layer(path) not in ("cli", "demo"):
        assert "preprocessing" not in {name.split(".")[0] for name in imported(path)}


# Of one process: what is imported later may need more.
LOADED = (
    (("mmdiff.reports.report",), {"jax", "sklearn"}),
    (
        ("mmdiff.cli", "mmdiff.training.pretrain", "mmdiff.probing.linear_probe", "mmdiff.reports.mask_pictures"),
        {"torch", "tensorflow", "transformers", "av", "skimage"},
    ),
    (("preprocessing.track_boxes",), {"trackers", "supervision"}),  # until something is followed
)


@pytest.fixture(scope="module")
def loaded() -> list[list[str]]:
    """After each row of imports, what is loaded."""
    code = "import importlib, json, sys\n"
    code += f"for names in {[names for names, _ in LOADED]}:\n"
    code += "    for name in names: importlib.import_module(name)\n    print(json.dumps(list(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    return [json.loads(line) for line in found.stdout.splitlines()]


@pytest.mark.parametrize("row", range(len(LOADED)), ids=["reports", "training_and_probing", "tracking"])
def test_heavy_libraries_are_not_loaded_before_they_are_needed(loaded, row):
    names, heavy = LOADED[row]
    assert set(names) <= set(loaded[row]) and not heavy & set(loaded[row])
