"""A configuration and the name of a TPU slice in, whether it fits there and how long it takes out: `mmdiff compile`.

The training step is compiled by libtpu, the TPU's own compiler, which needs no TPU. What it cannot say is how busy the
step keeps the machine: times are what the chip could do at best, and what that means at the share which the original code
reached.
"""

import dataclasses
import functools
import logging
import math
import os
import re
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh

from mmdiff.data.records import MEL_BINS, MEL_FRAMES, SUBSEGMENTS, read_split
from mmdiff.data.tokenizer import Tokenizer
from mmdiff.data.video_examples import DataConfig, VideoBatch
from mmdiff.models.reserve import ENCODERS, MerlotReserve, ReserveConfig, init_params
from mmdiff.objectives.masked_video import MaskedVideo
from mmdiff.training import runs
from mmdiff.training.config import PretrainConfig, epoch_steps, in_steps, validate
from mmdiff.training.devices import TopologyError, chip, slice_shape
from mmdiff.training.loop import microbatch
from mmdiff.training.optimizer import make_optimizer
from mmdiff.training.sharding import mesh_shape
from mmdiff.training.target_encoder import add_target_encoder, follow
from mmdiff.training.train_step import first_state, jit_train_step, model_flops

GIB = 2**30
RELEASED_VOCABULARY = 32768
# The original's continued pretraining on a v2-8: 8 examples in 0.271 s by its log, of the 0.109 s that its 2.45e12 FLOPs per
# core take at best.
ORIGINAL_SHARE = 0.40

log_line = logging.getLogger(__name__)


class Compiled(NamedTuple):
    """What the compiler says of a step, per device; only the memory where it does not fit."""

    fits: bool
    memory: float  # bytes, the program's own included
    limit: float
    arguments: float = math.nan  # of `memory`, what stays between steps: the state and the batch
    flops: float = math.nan
    bytes: float = math.nan  # read and written
    seconds: float = math.nan  # that compiling took


@dataclasses.dataclass(frozen=True)
class Forecast:
    """What a configuration takes on a slice. Of examples and hours, all devices together."""

    topology: str
    devices: int
    kind: str
    batch_size: int  # of an update
    accumulation: int
    compiled: Compiled
    model_flops: float  # of a step, on all devices: without what is computed twice
    peak_flops: float  # a second, of one device
    bandwidth: float  # bytes a second, of one device
    steps_per_epoch: int | None
    steps: int | None

    @property
    def compute_seconds(self) -> float:
        """Of a step, if nothing but arithmetic took time."""
        return self.compiled.flops / self.peak_flops

    @property
    def memory_seconds(self) -> float:
        """Of a step, if nothing but reading and writing memory took time."""
        return self.compiled.bytes / self.bandwidth

    @property
    def seconds(self) -> float:
        """The roofline: what a step takes at best (Williams et al. 2009, doi 10.1145/1498765.1498785)."""
        return max(self.compute_seconds, self.memory_seconds)

    @property
    def examples_per_second(self) -> float:
        return self.batch_size / self.seconds

    @property
    def mfu(self) -> float:
        """Model FLOP utilisation at the roofline: what remains is remat, the optimizer, and waiting for memory."""
        return self.model_flops / self.devices / self.peak_flops / self.seconds


def open_topology(name: str):
    """The compile-only devices of a slice. Raises TopologyError, with what there is, for an unknown one or without libtpu."""
    shape = slice_shape(name)
    # libtpu would otherwise ask a metadata server that exists on Google's machines only, and refuse a second process.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    # What that server would have said; without, it warns in many lines. The topology is `shape` whatever stands here.
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v2-8")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    try:
        # The two cores of a v4 are one device when it runs, which has to be asked for.
        options = {"chip_config_name": "megacore"} if shape.startswith("v4") else {}
        return topologies.get_topology_desc(platform="tpu", topology_name=shape, **options)
    except Exception as error:  # noqa: BLE001  libtpu raises what it likes
        reason = " ".join(str(error).split())
        if "libtpu" in reason and "lockfile" not in reason:
            raise TopologyError(
                "libtpu, the TPU's compiler, is not installed: pip install -c constraints.txt '.[tpu]'"
            ) from None
        raise TopologyError(f"{name} is no slice that the compiler knows: {reason[:200]}") from None


def batch_shapes(data: DataConfig, model: ReserveConfig, batch_size: int) -> VideoBatch:
    """The shapes and types of a batch, as the loader makes them."""
    (rows, columns), size = model.image_grid, model.patch_size
    segments, length, patches = data.segments, data.text_length, rows * columns
    of = {
        "id": ((), jnp.uint32),
        "frames": ((segments, rows * size, columns * size, 3), jnp.uint8),
        "frame_valid": ((segments,), bool),
        "mels": ((segments, SUBSEGMENTS, MEL_FRAMES, MEL_BINS), jnp.uint8),
        "mel_scale": ((), jnp.float32),
        **dict.fromkeys(("text_tokens", "text_segments"), ((length,), jnp.int32)),
        **dict.fromkeys(("audio_tokens", "audio_segments", "audio_pointers"), ((length,), jnp.int32)),
        "track": ((segments, patches), jnp.int32),
        **dict.fromkeys(("weight", "similarity"), ((segments, patches), jnp.float32)),
        **dict.fromkeys(("person", "patch_valid"), ((segments, patches), bool)),
    }
    return VideoBatch(**{name: jax.ShapeDtypeStruct((batch_size, *shape), kind) for name, (shape, kind) in of.items()})


