"""What a configuration takes on slices of TPUs in, a table to read and what to change out: `mmdiff compile`."""

import logging
from collections.abc import Iterator

from mmdiff.reports.tables import to_markdown
from mmdiff.training.ahead_of_time import GIB, ORIGINAL_SHARE, Forecast, forecast, remedies
from mmdiff.training.config import PretrainConfig, with_fields

log_line = logging.getLogger(__name__)


def forecast_row(found: Forecast) -> dict[str, str]:
    """One row of `to_markdown`: a step, per device, and what it means for examples and hours."""
    step, fits = found.compiled, found.compiled.fits
    per_device = found.batch_size // found.accumulation // found.devices
    row = {
        "slice": found.topology,
        "devices": f"{found.devices} x {found.kind}",
        "batch": f"{found.batch_size} ({per_device} each)"
        + (f" in {found.accumulation} parts" if found.accumulation > 1 else ""),
        "memory, GiB": f"{step.memory / GIB:.2f} of {step.limit / GIB:.2f}" + ("" if fits else ": does not fit"),
        "TFLOP": f"{step.flops / 1e12:.2f}",
        "GB moved": f"{step.bytes / 1e9:.1f}",
        "step, ms": f"{1e3 * found.seconds:.0f}",
        "bound by": "arithmetic" if found.compute_seconds >= found.memory_seconds else "memory",
        "examples/s": f"{found.examples_per_second:.1f}",
        "MFU": f"{found.mfu:.0%}",
        "h an epoch": hours(found, found.steps_per_epoch),
        "h a run": hours(found, found.steps),
        f"h a run at {ORIGINAL_SHARE:.0%}": hours(found, found.steps, ORIGINAL_SHARE),
    }
    return row if fits else row | dict.fromkeys(list(row)[4:], "")


def hours(found: Forecast, steps: int | None, share: float = 1.0) -> str:
    """How long so many steps take where the machine does `share` of what it could."""
    return "unknown" if steps is None else f"{steps * found.seconds / share / 3600:.2f}"


def explain(found: Forecast) -> str:
    """What the columns of a row are, where they need saying."""
    lines = [
        (
            "Memory, FLOPs and bytes are of one device and one step, as the compiler counts them, the optimizer included; times "
            "are what the chip could do at best (communication between chips is not in them), MFU counts each FLOP of the model "
            f"once. The original code reached {ORIGINAL_SHARE:.0%} of that best on a v2-8 (8 examples in 0.271 s)."
        )
    ]
    if found.steps_per_epoch is None:
        lines.append(
            "For hours give --config.data.records=RECORDS, or --config.train.expected_examples=N before there are any."
        )
    if found.accumulation > 1:
        lines.append("FLOPs and bytes with accumulation are a bound: the update is counted with every part.")
    return "\n".join(lines)


def tried(config: PretrainConfig, found: Forecast) -> Iterator[tuple[str, PretrainConfig, Forecast]]:
    """For a configuration that does not fit: changes to it, one after another, each compiled, until one fits."""
    changed: dict[str, object] = {}
    for change in remedies(config, found.devices):
        changed |= change
        words = " ".join(f"--config.{name}={_word(value)}" for name, value in changed.items())
        log_line.info("does not fit; trying %s", words)
        other = with_fields(config, changed)
        again = forecast(other, found.topology)
        yield words, other, again
        if again.compiled.fits:
            return


def largest_batch(config: PretrainConfig, found: Forecast) -> Forecast:
    """The largest batch without accumulation that fits: per device a power of two, or half as much again."""

    def of(size: int) -> Forecast:
        log_line.info("trying %d examples per device", size)
        fields = {"train.batch_size": size * found.devices, "train.accumulation": 1}
        return forecast(with_fields(config, fields), found.topology)

    per_device = found.batch_size // found.accumulation // found.devices
    best = found if found.accumulation == 1 else of(per_device)
    sizes = sorted({*(2**n for n in range(7)), *(3 * 2**n for n in range(6))})  # up to 96: more is for other models
    for size in [size for size in sizes if size > per_device]:
        again = of(size)
        if not again.compiled.fits:
            break
        best = again
    return best


def _word(value: object) -> str:
    """A value as the shell takes it."""
    return "'" + repr(value).replace("'", '"') + "'" if isinstance(value, tuple) else str(value)


def table(forecasts: list[Forecast]) -> str:
    """Rows of forecasts as Markdown."""
    return to_markdown([forecast_row(found) for found in forecasts])
