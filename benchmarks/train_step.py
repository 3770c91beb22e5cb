"""Times the base-size training step, and beside it, in turn, a step of the original's shape.

    python benchmarks/train_step.py                                   # whatever device is there
    python benchmarks/train_step.py --batch 2 --dtype float32         # 17 GB: what a CPU with 24 GB can do
    python benchmarks/train_step.py --batch 64 --dtype bfloat16 --remat joint --no-reference

One step is seven 12 x 24 frames, 21 mel spectrograms and 2 x 256 tokens for each example, forward, backward and AdamW. The
original's shape is what its code asks of the compiler: one example after another by `lax.scan`, each contrasted with itself
only, the hidden patches of each written one by one in a Python loop, attention with heads behind units and its softmax in the
type of the matrix products, every sequence at full length, nothing recomputed. Model, loss, optimizer, data and device are the
same, and both go through the same state, one step of the one after one of the other.
"""

import argparse
import functools
import json
import statistics
import time
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from machine_load import MachineLoad
from masking_cost import SEGMENTS, clips

from mmdiff.masking.strategies import MaskingConfig
from mmdiff.models import transformer
from mmdiff.models.reserve import MerlotReserve, ReserveConfig, init_params
from mmdiff.objectives import masked_video
from mmdiff.objectives.masked_video import MaskedVideo, MaskedVideoConfig
from mmdiff.training.metrics import peak_flops
from mmdiff.training.optimizer import OptimizerConfig, make_optimizer
from mmdiff.training.sharding import make_mesh, put_batch, state_sharding
from mmdiff.training.state import TrainState
from mmdiff.training.train_step import averaged, first_state, jit_train_step, model_flops


def original_attention(query, key, value, mask):
    """Attention as the original writes it."""
    logits = jnp.einsum("bqhd,bkhd->bhqk", query / np.sqrt(query.shape[-1]).astype(query.dtype), key)
    if mask is not None:
        logits = logits + jnp.where(mask[:, None], 0, -1e10).astype(logits.dtype)
    return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(logits), value)


def hide_one_by_one(count: int, features, hidden, values):
    """Overwrites the hidden patches of one example in a Python loop, one scatter each."""
    places = jnp.argsort(~hidden[0], stable=True)
    values = jnp.broadcast_to(values, features.shape)
    for i in range(count):
        features = features.at[0, places[i]].set(values[0, places[i]].astype(features.dtype))
    return features


def original_shape(objective: MaskedVideo, batch_size: int, patches: int):
    """Gradient of a batch in the original's shape; to be traced inside this."""
    count = int(patches * objective.masking.ratio)

    def gradient(params, batch, key, step):
        with (
            mock.patch.object(transformer, "attend", original_attention),
            mock.patch.object(masked_video, "hide", functools.partial(hide_one_by_one, count)),
        ):
            return averaged(objective, batch_size)(params, batch, key, step)

    return gradient


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=0, help="examples of a step; 0: one for each device")
    parser.add_argument("--accumulation", type=int, default=1)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--remat", default="", help="encoders, comma-separated")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--layers", type=int, default=12, help="of each encoder; fewer for a quick look")
    parser.add_argument(
        "--no-reference", dest="reference", action="store_false", help="do not run the original's shape"
    )
    parser.add_argument("--out", type=Path, help="file for the raw numbers, as JSON")
    options = parser.parse_args()
    load = MachineLoad()
    mesh = make_mesh(0)
    sizes = ReserveConfig(
        vision_layers=options.layers,
        audio_layers=options.layers,
        joint_layers=options.layers,
        image_grid=(12, 24),
        dtype=options.dtype,
        remat=tuple(filter(None, options.remat.split(","))),
    )
    batch_size = options.batch or mesh.size
    objective = MaskedVideo(MerlotReserve(sizes), MaskingConfig(), MaskedVideoConfig())
    optimizer = make_optimizer(OptimizerConfig(warmup_steps=10), 1000)
    key = jax.random.key(0)

    def start(key) -> TrainState:
        return first_state(init_params(sizes, key), optimizer)

    shapes = jax.eval_shape(start, key)
    shardings = state_sharding(mesh, shapes)
    state = jax.jit(start, out_shardings=shardings)(key)
    batch = put_batch(mesh, clips(sizes, batch_size))
    flops, peak = model_flops(objective, shapes.params, batch), peak_flops()
    ways = {"mmdiff": jit_train_step(objective, optimizer, options.accumulation, mesh, shapes)}
    if options.reference:
        plain = objective.without_remat()
        gradient = original_shape(plain, batch_size, sizes.patches * SEGMENTS)
        with mock.patch("mmdiff.training.train_step.make_gradient", lambda *_: gradient):
            ways["original's shape"] = jit_train_step(plain, optimizer, 1, mesh, shapes)
    steps, raw = {}, {}
    for name, way in ways.items():
        began = time.perf_counter()
        steps[name] = way.lower(state, batch, key).compile()
        memory = steps[name].memory_analysis()
        raw[name] = {
            "compile_seconds": time.perf_counter() - began,
            "temporaries_gib": memory.temp_size_in_bytes / 2**30,
            "arguments_gib": memory.argument_size_in_bytes / 2**30,
            "seconds": [],
            "cpu_seconds": [],
        }
    for repeat in range(options.repeats + 1):
        for name, step in steps.items():
            began, cpu = time.perf_counter(), time.process_time()
            state, metrics = step(state, batch, key)
            jax.block_until_ready(state)
            if repeat:  # the first warms up
                raw[name]["seconds"].append(time.perf_counter() - began)
                raw[name]["cpu_seconds"].append(time.process_time() - cpu)
                print(f"{name}: {raw[name]['seconds'][-1]:.2f} s, loss {float(metrics['loss']):.3f}", flush=True)
    device = jax.devices()[0]
    print(f"\n{mesh.size} x {device.device_kind}, {options.dtype}, batch {batch_size}, {flops:.3g} model FLOPs a step")
    print(
        "| step | ms, fastest | ms, median | CPU s, fastest | examples/s | MFU | GiB, state + temporaries | compile, s |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, found in raw.items():
        fastest = min(found["seconds"])
        print(
            f"| {name} | {1e3 * fastest:.0f} | {1e3 * statistics.median(found['seconds']):.0f} | "
            f"{min(found['cpu_seconds']):.1f} | {batch_size / fastest:.3g} | {flops / fastest / peak:.1%} | "
            f"{found['arguments_gib']:.2f} + {found['temporaries_gib']:.2f} | {found['compile_seconds']:.0f} |"
        )
    if options.reference:
        theirs, ours = raw["original's shape"], raw["mmdiff"]
        for kind in ("seconds", "cpu_seconds"):
            pairs = [a / b for a, b in zip(theirs[kind], ours[kind], strict=True)]
            print(
                f"{kind}: mmdiff is {statistics.median(pairs):.2f} times as fast (pairs {min(pairs):.2f} to {max(pairs):.2f})"
            )
        print(load.describe())
    if device.platform != "cpu":
        print(f"peak memory of the first device: {device.memory_stats().get('peak_bytes_in_use', 0) / 2**30:.2f} GiB")
    if options.out:
        about = {
            "device": device.device_kind,
            "devices": mesh.size,
            "batch": batch_size,
            "model_flops": flops,
            "peak": peak,
        }
        options.out.write_text(json.dumps(about | vars(options) | {"out": None, "steps": raw}, indent=2) + "\n")


if __name__ == "__main__":
    main()
