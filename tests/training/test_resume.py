"""A run that is killed, told to stop, out of disk or whose checkpoint is damaged goes on to the same end."""

import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import toy

from mmdiff.models.pretrained import CheckpointError
from mmdiff.training import checkpoints as module
from mmdiff.training import hosts
from mmdiff.training.checkpoints import DAMAGED, SUMS
from mmdiff.training.interruption import Preempted
from mmdiff.training.metrics import read_metrics
from mmdiff.training.runs import RunError

ROOT = Path(__file__).resolve().parents[2]
TIMES = {"seconds_per_step", "examples_per_second", "mfu", "input_wait", "hours_left"}


def weights(folder: Path) -> dict[str, np.ndarray]:
    return safetensors.numpy.load_file(folder / toy.MODEL)


def lines(folder: Path) -> list[dict]:
    found = read_metrics(folder / "metrics.jsonl")
    return [{name: value for name, value in line.items() if name not in TIMES} for line in found]


def assert_same_end(one: Path, other: Path) -> None:
    assert lines(one) == lines(other)
    first, second = weights(one), weights(other)
    assert all((first[name] == second[name]).all() for name in first)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    toy.run(folder, toy.schedule(20))
    return folder


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    folder = tmp_path_factory.mktemp("half") / "half"
    toy.run(folder, toy.schedule(12))
    return folder


@pytest.fixture
def half(stopped, tmp_path):
    """A run of 20 steps that was killed behind its checkpoints of steps 8 and 12."""
    return shutil.copytree(stopped, tmp_path / "half")