def model_shapes(config: PretrainConfig) -> tuple[ReserveConfig, dict]:
    """Sizes and parameter shapes of the model that `mmdiff pretrain` would train."""
    tokenizer = Tokenizer(config.data.tokenizer) if config.data.tokenizer else None
    if config.model.checkpoint:
        sizes, params = runs.build_model(config.model, tokenizer, jax.random.key(0))
        return sizes, jax.eval_shape(lambda: params)
    sizes = runs.model_sizes(config.model, tokenizer.size if tokenizer else RELEASED_VOCABULARY)
    return sizes, jax.eval_shape(functools.partial(init_params, sizes), jax.random.key(0))


def forecast(config: PretrainConfig, topology: str) -> Forecast:
    """Compiles the step of a configuration for a slice, e.g. `v2-8` or `v2:2x2`.

    Records and vocabulary may be absent: then the released vocabulary's size and `train.expected_examples` count.

    Raises TopologyError, ConfigError, TokenizerError, CheckpointError or RecordError, each one sentence for the user.
    """
    given = dataclasses.replace(config.data, records=config.data.records or "-", tokenizer=config.data.tokenizer or "-")
    validate(dataclasses.replace(config, data=given))
    described = open_topology(topology)
    kind = described.devices[0].device_kind
    known = chip(kind)
    if known is None:
        raise TopologyError(f"{topology} is of {kind}, whose speed and memory mmdiff does not know")
    devices = len(described.devices)
    mesh = topologies.make_mesh(described, mesh_shape(devices, config.train.fsdp), ("data", "fsdp"))
    mesh = Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto, AxisType.Auto))  # as `sharding.make_mesh`
    microbatch(config.train, mesh)
    sizes, params = model_shapes(config)
    examples = len(read_split(config.data.records, "train")) if config.data.records else config.train.expected_examples
    train, optimizer = in_steps(config.train, config.optimizer, examples or config.train.batch_size)
    objective = MaskedVideo(MerlotReserve(sizes), config.masking, config.objective)
    optimizer = make_optimizer(optimizer, train.steps)
    if config.objective.target_momentum:
        params = jax.eval_shape(add_target_encoder, params)
        optimizer = follow(optimizer, config.objective.target_momentum)
    batch = batch_shapes(config.data, sizes, train.batch_size)
    return Forecast(
        topology,
        devices,
        kind,
        train.batch_size,
        train.accumulation,
        compile_step(objective, optimizer, train.accumulation, mesh, params, batch, known.memory),
        model_flops(objective, params, batch),
        known.flops,
        known.bandwidth,
        epoch_steps(train, examples) if examples else None,
        train.steps if examples or config.train.steps else None,
    )


def compile_step(objective, optimizer, accumulation: int, mesh: Mesh, params, batch, limit: float) -> Compiled:
    """Compiles one training step for devices that need not exist; `params` and `batch` are shapes, `limit` is in bytes."""
    state = jax.eval_shape(functools.partial(first_state, optimizer=optimizer), params)
    step = jit_train_step(objective, optimizer, accumulation, mesh, state)
    began = time.perf_counter()
    try:
        compiled = step.lower(state, batch, jax.eval_shape(jax.random.key, 0)).compile()
    except jax.errors.JaxRuntimeError as error:
        refused = out_of_memory(str(error))
        if refused is None:
            raise
        return refused
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    total = (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
        + memory.generated_code_size_in_bytes
    )
    # The body of a loop over microbatches is counted once, and so is the update: counted with each, the sum is a bound.
    flops, moved = (accumulation * cost[name] for name in ("flops", "bytes accessed"))
    return Compiled(
        total <= limit, total, limit, memory.argument_size_in_bytes, flops, moved, time.perf_counter() - began
    )


def out_of_memory(words: str) -> Compiled | None:
    """What the compiler says where it gives up for lack of memory; None where it gives up for something else."""
    size = r"([\d.]+)([MGT])"
    found = re.search(rf"Used {size} of {size} hbm", words) or re.search(
        rf"\({size}\) exceeds available HBM \({size}\)", words
    )
    if not found:
        return None
    used, used_unit, allowed, allowed_unit = found.groups()
    units = {"M": 2**20, "G": GIB, "T": 2**40}
    return Compiled(False, float(used) * units[used_unit], float(allowed) * units[allowed_unit])


def remedies(config: PretrainConfig, devices: int) -> list[dict[str, object]]:
    """What to change where a step does not fit, the cheapest first; each with those before it."""
    found: list[dict[str, object]] = []
    if config.train.fsdp not in (0, devices):
        found.append({"train.fsdp": 0})
    for encoders in (("joint",), ("vision", "joint"), tuple(ENCODERS)):
        if set(encoders) - set(config.model.remat):
            found.append({"model.remat": tuple(sorted({*encoders, *config.model.remat}, key=ENCODERS.index))})
    parts, least = config.train.accumulation, config.train.batch_size // devices
    found += [{"train.accumulation": more} for more in range(parts + 1, least + 1) if least % more == 0]
    return found
