"""Imports point one way, and the training half needs neither torch nor TensorFlow nor transformers."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAYERS = [
    "errors",
    "whole_files",
    "user_cache",
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


def imported(path: Path, everywhere: bool) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = ast.walk(tree) if everywhere else tree.body
    names = set()
    for node in nodes:
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
    for name in imported(path, everywhere=True):
        if name.startswith("mmdiff."):
            assert name.split(".")[1] in below, f"{path.name} imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_heavy_libraries_are_never_imported_by_mmdiff(path):
    heavy = {"torch", "torchvision", "facenet_pytorch", "tensorflow", "transformers", "av", "skimage"}
    assert not {name.split(".")[0] for name in imported(path, everywhere=True)} & heavy
    if layer(path) not in ("cli", "demo"):
        assert "preprocessing" not in {name.split(".")[0] for name in imported(path, everywhere=True)}


def test_training_and_probing_load_no_heavy_library():
    code = (
        "import sys, mmdiff.cli, mmdiff.training.pretrain, mmdiff.probing.linear_probe, mmdiff.reports.mask_pictures;"
        "print(sorted({'torch','tensorflow','transformers','av','skimage'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert found.stdout.strip() == "[]"
