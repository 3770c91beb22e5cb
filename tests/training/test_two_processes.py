"""Two processes with four devices each train what one process with eight trains, and end together."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import tiny
import toy

from mmdiff.cli import main
from mmdiff.training import hosts, runs, sharding
from mmdiff.training.metrics import read_metrics

TESTS = Path(__file__).resolve().parents[1]
STEPS, TOY_STEPS = 2, 8
SPLIT_FROM = 2**14  # the tiny model's embeddings and wide layers: their parameters and moments lie on both processes
TOY_WIDTH = 8  # one number of the toy's slope on each device
CLOCKS = {"mfu", "examples_per_second", "seconds_per_step", "input_wait", "hours_left"}

CONFIG = f"""
from pathlib import Path
import tiny

def get_config(records):
    made = tiny.config(Path(records), steps={STEPS}, log_every=1, evaluate_every={STEPS}, save_every={STEPS})
    made.train.fsdp, made.optimizer.warmup_steps = 8, 0
    return made
"""

# The model, then the toy, and the toy again from half-way.
RUNS = f"""
import sys
from pathlib import Path

from test_two_processes import go_back, run_toy
from mmdiff.cli import main
from mmdiff.training import hosts, sharding

hosts.join()
sharding.SHARDED_FROM = {SPLIT_FROM}
folder, *words = sys.argv[1:]
if code := main([*words, "--distributed", "--workdir", f"{{folder}}/two"]):
    sys.exit(code)
assert "torch" not in sys.modules  # it takes seconds to load, and training needs nothing of it
run_toy(Path(folder, "toy_two"))
if hosts.first():
    go_back(Path(folder, "toy_two"), Path(folder, "toy_two_then_two"))
hosts.wait("the folder")
run_toy(Path(folder, "toy_two_then_two"))
"""

# Host 1 gives up in three ways; host 0 prints what it hears of each.
GIVES_UP = """
import os, pathlib, signal, sys
from mmdiff.errors import UserError
from mmdiff.training import hosts

hosts.SILENT_SECONDS = 3
hosts.join()
try:
    with hosts.together():
        if not hosts.first():
            raise UserError("no records here")
except UserError as error:
    print(f"\\n{error}", flush=True)
try:
    with hosts.together():
        hosts.refuse_several("probing")
except UserError as error:
    print(f"\\n{error}", flush=True)
try:
    with hosts.together():
        if not hosts.first():
            hosts.await_file(pathlib.Path("config.json"), 0.1)
except UserError as error:
    print(f"\\n{error}", flush=True)
if not hosts.first():
    os.kill(os.getpid(), signal.SIGKILL)