def steps(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def start(folder: Path, *words, **environment: str) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    command = [sys.executable, ROOT / "tests" / "training" / "toy.py", folder, *words]
    return subprocess.Popen([str(word) for word in command], stderr=subprocess.PIPE, text=True, env=environment)


def wait_for(process: subprocess.Popen, there) -> None:
    deadline = time.monotonic() + 120
    while not there() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert there() and process.poll() is None


def test_a_run_that_goes_on_ends_with_the_bits_and_lines_of_an_unbroken_one(unbroken, half):
    toy.run(half, toy.schedule(20))
    assert_same_end(half, unbroken)


def test_sigterm_saves_the_step_it_is_at_and_the_run_goes_on_from_there(unbroken, tmp_path, caplog):
    caplog.set_level(logging.INFO, "mmdiff")
    with pytest.raises(Preempted, match="the same command goes on"), toy.sigterm_at(tmp_path, 6):
        toy.run(tmp_path, toy.schedule(20), toy.endless(seconds=0.2))
    assert "finishing the step and saving" in caplog.messages[-1]
    taken = max(int(step) for step in steps(tmp_path))
    assert 6 <= taken < 20 and taken == max(line["step"] for line in lines(tmp_path)) // 2 * 2 + taken % 2
    toy.run(tmp_path, toy.schedule(20))
    assert_same_end(tmp_path, unbroken)


def test_sigterm_in_an_evaluation_leaves_it_and_makes_it_up_later(unbroken, tmp_path):
    # The line of step 6 is written when the evaluation begins.
    with pytest.raises(Preempted), toy.sigterm_at(tmp_path, 6):
        toy.run(tmp_path, toy.schedule(20), validation_seconds=2.0)
    assert "6" in steps(tmp_path) and {line["split"] for line in lines(tmp_path)} == {"train"}
    toy.run(tmp_path, toy.schedule(20))
    assert_same_end(tmp_path, unbroken)


def test_a_kill_behind_an_evaluation_that_was_made_up_leaves_no_line_twice(unbroken, half):
    with (half / "metrics.jsonl").open() as file:
        kept = [line for line in file if json.loads(line)["step"] <= 8]
    made_up = json.dumps({"step": 8, "split": "validation", "loss": 1.0}) + "\n"
    (half / "metrics.jsonl").write_text("".join([*kept, made_up]))
    shutil.rmtree(half / "checkpoints" / "12")
    toy.run(half, toy.schedule(20))
    assert_same_end(half, unbroken)


def test_a_second_sigterm_kills(tmp_path):
    process = start(tmp_path, 20, 5.0)
    wait_for(process, lambda: (tmp_path / "metrics.jsonl").exists())
    time.sleep(1.0)  # it waits for its first batch
    process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == -signal.SIGTERM


def test_on_two_hosts_the_notice_of_one_stops_both_at_the_same_step(unbroken, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    processes = []
    for number in range(2):
        where = dict(zip(hosts.VARIABLES, (address, "2", str(number)), strict=True))
        processes.append(start(tmp_path, 20, 0.3, XLA_FLAGS="--xla_force_host_platform_device_count=4", **where))
    wait_for(processes[0], lambda: toy.at_step(tmp_path, 4))
    processes[1].send_signal(signal.SIGTERM)
    said = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [75, 75], said
    taken = max(int(step) for step in steps(tmp_path))
    assert 4 <= taken < 20 and taken - max(line["step"] for line in lines(tmp_path)) in (0, 1)
    toy.run(tmp_path, toy.schedule(20))
    for line, wanted in zip(lines(tmp_path), lines(unbroken), strict=True):
        assert {name: pytest.approx(value, rel=1e-4) for name, value in line.items() if name != "split"} == {
            name: value for name, value in wanted.items() if name != "split"
        }


def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_gone_on_from(unbroken, half, caplog):
    arrays = max((half / "checkpoints/12/state").rglob("*"), key=lambda path: path.is_file() and path.stat().st_size)
    content = bytearray(arrays.read_bytes())
    content[len(content) // 2] ^= 1  # one bit: Orbax would restore it
    arrays.write_bytes(content)
    with caplog.at_level(logging.WARNING, "mmdiff"):
        toy.run(half, toy.schedule(20))
    (said,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert f"{half / 'checkpoints' / '12'} is damaged" in said and f"{arrays.name} has changed" in said
    assert (half / DAMAGED / "12" / SUMS).exists()
    assert_same_end(half, unbroken)


@pytest.mark.parametrize("harm", ["truncated", "deleted", "garbage", "without sums", "sums cut short"])
def test_any_kind_of_damage_is_found(half, harm):
    folder = half / "checkpoints" / "12"
    for path in [path for path in folder.rglob("*") if path.is_file() and path.name not in module.UNSUMMED]:
        before = path.read_bytes()
        if harm == "truncated":
            path.write_bytes(before[: len(before) // 2])
        elif harm == "deleted":
            path.unlink()
        elif harm == "garbage":
            path.write_bytes(os.urandom(len(before)))
        elif harm == "without sums":
            (folder / SUMS).unlink()
        else:
            (folder / SUMS).write_text((folder / SUMS).read_text()[:-20])
        assert module._damage(folder), path
        path.write_bytes(before)
        if "sums" in harm:
            break


def test_where_no_checkpoint_is_whole_nothing_is_moved_and_one_sentence_says_so(half):
    for step in (8, 12):
        (half / "checkpoints" / str(step) / "progress" / "metadata").unlink()
    with pytest.raises(CheckpointError, match="no checkpoint in .* is whole .*progress/metadata is missing"):
        toy.run(half, toy.schedule(20))
    assert steps(half) == ["12", "8"] and not (half / DAMAGED).exists()


def test_a_checkpoint_of_another_model_is_no_damage(half):
    with pytest.raises(CheckpointError, match=r"another model or optimizer: .*slope is \(4,\) and should be \(5,\)"):
        toy.run(half, toy.schedule(20), width=5)
    assert steps(half) == ["12", "8"] and not (half / DAMAGED).exists()


def test_a_best_model_is_kept_only_once_its_checkpoint_is_there(tmp_path, monkeypatch):
    seen = []

    def look(folder):
        seen.append((max(map(int, steps(folder))), (folder / toy.MODEL).exists()))

    keep = toy.save_safetensors
    monkeypatch.setattr(toy, "save_safetensors", lambda path, params: (look(path.parent), keep(path, params)))
    toy.run(tmp_path, toy.schedule(12, save_every=100))
    assert seen == [(6, False), (12, True)]


def test_a_save_that_is_under_way_when_a_run_ends_in_an_error_is_finished(tmp_path):
    with pytest.raises(RunError, match="step 10 is no number"):
        toy.run(tmp_path, toy.schedule(20, save_every=1, evaluate_every=100), toy.endless(toy.BATCH * 9))
    assert sorted(steps(tmp_path), key=int) == ["8", "9"]


def test_lines_are_on_the_disk_before_the_checkpoint_that_they_belong_to(tmp_path, monkeypatch):
    metrics, synced, sync = tmp_path / "metrics.jsonl", [], os.fsync

    def look(descriptor):
        if os.fstat(descriptor).st_ino == metrics.stat().st_ino:
            synced.append((max(line["step"] for line in lines(tmp_path)), "4" in steps(tmp_path)))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", look)
    toy.run(tmp_path, toy.schedule(8))
    assert synced[0] == (4, False) and synced[-1][0] == 8


def test_a_best_model_that_a_kill_came_before_is_kept_when_the_run_goes_on(unbroken, tmp_path):
    folder = tmp_path / "run"
    toy.run(folder, toy.schedule(6))
    (folder / toy.MODEL).unlink()
    toy.run(folder, toy.schedule(6))
    assert (folder / toy.MODEL).exists()


def test_another_number_of_devices_goes_on_with_the_same_batches_and_nearly_the_same_numbers(unbroken, half):
    toy.run(half, toy.schedule(20), fsdp=8)
    for one, other in zip(lines(half), lines(unbroken), strict=True):
        assert one.keys() == other.keys()
        for name in one:
            if name != "split":
                assert one[name] == pytest.approx(other[name], rel=1e-4)


FULL = """
import sys
sys.modules["torch"] = None
from pathlib import Path
import toy
from mmdiff.errors import UserError
import logging
logging.getLogger("absl").setLevel(logging.CRITICAL)
try:
    toy.run(Path(sys.argv[1]), toy.schedule(400, save_every=2, log_every=1))
except UserError as error:
    print("SAID", error)
    sys.exit(2)
"""


def test_a_full_disk_is_one_sentence_and_loses_nothing(unbroken, tmp_path):
    disk, log = tmp_path / "disk", tmp_path / "log"
    disk.mkdir()
    script = (
        f"mount -t tmpfs -o size=320k tmpfs {disk} && {sys.executable} -c '{FULL}' {disk}/run > {log} 2>&1; code=$?; "
        f"cp -r {disk}/run {tmp_path}/run; exit $code"
    )
    try:
        subprocess.run(["unshare", "-rm", "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a small disk can only be made where user namespaces are allowed")
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests/training'}"}
    ended = subprocess.run(["unshare", "-rm", "sh", "-c", script], env=environment, timeout=120, check=False)
    said = log.read_text()
    assert ended.returncode == 2 and "no space left to write in" in said and "Traceback" not in said
    last = max(line["step"] for line in lines(tmp_path / "run"))
    kept = max(int(step) for step in steps(tmp_path / "run") if step.isdigit())
    assert last - kept <= 4  # the error of a save in the background shows before the save after next
    whole = last // 2 * 2 + 4
    toy.run(tmp_path / "run", toy.schedule(whole, save_every=2, log_every=1))
    toy.run(tmp_path / "whole", toy.schedule(whole, save_every=2, log_every=1))
    assert_same_end(tmp_path / "run", tmp_path / "whole")
