"""The example of the documentation, installed as a package of its own in a temporary folder."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

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


def test_a_strategy_of_another_package_trains_by_either_name(installed, tmp_path):
    folder = tiny.write_dataset(tmp_path / "records", [tiny.record(i, boxes=False) for i in range(2)], [])
    program = (
        "import tiny, json, pathlib\nfrom mmdiff.training.pretrain import pretrain\n"
        "from mmdiff.training.config import paper_pretraining\nfrom mmdiff.masking.strategies import find\n"
        "assert find('center') == find('center_masking:center')\n"
        f"config = tiny.config(pathlib.Path({str(folder)!r}), steps=1, batch_size=1)\n"
        f"config.masking = paper_pretraining('center').masking\nconfig.masking.noise = 0.0\n"
        f"pretrain(config, {str(tmp_path / 'run')!r}, progress_bar=False)"
    )
    path = os.pathsep.join([str(installed), str(ROOT / "tests"), str(ROOT)])
    environment = os.environ | {"PYTHONPATH": path, "XLA_FLAGS": ""}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment, cwd=tmp_path)
    targets = json.loads((tmp_path / "run/targets.json").read_text())
    assert targets["hidden"] == [12, 12]
    assert json.loads((tmp_path / "run/config.json").read_text())["masking"]["strategy"] == "center"
