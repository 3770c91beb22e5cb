"""Folders of runs in, what it takes to mask as they did out; runs that cannot be shown side by side are told apart."""

import dataclasses
from pathlib import Path
from typing import NamedTuple

from mmdiff.data.records import RecordError, digest
from mmdiff.data.tokenizer import Tokenizer
from mmdiff.errors import UserError
from mmdiff.masking.anchors import Anchors, open_anchors
from mmdiff.reports import paper, tables
from mmdiff.reports.collect import MASKED_BY, Targets, read_targets, short_names
from mmdiff.reports.hidden_share import COVER, INSIDE, share_inside, spread
from mmdiff.reports.tables import NONE
from mmdiff.training import runs
from mmdiff.training.config import MOVED, PretrainConfig, get_field, validate
from mmdiff.training.runs import RunError

LISTED = {
    "anchors.words",
    *(f"masking.{name}" for name in ("strategy", "unit", "hide_at", "ratio", "alpha", "noise", "static")),
}  # what every run's settings say


class ViewedRun(NamedTuple):
    """A run of `mmdiff pretrain`, finished or not."""

    name: str  # the end of its path, as much as tells it from the others
    path: Path
    config: PretrainConfig  # with its kept model, if there is one, as the checkpoint
    kept: bool  # whether there is one
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
            "seed": str(self.config.train.seed),
            **self.changed,
            "anchors": ", ".join(self.anchors.words),
            "records": self.config.data.records,
            "folder": str(self.path),
        }

    @property
    def changed(self) -> dict[str, str]:
        """Every other field of how it masked that is not the paper's."""
        usual, changed = PretrainConfig(), {}
        for section in MASKED_BY:
            for field in dataclasses.fields(getattr(usual, section)):
                path = f"{section}.{field.name}"
                value = get_field(self.config, path)
                said = path in LISTED or (path == "masking.where" and self.config.masking.strategy == "difference")
                if not said and value != get_field(usual, path):
                    changed[path] = ", ".join(value) if isinstance(value, tuple) else str(value)
        return changed

    @property
    def numbers(self) -> dict[str, str]:
        """In the columns of a report."""
        if self.targets is None:
            return dict.fromkeys((INSIDE, COVER, "targets a window", "min to max", "of all pools, %"), NONE)
        found, (share, cover) = spread(self.targets), share_inside(self.targets)
        return {
            INSIDE: f"{100 * share:.1f}",
            COVER: f"{100 * cover:.1f}",
            "targets a window": tables.mean_and_std(found),
            "min to max": f"{found.low:,} to {found.high:,}",
            "of all pools, %": f"{100 * found.of_pools:.1f}",
        }


def summaries(viewed: list[ViewedRun]) -> list[dict[str, str]]:
    """The rows of the table of all runs; which boxes match is said where it differs between them."""
    anchors = {run.path: {"anchors": ", ".join(run.anchors.words)} for run in viewed}
    coverage = {run.path: {"min. coverage": f"{run.config.masking.min_coverage:g}"} for run in viewed}
    shown = [said for said in (anchors, coverage) if len({*map(str, said.values())}) > 1]
    return [
        {
            "run": run.name,
            "strategy": paper.title(run.strategy),
            "preset": run.config.preset,
            "unit": run.config.masking.unit,
            "hidden at": run.config.masking.hide_at,
            "ratio": f"{run.config.masking.ratio:g}",
            "alpha": f"{run.config.masking.alpha:g}",
            **{name: text for said in shown for name, text in said[run.path].items()},
            **run.numbers,
        }
        for run in viewed
    ]


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
    for old, new in MOVED.items():
        (section, name), (to, field) = old.split("."), new.split(".")
        if isinstance(stored.get(section), dict) and name in stored[section] and isinstance(stored.get(to, {}), dict):
            value = stored[section].pop(name)
            stored[to] = {field: value} | stored.get(to, {})
    config = PretrainConfig()
    _fill(config, stored, where)
    try:
        validate(config)
    except UserError as error:
        raise RunError(f"{where}: {error}") from None
    return config


def _fill(config, stored: dict, where: Path, section: str = "") -> None:
    """Sets what is stored; raises RunError for a field that is not there, or is of another type than its default."""
    known = {field.name for field in dataclasses.fields(config)}
    for name, value in stored.items():
        if name not in known:
            raise RunError(f"{where} is not that of a run of this mmdiff: it has no field {section}{name}")
        default = getattr(config, name)
        if dataclasses.is_dataclass(default):
            if not isinstance(value, dict):
                raise RunError(f"{where}: {name} is {value!r}, which is no section")
            _fill(default, value, where, f"{section}{name}.")
            continue
        if isinstance(default, tuple):
            right = isinstance(value, list) and all(isinstance(word, str) for word in value)
        elif isinstance(default, float):
            right = isinstance(value, int | float) and not isinstance(value, bool)
        else:
            right = type(value) is type(default)
        if not right:
            kind = "list of words" if isinstance(default, tuple) else type(default).__name__
            raise RunError(f"{where}: {section}{name} is {value!r}, which is no {kind}")
        setattr(config, name, type(default)(value))


def _records(folder: Path) -> str:
    path = folder / runs.RECORDS
    if not path.is_file():
        raise RunError(f"{folder} is not the folder of a run: it has no {runs.RECORDS}")
    return path.read_text(encoding="utf-8", errors="replace").strip()


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
    try:
        found = digest(config.data.records)
    except RecordError as error:
        if records is not None:
            raise
        raise RunError(f"{error}; if the records of {folder} were moved, give their folder as --records") from None
    if found != _records(folder):
        raise RunError(
            f"{config.data.records} holds other records than {folder} was trained on: give theirs as --records, or "
            "leave out the run"
        )
    kept = (folder / runs.MODEL).exists()
    if kept:
        config.model.checkpoint = str(folder)
    targets, why = None, f"there is no {runs.TARGETS}"
    if (folder / runs.TARGETS).is_file():
        try:
            targets = read_targets(folder / runs.TARGETS)
        except UserError as error:
            why = str(error)
    anchors = open_anchors(config.anchors, config.data.records, folder / runs.ANCHORS, where=None)
    return ViewedRun(name, folder, config, kept, Tokenizer(config.data.tokenizer), anchors, targets, why)
