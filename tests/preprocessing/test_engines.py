"""The same bytes whoever does the work, and however often it is killed."""

import dataclasses
import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tensorflow_datasets as tfds
from clips import BRIGHT_SQUARE, make_clip, walking_square

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


def test_any_number_of_processes_writes_the_same_bytes(folder, unbroken, tmp_path):
    """Two as well as none but the one that wrote `unbroken`."""
    preprocess(folder, tmp_path / "out", dataclasses.replace(QUICK, workers=2), progress=False)
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


def test_a_pipeline_that_leaves_nothing_is_not_a_problem_of_the_videos(folder, tmp_path, monkeypatch):
    from preprocessing import run_on_beam

    monkeypatch.setattr(run_on_beam, "run_on_beam", lambda *rest: None)
    options = dataclasses.replace(QUICK, beam=TWO_PROCESSES)
    with pytest.raises(PreprocessError, match="left nothing of 7 videos .* do all its machines see"):
        preprocess(folder, tmp_path / "out", options, progress=False)
    assert not (tmp_path / "out" / "summary.json").exists()


KILLED_AT_EVERY_STEP = """
import os, shutil, sys
from pathlib import Path
import msgpack, pyarrow.parquet, preprocessing.byte_track, preprocessing.coco, preprocessing.write_records
from preprocessing.build import Options, preprocess
films, out, stride = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree")

def run(dies_at):
    # In a process that ends itself before the change of that number below `out`; its exit status.
    changes = 0
    def watch(event, arguments):
        nonlocal changes
        mode = arguments[1] if event == "open" else None
        writes = event in CHANGES or (isinstance(mode, str) and set(mode) & set("wax+"))
        if writes and str(arguments[0]).startswith(str(out)):
            changes += 1
            if changes == dies_at:
                os._exit(77)
    child = os.fork()
    if not child:
        sys.addaudithook(watch)
        preprocess(films, out, Options(detector=sys.argv[4], workers=0, coco=True), progress=False)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def contents():
    found = [*out.glob("video_folder/*/*"), out / "boxes.parquet", out / "boxes.coco.json", out / "problems.jsonl"]
    return {path.name: path.read_bytes() for path in found}

assert run(None) == 0
unbroken, kills = contents(), 0
for step in range(1, 1000, stride):
    shutil.rmtree(out)
    ended = run(step)
    if ended != 77:
        break
    kills += 1
    assert run(None) == 0 and contents() == unbroken, step
assert ended == 0 and len(unbroken) >= 6, ended
print(kills)
"""


def test_killed_before_any_change_of_a_file_it_ends_with_the_same_bytes(tmp_path):
    make_clip(tmp_path / "films" / "walks.mp4", walking_square(1))
    (tmp_path / "films" / "bad.mp4").write_text("not a video")
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[2])])
    command = [
        sys.executable,
        "-c",
        KILLED_AT_EVERY_STEP,
        str(tmp_path / "films"),
        str(tmp_path / "out"),
        "3",
        BRIGHT_SQUARE,
    ]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) >= 8


def test_killed_with_all_its_processes_it_ends_with_the_same_bytes(folder, unbroken, tmp_path):
    script = (
        "import sys; from pathlib import Path; from preprocessing.build import Options, preprocess\n"
        "preprocess(Path(sys.argv[1]), Path(sys.argv[2]), Options(detector=sys.argv[3], workers=2), progress=False)"
    )
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[2])])
    command = [sys.executable, "-c", script, str(folder), str(tmp_path / "out"), BRIGHT_SQUARE]
    for staged in (1, 2):  # killed when so many videos are done
        running = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": path}, start_new_session=True)
        while running.poll() is None and len(list(tmp_path.glob("out/staging/*.msgpack"))) < staged:
            time.sleep(0.01)
        os.killpg(running.pid, signal.SIGKILL)
        assert running.wait() == -signal.SIGKILL
    preprocess(folder, tmp_path / "out", QUICK, progress=False)
    assert contents(tmp_path / "out") == unbroken
