"""Strategies, or the runs of some, in; pages that show what each hides of the same frames out: `mmdiff view`."""

import dataclasses
import re
from pathlib import Path

import numpy as np

from mmdiff.errors import UserError
from mmdiff.masking.strategies import with_strategy
from mmdiff.reports import page, tables
from mmdiff.reports.mask_gallery import contact_sheet
from mmdiff.reports.mask_over_time import over_time
from mmdiff.reports.mask_pictures import (
    MaskSheet,
    looks_at_features,
    mask_sheets,
    open_look,
    open_model,
    pick_records,
    sheets_of,
)
from mmdiff.reports.page import Section
from mmdiff.reports.plots import Counts, distributions
from mmdiff.reports.viewed_runs import ViewedRun, open_runs
from mmdiff.training.config import PretrainConfig
from mmdiff.whole_files import write_whole

INDEX = "index.html"
MOST = 12  # rows of a sheet: with more, nobody finds the frames again that they are of
RANDOM_WEIGHTS = (
    "There is no model (--config.model.checkpoint gives one): what the strategies see that look at features is what "
    "random weights make of the frames."
)
HOW_TO_READ = """
Each row is a strategy, each column a frame, in order of time. Of a strategy the colours come first: how much it wants
each patch. They are missing where it wants all alike. Then comes what it hid: the patches that it took for its budget,
and the pooled places that this makes targets. Masks are those of a run's first step, drawn with the seed of its
configuration, and for the whole window at once: what is not in one frame may be in another.
"""
COUNTED = "The numbers are those that each run counted at its end, over the windows that it was evaluated on."
OVER_TIME = "Every frame of the window, and the share of each that is hidden."


def view(config: PretrainConfig, out: str | Path, strategies: list[str], split: str, clips: int) -> Path:
    """Writes a page of what each strategy (as in `with_strategy`) hides; returns it.

    Raises ConfigError, StrategyError, RecordError, TokenizerError, AnchorError or CheckpointError, each one sentence.
    """
    out = _folder(out)
    maskings = {name: with_strategy(config.masking, name) for name in strategies}
    _refuse_many(len(maskings), "strategies")
    sheets = mask_sheets(config, maskings, [split], clips)
    looking = any(looks_at_features(masking) for masking in maskings.values())
    notes = [RANDOM_WEIGHTS] if looking and not config.model.checkpoint else []
    heading = "What each strategy hides" if len(maskings) > 1 else f"What {strategies[0]} masking hides"
    _write_pictures(out, sheets)
    return page.write_report(out, heading, notes, [_in_all(sheets), *map(_clip, sheets)], INDEX)


def view_runs(runs: list[Path], out: str | Path, split: str, clips: int, records: Path | None) -> Path:
    """Writes a page of each run, and one of all side by side, which is returned.

    Args:
      runs: folders of `mmdiff pretrain`, whose masks are those of their kept models.
      out: the folder for the pages.
      split: of the records.
      clips: how many of them to show.
      records: where the runs' records lie now, if they were moved.

    Raises UserError, one sentence, where a run cannot be shown, or not beside the others.
    """
    out = _folder(out)
    _refuse_many(len(runs), "runs")
    viewed = open_runs(runs, records)
    looks, random = [], []
    for run in viewed:
        model = open_model([run.config], run.tokenizer)
        if model is not None and not run.config.model.checkpoint:
            random.append(run.name)
        looks.append(open_look(run.title, run.config, run.tokenizer, model, run.anchors))
    sheets = sheets_of(pick_records(viewed[0].config.data.records, [split], clips), looks)
    addresses = _addresses(viewed)
    notes = [f"{RANDOM_WEIGHTS} That is so for {', '.join(random)}."] if random else []
    for number, run in enumerate(viewed):
        links = [("all runs", INDEX), *((other.title, addresses[other.name]) for other in viewed if other is not run)]
        about = [_settings(run), *_anchors(run), _numbers(run)]
        own = [_alone(sheet, number) for sheet in sheets]
        page_notes = [RANDOM_WEIGHTS] if run.name in random else []
        page.write_report(out, run.title, page_notes, [*about, *own], addresses[run.name], links)
    compared = Section("The runs", COUNTED, _targets(viewed), [run.summary for run in viewed])
    links = [(run.title, addresses[run.name]) for run in viewed]
    sections = [compared, _in_all(sheets), *map(_clip, sheets)]
    _write_pictures(out, sheets)
    return page.write_report(out, "What each run hides", notes, sections, INDEX, links)


def _folder(out: str | Path) -> Path:
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: give a folder as --out")
    return out


def _refuse_many(count: int, what: str) -> None:
    if count > MOST:
        raise UserError(f"{count} {what} are too many to be read side by side: give at most {MOST}")


