"""Folders of runs in, what it takes to mask as they did out; runs that cannot be shown side by side are told apart."""

import dataclasses
from pathlib import Path
from typing import NamedTuple

from mmdiff.data.records import digest
from mmdiff.data.tokenizer import Tokenizer
from mmdiff.errors import UserError
from mmdiff.masking.anchors import Anchors, open_anchors
from mmdiff.reports import paper, tables
from mmdiff.reports.collect import Targets, read_targets, short_names
from mmdiff.reports.hidden_share import share_inside, spread
from mmdiff.reports.tables import NONE
from mmdiff.training import runs
from mmdiff.training.config import PretrainConfig
from mmdiff.training.runs import RunError


class ViewedRun(NamedTuple):
    """A run of `mmdiff pretrain`, finished or not."""

    name: str  # the end of its path, as much as tells it from the others
    path: Path
    config: PretrainConfig  # with its kept model as the checkpoint
    tokenizer: Tokenizer
    anchors: Anchors
    targets: Targets | None
    without_targets: str  # why there are none

    @property
    def strategy(self) -> str:
        return paper.strategy_id(self.config.masking.strategy, self.config.masking.where)

    @property
    def title(self) -> str:
        return f"{self.name}: {paper.title(self.strategy, self.config.preset)}"

    @property
    def settings(self) -> dict[str, str]:
        masking = self.config.masking
        aimed = {"where": masking.where} if masking.strategy == "difference" else {}
        return {
            "strategy": masking.strategy,
            **aimed,
            "preset": self.config.preset,
            "unit": masking.unit,
            "hidden at": f"{masking.hide_at} of the vision encoder",
            "ratio": f"{masking.ratio:g}",
            "alpha": f"{masking.alpha:g}",
            "noise": f"{masking.noise:g}",
            "masks": "one for each window" if masking.static else "drawn anew each step",
            "anchors": ", ".join(self.anchors.words),
            "records": self.config.data.records,
            "folder": str(self.path),
        }

    @property
    def numbers(self) -> dict[str, str]:
        """In the columns of a report."""
        if self.targets is None:
            return dict.fromkeys(
                ("inside boxes, %", "boxes cover, %", "targets a window", "min to max", "of all pools, %"), NONE
            )
        found, (share, cover) = spread(self.targets), share_inside(self.targets)
        return {
            "inside boxes, %": f"{100 * share:.1f}",
            "boxes cover, %": f"{100 * cover:.1f}",
            "targets a window": tables.mean_and_std(found),
            "min to max": f"{found.low:,} to {found.high:,}",
            "of all pools, %": f"{100 * found.of_pools:.1f}",
        }

    @property
    def summary(self) -> dict[str, str]:
        """A row of the table of all runs."""
        masking = self.config.masking
        return {
            "run": self.name,
            "strategy": paper.title(self.strategy),
            "preset": self.config.preset,
            "unit": masking.unit,
            "hidden at": masking.hide_at,
            "ratio": f"{masking.ratio:g}",
            "alpha": f"{masking.alpha:g}",
            **self.numbers,
        }


def open_runs(folders: list[Path], records: Path | None) -> list[ViewedRun]:
    """The runs in order, each once; `records` is where their records lie now, if they were moved.

    Raises UserError, one sentence, where a folder is no run, or the runs are of different records or cut frames
    otherwise.
    """
    folders = list({folder.resolve(): folder for folder in folders}.values())
    configs = {folder: stored_config(folder) for folder in folders}
    _refuse_differing("are of different records", {folder: _records(folder) for folder in folders})
    _refuse_differing(
        "cut frames into different patches or windows",
        {
            folder: f"{config.model.rows} x {config.model.columns} patches, {config.data.segments} segments"
            for folder, config in configs.items()
        },
    )
    names = short_names([str(folder) for folder in folders])
    return [_open(folder, names[str(folder)], config, records) for folder, config in configs.items()]


def stored_config(folder: Path) -> PretrainConfig:
    """What a run was started with. Raises RunError where that cannot be read, or is of another version."""
    stored = runs.read_config(folder)
    where = folder / runs.CONFIG
    if not isinstance(stored, dict) or not isinstance(stored.get("masking"), dict):
        raise RunError(f"{where} is not that of a run of `mmdiff pretrain`")
    config = PretrainConfig()
    try:
        for field in dataclasses.fields(config):
            value = stored.get(field.name, getattr(config, field.name))
            if isinstance(value, dict):
                plain = {name: tuple(x) if isinstance(x, list) else x for name, x in value.items()}
                value = type(getattr(config, field.name))(**plain)
            setattr(config, field.name, value)
    except TypeError as error:
        raise RunError(f"{where} is not that of a run of this mmdiff ({str(error).split('.')[-1]})") from None
    return config


def _records(folder: Path) -> str:
    path = folder / runs.RECORDS
    if not path.is_file():
        raise RunError(f"{folder} is not the folder of a run: it has no {runs.RECORDS}")
    return path.read_text(encoding="utf-8").strip()


def _refuse_differing(how: str, found: dict[Path, str]) -> None:
    """Raises UserError, which says whom to leave out, unless all are the same."""
    groups: dict[str, list[Path]] = {}
    for folder, what in found.items():
        groups.setdefault(what, []).append(folder)
    if len(groups) > 1:
        most = max(groups.values(), key=len)
        others = [str(folder) for group in groups.values() if group is not most for folder in group]
        parts = "; ".join(f"{', '.join(map(str, group))}: {what}" for what, group in groups.items())
        raise UserError(f"the runs {how} ({parts}): leave out {', '.join(others)}, or view them apart")


def _open(folder: Path, name: str, config: PretrainConfig, records: Path | None) -> ViewedRun:
    if records is not None:
        config.data.records = str(records)
    config.data.tokenizer = str(folder / runs.TOKENIZER)
    if digest(config.data.records) != _records(folder):
        raise RunError(
            f"{config.data.records} holds other records than {folder} was trained on: give theirs as --records, or "
            "leave out the run"
        )
    if (folder / runs.MODEL).exists():
        config.model.checkpoint = str(folder)
    targets, why = None, f"there is no {runs.TARGETS}"
    if (folder / runs.TARGETS).is_file():
        try:
            targets = read_targets(folder / runs.TARGETS)
        except UserError as error:
            why = str(error)
    anchors = open_anchors(config.anchors, config.data.records, folder / runs.ANCHORS, where=None)
    return ViewedRun(name, folder, config, Tokenizer(config.data.tokenizer), anchors, targets, why)
