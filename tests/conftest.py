"""Eight simulated devices, a compilation cache, shapes checked at run time, and where the shared material lies."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Programs of tests run for moments and are compiled for seconds: without optimization, by the older emitters and in one
# piece that takes a quarter of the processor time (0.4 of 1.6 s for a gradient of twenty small layers).
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + (
    " --xla_force_host_platform_device_count=8"
    " --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1 --xla_cpu_prefer_vector_width=128"
)
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")  # operations run one by one are many
os.environ.setdefault("MMDIFF_CACHE", str(ROOT / ".cache" / "mmdiff"))  # not the user's
os.environ.setdefault("OMP_NUM_THREADS", "1")

import jaxtyping

jaxtyping.install_import_hook(["mmdiff", "preprocessing"], "beartype.beartype")

import jax
import numpy as np
import pytest

jax.config.update("jax_default_matmul_precision", "highest")

SHARED = ROOT.parent / "shared"


def _shared(name: str) -> Path:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"shared/{name} is not beside the project")
    return path


@pytest.fixture(scope="session")
def golden_folder() -> Path:
    return _shared("golden")


@pytest.fixture(scope="session")
def golden(golden_folder) -> dict:
    """Inputs and outputs of the original code, by name."""
    with np.load(golden_folder / "golden.npz") as archive:
        return {name: x if x.dtype.kind == "U" else jax.numpy.asarray(x) for name, x in archive.items()}


@pytest.fixture(scope="session")
def golden_model(golden_folder):
    """The model and the parameters that made the goldens."""
    from mmdiff.models import pretrained, reserve

    config, params = pretrained.load_reserve(golden_folder / "params.npz", image_grid=(4, 6))
    return reserve.MerlotReserve(config), params


@pytest.fixture(scope="session")
def videos() -> Path:
    return _shared("videos")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    return _shared("data")


# The files with the most seconds of processor time, or of waiting for processes, in this order. A worker takes a whole file at
# a time: a long one begun last would keep one worker busy while the others have nothing left.
HEAVIEST = (
    "test_resume.py",
    "test_two_processes.py",
    "test_pretrain.py",
    "test_pretrain_text.py",
    "test_demo.py",
    "test_finetune.py",
    "test_text_probe.py",
    "test_masked_language.py",
    "test_hiding_variants.py",
    "test_soft_masked_gradients.py",
    "test_reserve.py",
    "test_own_strategy.py",
    "test_probe.py",
    "test_strategies.py",
    "test_text_classification.py",
)

# Files of which every test, or the fixture that its tests share, is slow.
SLOW_FILES = ("test_demo.py", "test_finetune.py", "test_two_processes.py")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: takes 10 seconds or more with all programs compiled; not of `make check`")


def pytest_collection_modifyitems(items: list) -> None:
    for item in items:
        if item.path.name in SLOW_FILES:
            item.add_marker("slow")
    items.sort(key=lambda item: HEAVIEST.index(item.path.name) if item.path.name in HEAVIEST else len(HEAVIEST))
