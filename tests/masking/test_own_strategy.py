"""The example of the documentation, installed as a package of its own in a temporary folder."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

from mmdiff.masking.strategies import find
from mmdiff.training.config import paper_pretraining
from mmdiff.training.pretrain import pretrain

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTED = (ROOT / "docs/masking.md").read_text(encoding="utf-8")


def documented(name: str) -> str:
    """The code block of the documentation that begins with the file's name."""
    return re.search(rf"```\w+\n# {re.escape(name)}\n(.*?)```", DOCUMENTED, re.DOTALL)[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder for PYTHONPATH that holds the package."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("target")
    for name in ("center_masking.py", "pyproject.toml"):
        (source / name).write_text(documented(name), encoding="utf-8")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--target", str(target), str(source)], check=True)
    return target


def test_the_example_is_ten_lines():
    assert len(documented("center_masking.py").strip().splitlines()) <= 10


def test_a_strategy_of_another_package_trains_by_either_name(installed, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(installed)
    assert find("center") == find("center_masking:center")
    folder = tiny.write_dataset(tmp_path / "records", [tiny.record(i, boxes=False) for i in range(2)], [])
    config = tiny.config(folder, steps=1)
    config.masking = paper_pretraining("center").masking
    config.masking.noise = 0.0
    pretrain(config, tmp_path / "run", progress_bar=False)
    targets = json.loads((tmp_path / "run/targets.json").read_text())
    assert targets["hidden"] == [12, 12]
    assert json.loads((tmp_path / "run/config.json").read_text())["masking"]["strategy"] == "center"
