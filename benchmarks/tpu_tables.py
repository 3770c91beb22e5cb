"""The tables of docs/tpu.md: what the base TVQA configuration takes on small TPU slices, by the compiler's own count.

    python benchmarks/tpu_tables.py RAW.jsonl > tables.md

Needs libtpu (`pip install -c constraints.txt '.[tpu]'`) and no TPU; 12 compilations of three to fifteen minutes each, up to 12 GB. What is in
RAW.jsonl already is not compiled again.
"""

import argparse
import dataclasses
import json
import logging
from pathlib import Path

import jax

from mmdiff.models.reserve import ENCODERS
from mmdiff.reports.forecasts import explain, table
from mmdiff.training.ahead_of_time import Compiled, Forecast, forecast
from mmdiff.training.config import PretrainConfig, parse_config, with_fields

CONFIG = str(Path(__file__).resolve().parents[1] / "configs/tvqa.py:difference_body")
SLICES = ("v2-8", "v3-8", "v4-8", "v5e-8", "v6e-8")


class Forecasts:
    """Forecasts that are made once and then read from a file."""

    def __init__(self, config: PretrainConfig, path: Path):
        self._config, self._path = config, path
        self._known = {}
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                key, found = json.loads(line)
                self._known[json.dumps(key)] = Forecast(**found | {"compiled": Compiled(**found["compiled"])})

    def __call__(self, topology: str, **fields) -> Forecast:
        fields = {name.replace("__", "."): value for name, value in fields.items()}
        key = json.dumps([topology, fields])
        if key not in self._known:
            found = forecast(with_fields(self._config, fields), topology)
            raw = dataclasses.asdict(found) | {"compiled": found.compiled._asdict()}
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps([[topology, fields], raw]) + "\n")
            self._known[key] = found
        return self._known[key]

    def growing(self, topology: str, per_device: tuple[int, ...], remat: tuple[str, ...]) -> list[Forecast]:
        """One batch after another, until one does not fit."""
        found = []
        for size in per_device:
            found.append(self(topology, train__batch_size=8 * size, model__remat=remat))
            if not found[-1].compiled.fits:
                break
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("raw", type=Path, help="file that forecasts are added to, one JSON line each")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    jax.config.update("jax_platforms", "cpu")
    of = Forecasts(parse_config(["--config", CONFIG], PretrainConfig), options.raw)
    slices = [of(name) for name in SLICES]
    print(f"## The configuration as it is\n\n{explain(slices[0])}\n\n{table(slices)}")
    print(
        f"## Larger batches on a v2-8, nothing recomputed by `model.remat`\n\n{table(of.growing('v2-8', (2, 3, 4, 5), ()))}"
    )
    larger = of.growing("v2-8", (8,), ENCODERS)
    print(f"## Larger batches on a v2-8, every encoder recomputed (`model.remat`)\n\n{table(larger)}")
    whole = [of("v2-8", train__fsdp=1)]
    print(f"## The same, parameters whole on every core between steps (`train.fsdp=1`)\n\n{table(whole)}")


if __name__ == "__main__":
    main()