def _addresses(viewed: list[ViewedRun]) -> dict[str, str]:
    """A file for each run's page: names without what has a meaning in addresses, all different."""
    found: dict[str, str] = {}
    for run in viewed:
        name = plain = "run_" + re.sub(r"[^\w.-]+", "_", run.name)
        again = 1
        # Some file systems do not tell cases apart.
        while f"{name}.html".casefold() in {address.casefold() for address in found.values()}:
            again += 1
            name = f"{plain}_{again}"
        found[run.name] = f"{name}.html"
    return found


def _write_pictures(out: Path, sheets: list[MaskSheet]) -> None:
    """Every sheet as it is, beside the page."""
    out.mkdir(parents=True, exist_ok=True)
    for number, sheet in enumerate(sheets):
        write_whole(out / f"sheet_{number:02d}.png", page.encode_png(sheet.picture))
        for part, picture in enumerate(sheet.over_time):
            write_whole(out / f"sheet_{number:02d}_over_time_{part}.png", page.encode_png(picture))


def _in_all(sheets: list[MaskSheet]) -> Section:
    """The counts of all clips that are shown, added up."""
    rows = []
    for parts in zip(*(sheet.counts for sheet in sheets), strict=True):
        patches, hidden = (sum(part[name] for part in parts) for name in ("patches", "hidden"))
        inside = sum(part["hidden in boxes, %"] * part["hidden"] for part in parts) / max(hidden, 1)
        covered = sum(part["boxes cover, %"] * part["patches"] for part in parts) / max(patches, 1)
        targets = [part["targets"] for part in parts]
        rows.append(
            {
                "strategy": parts[0]["strategy"],
                "hidden, %": f"{100 * hidden / max(patches, 1):.1f}",
                "targets a window": f"{np.mean(targets):,.1f}",
                "min to max": f"{min(targets):,} to {max(targets):,}",
                "hidden in boxes, %": f"{inside:.0f}",
                "boxes cover, %": f"{covered:.0f}",
            }
        )
    text = f"Counted over the {tables.counted(len(sheets), 'window')} shown below. {HOW_TO_READ.strip()}"
    return Section("In numbers", text, [], rows)


def _clip(sheet: MaskSheet) -> Section:
    """A window: what is said in it, the strategies side by side, and each over time."""
    images = [(sheet.description, page.encode_webp(sheet.picture))]
    images += [(OVER_TIME, page.encode_webp(picture)) for picture in sheet.over_time]
    counts = [{name: count for name, count in row.items() if name != "clip"} for row in sheet.counts]
    return Section(sheet.title, "", images, counts)


def _alone(sheet: MaskSheet, number: int) -> Section:
    """The same for one of the sheet's strategies."""
    alone = dataclasses.replace(
        sheet,
        picture=contact_sheet([sheet.frames, sheet.rows[number]]),
        over_time=over_time([sheet.every_frame[0], sheet.every_frame[1 + number]]) if sheet.over_time else [],
        counts=[sheet.counts[number]],
    )
    return _clip(alone)


def _settings(run: ViewedRun) -> Section:
    rows = [{"setting": name, "value": value} for name, value in run.settings.items()]
    return Section("What the run was", "", [], rows)


def _anchors(run: ViewedRun) -> list[Section]:
    """The words that boxes were compared with, those found with what they were found by, and the labels."""
    known = run.anchors.to_json()
    shown = {}
    if known["found"]:
        shown["Found by TF-ICF in the subtitles and questions of the training records"] = [
            {
                "word": word["word"],
                "TF-ICF": f"{word['tf_icf']:.4g}",
                "here": f"{word['count']:,}",
                "in general": f"{word['general_count']:,}",
            }
            for word in known["found"]
        ]
    if known["labels"]:
        shown["Labels of the records' boxes, by their similarity to the anchors"] = [
            {"label": label, "similarity": f"{similarity:.3f}"} for label, similarity in known["labels"].items()
        ]
    return [Section("Anchors", f"Anchors: {', '.join(known['words'])}.", [], None, shown)]


def _numbers(run: ViewedRun) -> Section:
    """What the run itself counted, of each window of its split."""
    if run.targets is None:
        return Section("What it hid", f"Not measured: {run.without_targets}.", [], None)
    windows = tables.counted(len(run.targets.window), "window")
    text = f"Counted by the run over {windows} of {run.targets.split}, with its last weights."
    return Section("What it hid", text, _targets([run]), [run.numbers])


def _targets(viewed: list[ViewedRun]) -> list[tuple[str, bytes]]:
    """A picture of how many targets each run's windows have, if they counted them."""
    rows = [
        Counts(run.title, "", run.targets.targets, f"unit {run.config.masking.unit}") for run in viewed if run.targets
    ]
    if not any(len(row.values) > 1 for row in rows):  # of one window each there is no distribution
        return []
    return [("Targets in each window, as the runs counted them.", distributions(rows, "targets in a window"))]
