"""The same bytes whoever does the work, and however often it is killed."""

import dataclasses
import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tensorflow_datasets as tfds
from clips import BRIGHT_SQUARE

from preprocessing.build import Options, preprocess
from preprocessing.problems import PreprocessError

QUICK = Options(detector=BRIGHT_SQUARE, workers=0)
TWO_PROCESSES = ("--runner=DirectRunner", "--direct_running_mode=multi_processing", "--direct_num_workers=2")


def contents(out: Path) -> dict[str, str]:
    files = [*out.glob("video_folder/*/*array_record*"), out / "boxes.parquet", out / "problems.jsonl"]
    files += [*out.glob("video_folder/*/features.json"), *out.glob("video_folder/*/metadata.json")]
    assert len(files) >= 6
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def unbroken(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("unbroken") / "out"
    preprocess(folder, out, QUICK, progress=False)
    return contents(out)


@pytest.fixture
def detectors_path(monkeypatch):
    """So that processes find the detector of these tests."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))


@pytest.mark.parametrize("workers", [1, 3])
def test_any_number_of_processes_writes_the_same_bytes(folder, unbroken, tmp_path, workers):
    preprocess(folder, tmp_path / "out", dataclasses.replace(QUICK, workers=workers), progress=False)
    assert contents(tmp_path / "out") == unbroken


def test_beam_with_two_processes_writes_the_same_bytes(folder, unbroken, tmp_path, detectors_path):
    options = dataclasses.replace(QUICK, beam=TWO_PROCESSES)
    summary = preprocess(folder, tmp_path / "out", options, progress=False)
    assert contents(tmp_path / "out") == unbroken and summary.detected == 7
    assert preprocess(folder, tmp_path / "out", QUICK, progress=False).already_done


def test_the_tfds_builder_takes_beam_options(folder, unbroken, tmp_path):
    from apache_beam.options.pipeline_options import PipelineOptions

    from preprocessing.write_records import VideoFolder

    builder = VideoFolder(data=folder, options=QUICK, data_dir=tmp_path / "out")
    pipeline = PipelineOptions(["--runner=DirectRunner", "--direct_running_mode=in_memory"])
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(beam_options=pipeline))
    written = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in tmp_path.rglob("*array_record*")}
    assert written and written.items() <= unbroken.items()


@pytest.mark.parametrize(
    "words, says",
    [
        (("--direct_num_workers=two",), "invalid int value: 'two'"),
        (("--nonsense=3",), "has no option 'nonsense'"),
        (("DirectRunner",), "has no option 'DirectRunner'"),
    ],
)
def test_what_beam_does_not_know_is_said_before_any_work(folder, tmp_path, words, says):
    with pytest.raises(PreprocessError, match=says):
        preprocess(folder, tmp_path / "out", dataclasses.replace(QUICK, beam=words), progress=False)
    assert not (tmp_path / "out").exists()


def test_beam_that_is_not_installed_is_said_with_how_to_install_it(folder, tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "preprocessing.run_on_beam", raising=False)
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(PreprocessError, match="needs Apache Beam .*pip install"):
        preprocess(folder, tmp_path / "out", dataclasses.replace(QUICK, beam=TWO_PROCESSES), progress=False)


def test_killed_again_and_again_at_any_moment_it_ends_with_the_same_bytes(folder, unbroken, tmp_path):
    """Whole process groups are killed, as by a power cut: at random moments, so also while files are written."""
    script = (
        "import sys; from pathlib import Path; from preprocessing.build import Options, preprocess\n"
        "preprocess(Path(sys.argv[1]), Path(sys.argv[2]), Options(detector=sys.argv[3], workers=2), progress=False)"
    )
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[2])])
    command = [sys.executable, "-c", script, str(folder), str(tmp_path / "out"), BRIGHT_SQUARE]
    moments, kills = random.Random(0), 0
    for _ in range(8):
        running = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": path}, start_new_session=True)
        until = time.monotonic() + moments.uniform(1.5, 5.0)
        while running.poll() is None and time.monotonic() < until:
            time.sleep(0.01)
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGKILL)
            kills += 1
        if running.wait() == 0:
            break
    assert kills
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": path})
    assert contents(tmp_path / "out") == unbroken
