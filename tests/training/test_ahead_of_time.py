"""What `mmdiff compile` says before a TPU is rented."""

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from mmdiff.models.reserve import ReserveConfig
from mmdiff.reports import forecasts
from mmdiff.reports.forecasts import forecast_row, hours
from mmdiff.training import ahead_of_time
from mmdiff.training.ahead_of_time import GIB, Compiled, Forecast, batch_shapes, open_topology, out_of_memory, remedies
from mmdiff.training.config import PretrainConfig, with_fields
from mmdiff.training.devices import CHIPS, SLICES, TopologyError, chip, slice_shape

ROOT = Path(__file__).resolve().parents[2]
needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed: make compiler"
)
TINY = {
    "model.hidden_size": 64,
    **{f"model.{encoder}_layers": 1 for encoder in ("vision", "audio", "joint", "span")},
    "model.rows": 4,
    "model.columns": 6,
    "data.segments": 2,
    "data.text_length": 48,
}


def compile_in_a_process(*words: str) -> subprocess.CompletedProcess:
    """`mmdiff compile` as a user starts it: what libtpu does to a process must not reach the other tests."""
    command = [sys.executable, "-m", "mmdiff.cli", "compile", *words]
    environment = os.environ | {"XLA_FLAGS": ""}
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)


def tiny_words(**more) -> list[str]:
    return ["--config", "configs/tvqa.py", *(f"--config.{name}={value}" for name, value in (TINY | more).items())]


def forecast_of(**fields) -> Forecast:
    fits = Compiled(True, 3 * GIB, 7 * GIB, GIB, flops=2e12, bytes=70e9, seconds=1)
    made = Forecast("v2-8", 8, "TPU v2", 8, 1, fits, 8e12, 20e12, 350e9, 100, 1000)
    return dataclasses.replace(made, **fields)


@needs_libtpu
@pytest.mark.slow
def test_a_small_step_is_compiled_for_a_tpu_that_is_not_there():
    ended = compile_in_a_process(*tiny_words(), "--topology", "v2:2x2")
    assert ended.returncode == 0, ended.stderr[-2000:]
    row = next(line for line in ended.stdout.splitlines() if line.startswith("| v2:2x2"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[1] == "8 x TPU v2" and cells[2] == "8 (1 each)" and cells[3].endswith("of 7.48")
    memory = float(cells[3].split()[0])
    assert 0 < memory < 0.5
    assert float(cells[8]) > 1000  # examples a second
    assert "h an epoch" in ended.stdout  # 17,435 clips, though there are no records
    assert ended.stderr == ""  # of what libtpu says where it finds no TPU


@needs_libtpu
def test_what_is_no_slice_is_one_sentence():
    unknown = compile_in_a_process(*tiny_words(), "--topology", "v2:3x3")
    assert unknown.returncode == 2
    assert "v2:3x3 is no slice that the compiler knows" in unknown.stderr and "Traceback" not in unknown.stderr


def test_a_slice_has_two_names_and_others_are_refused():
    assert slice_shape("v2-8") == slice_shape("v2:2x2") == "v2:2x2"
    assert slice_shape("v5litepod-8") == slice_shape("v5e-8")  # gcloud's name and everybody's
    with pytest.raises(TopologyError, match="no slice is called 'v2-9'; known: v2-8"):
        slice_shape("v2-9")


def test_every_slice_has_a_chip_whose_speed_is_known():
    kinds = {
        "v2": "TPU v2",
        "v3": "TPU v3",
        "v4": "TPU v4",
        "v5e": "TPU v5 lite",
        "v5p": "TPU v5",
        "v6e": "TPU v6 lite",
    }
    for shape in SLICES.values():
        assert chip(kinds[shape.split(":")[0]]) is CHIPS[kinds[shape.split(":")[0]]]
    assert chip("NVIDIA H100 80GB HBM3").tflops == 989 and chip("cpu") is None


def test_without_libtpu_one_sentence_says_what_to_install(monkeypatch):
    def missing(**_):
        raise RuntimeError("Unable to find libtpu.so")

    monkeypatch.setattr(ahead_of_time.topologies, "get_topology_desc", missing)
    with pytest.raises(TopologyError, match=r"libtpu.* is not installed: pip install -c constraints.txt '\.\[tpu\]'"):
        open_topology("v2-8")


def test_batch_shapes_are_those_that_the_loader_makes(parts):
    config, _, objective, batch = parts
    shapes = batch_shapes(config.data, objective.model.config, 8)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), shapes) == jax.tree.map(lambda x: (x.shape, x.dtype), batch)