hosts.wait("what never comes")
print("\\ncame", flush=True)
"""


def wide_point(number: int) -> toy.Points:
    """As `toy.point`, of TOY_WIDTH numbers."""
    x = np.random.default_rng(number).normal(size=TOY_WIDTH).astype(np.float32)
    return toy.Points(np.int64(number), x, x.sum())


def run_toy(folder: Path) -> None:
    """The smallest run, its parameters and moments on all devices."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toy, "point", wide_point)
        patch.setattr(sharding, "SHARDED_FROM", TOY_WIDTH)
        toy.run(folder, toy.schedule(TOY_STEPS, save_every=TOY_STEPS // 2), fsdp=8, width=TOY_WIDTH)


def go_back(before: Path, folder: Path) -> None:
    """Copies a run of the toy as it was when its checkpoint before the last was written."""
    shutil.copytree(before, folder)
    shutil.rmtree(folder / "checkpoints" / str(TOY_STEPS))
    (folder / toy.MODEL).unlink()


def two_processes(script: str, *arguments: str) -> list[tuple[int, str, str]]:
    """The exit code, stdout and stderr of each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=4")
    shared = {
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
        "JAX_NUM_PROCESSES": "2",
        "JAX_DEFAULT_MATMUL_PRECISION": "highest",
        "PYTHONPATH": f"{TESTS}{os.pathsep}{TESTS / 'training'}{os.pathsep}{TESTS.parent}",
        "XLA_FLAGS": flags,
    }
    started = [
        subprocess.Popen(
            [sys.executable, "-c", script, *arguments],
            env=os.environ | shared | {"JAX_PROCESS_ID": str(number)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    try:
        said = [process.communicate(timeout=600) for process in started]
    finally:
        for process in started:
            process.kill()
    return [(process.returncode, *texts) for process, texts in zip(started, said, strict=True)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder of runs: the model and the toy by one process and by two, and the toy of two gone on from half-way."""
    folder = tmp_path_factory.mktemp("two_processes")
    train = [tiny.record(i, boxes=i % 4 > 0, audio=i % 3 > 0) for i in range(11)]
    records = tiny.write_dataset(folder / "records", train, [])  # several hosts validate the toy
    (folder / "config.py").write_text(CONFIG)
    words = ["pretrain", f"--config={folder / 'config.py'}:{records}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharding, "SHARDED_FROM", SPLIT_FROM)
        assert main([*words, "--workdir", str(folder / "one")]) == 0
    ended = two_processes(RUNS, str(folder), *words)
    assert [code for code, *_ in ended] == [0, 0], "\n".join(error[-2000:] for *_, error in ended)
    run_toy(folder / "toy_one")
    go_back(folder / "toy_two", folder / "toy_two_then_one")
    run_toy(folder / "toy_two_then_one")
    return folder


def weights(workdir: Path) -> np.ndarray:
    arrays = safetensors.numpy.load_file(workdir / runs.MODEL)
    return np.concatenate([arrays[name].ravel() for name in sorted(arrays)])


def read_run(workdir: Path) -> list[dict]:
    return [{k: v for k, v in line.items() if k not in CLOCKS} for line in read_metrics(workdir / runs.METRICS)]


@pytest.mark.parametrize(("name", "alone"), [("two", "one"), ("toy_two", "toy_one"), ("toy_two_then_one", "toy_one")])
def test_two_processes_equal_one(trained, name, alone):
    expected, found = read_run(trained / alone), read_run(trained / name)
    assert [(line["step"], line["split"]) for line in found] == [(line["step"], line["split"]) for line in expected]
    for line, wanted in zip(found, expected, strict=True):
        assert set(line) == set(wanted)
        for measured in set(wanted) - {"split"}:
            if measured.startswith("hidden") or measured == "accuracy":
                assert line[measured] == wanted[measured]
            else:  # the same sums in another order: float32 rounding
                np.testing.assert_allclose(line[measured], wanted[measured], rtol=1e-5, err_msg=measured)
    # What a few steps make of rounding in the gradients.
    assert np.abs(weights(trained / name) - weights(trained / alone)).max() < 1e-5


def test_two_processes_write_the_files_of_one(trained):
    for written in (runs.TARGETS, runs.CONFIG, runs.ANCHORS, runs.RECORDS, runs.TOKENIZER):
        assert (trained / "two" / written).read_bytes() == (trained / "one" / written).read_bytes()
    ended, expected = (json.loads((trained / run / runs.SUMMARY).read_text()) for run in ("two", "one"))
    assert ended == expected


def test_two_processes_go_on_with_the_same_bits(trained):
    assert read_run(trained / "toy_two_then_two") == read_run(trained / "toy_two")
    np.testing.assert_array_equal(weights(trained / "toy_two_then_two"), weights(trained / "toy_two"))


def test_a_host_that_gives_up_or_dies_ends_the_others():
    (code, said, _), (killed, _, _) = two_processes(GIVES_UP)
    assert killed == -signal.SIGKILL
    # Gloo speaks in between, and leaves lines unfinished.
    first, second, third = (line for line in said.splitlines() if line.startswith(("host 1 ", "probing ", "came")))
    assert first == "host 1 stopped: no records here"
    assert second.startswith("probing runs on one host and 2 run it together")
    assert third.startswith("host 1 stopped: host 1 does not see config.json")
    assert code not in (0, 2)  # what a launcher takes for a crash


def test_hosts_that_do_not_come_are_missed_in_one_sentence():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        variables = dict(zip(hosts.VARIABLES, (address, "2", "1"), strict=True))
        ended = subprocess.run(
            [sys.executable, "-c", "from mmdiff.training import hosts; hosts.join(1)"],
            env=os.environ | variables,
            capture_output=True,
            text=True,
            cwd=TESTS.parent,
            check=False,
        )
    assert ended.returncode == 1
    assert f"not all hosts came to {address} within 1 seconds" in ended.stderr


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (("10.0.0.2:8476", "", ""), "JAX_COORDINATOR_ADDRESS is set, but not JAX_NUM_PROCESSES, JAX_PROCESS_ID"),
        (("10.0.0.2", "2", "0"), "'10.0.0.2' must be address:port"),
        (("10.0.0.2:8476", "2", "2"), "numbered from 0 to one less"),
        (("10.0.0.2:8476", "two", "0"), "numbered from 0 to one less"),
        (("", "", ""), "this is no TPU pod: set JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID"),
    ],
)
def test_variables_that_name_no_hosts_are_explained(values, said, monkeypatch):
    for name, value in zip(hosts.VARIABLES, values, strict=True):
        monkeypatch.setenv(name, value)
    if not any(values):  # devices are in use here: join would say that first
        monkeypatch.setattr(hosts.jax.distributed, "initialize", _find_nothing)
    with pytest.raises(hosts.HostsError, match=said):
        hosts.join()


def _find_nothing(**_):
    raise ValueError("coordinator_address should be defined.")