def test_a_step_takes_as_long_as_the_slower_of_arithmetic_and_memory():
    assert forecast_of().seconds == 70 / 350
    assert forecast_of(bandwidth=1e12).seconds == 2 / 20
    assert forecast_of(bandwidth=1e12).mfu == 0.5  # half of the FLOPs are the model's own
    assert hours(forecast_of(), 1000) == f"{1000 * 0.2 / 3600:.2f}"
    assert hours(forecast_of(), 1000, 0.4) == f"{1000 * 0.5 / 3600:.2f}"
    assert hours(forecast_of(), None) == "unknown"


def test_what_does_not_fit_has_no_time():
    row = forecast_row(forecast_of(compiled=Compiled(False, 9 * GIB, 7.48 * GIB)))
    assert row["memory, GiB"] == "9.00 of 7.48: does not fit"
    assert row["step, ms"] == row["h a run"] == ""


def test_the_compiler_says_in_two_ways_that_memory_lacks():
    used = out_of_memory(
        "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 9.50G of 7.48G hbm. Exceeded by"
    )
    assert used == (False, 9.5 * GIB, 7.48 * GIB, *used[3:])
    temporaries = "Ran out of memory on HBM, the total memory required for HLO temporaries (1.50T) exceeds available HBM (512.00M)."
    assert out_of_memory(temporaries)[:3] == (False, 1.5 * 2**40, GIB / 2)
    assert out_of_memory("INTERNAL: something else") is None


def test_remedies_go_from_cheap_to_dear_and_leave_the_configuration_alone():
    config = PretrainConfig()
    config.train.fsdp, config.train.batch_size, config.model.remat = 1, 32, ("joint",)
    before = json.dumps(dataclasses.asdict(config))
    found = remedies(config, 8)
    assert found[0] == {"train.fsdp": 0}
    assert found[1] == {"model.remat": ("vision", "joint")}
    assert found[-2:] == [{"train.accumulation": 2}, {"train.accumulation": 4}]
    changed = with_fields(config, found[0] | found[1])
    assert (changed.train.fsdp, changed.model.remat) == (0, ("vision", "joint"))
    assert json.dumps(dataclasses.asdict(config)) == before
    assert ReserveConfig(remat=changed.model.remat).remat == ("vision", "joint")


def test_the_largest_batch_is_one_without_accumulation_and_of_the_changes_that_made_it_fit(monkeypatch):
    def count(config, topology):
        each = config.train.batch_size // config.train.accumulation // 8
        fits = each <= (6 if config.model.remat else 0)
        made = Compiled(fits, GIB, 7 * GIB)
        return forecast_of(batch_size=config.train.batch_size, accumulation=config.train.accumulation, compiled=made)

    monkeypatch.setattr(forecasts, "forecast", count)
    config = PretrainConfig()
    config.train.batch_size, config.train.accumulation = 64, 8
    *_, (words, changed, found) = forecasts.tried(config, count(config, "v2-8"))
    assert words == "--config.model.remat='(\"joint\",)'" and found.compiled.fits
    best = forecasts.largest_batch(changed, found)
    assert (best.batch_size, best.accumulation) == (48, 1)


def test_a_batch_that_a_slice_cannot_share_is_one_sentence():
    ended = compile_in_a_process(*tiny_words(**{"train.batch_size": 12}), "--topology", "v2-8")
    assert ended.returncode == 2
    sentence = "make it a multiple of 8" if importlib.util.find_spec("libtpu") else "libtpu"
    assert sentence in ended.stderr and "Traceback" not in ended.stderr
