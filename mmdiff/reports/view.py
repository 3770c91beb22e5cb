"""Strategies, or the runs of some, in; pages that show what each hides of the same frames out: `mmdiff view`."""

import dataclasses
import re
from pathlib import Path

import numpy as np

from mmdiff.data.records import metadata
from mmdiff.errors import UserError
from mmdiff.masking.anchors import PERSON
from mmdiff.masking.strategies import with_strategy
from mmdiff.reports import page, tables
from mmdiff.reports.hidden_share import COVER, INSIDE
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
from mmdiff.reports.viewed_runs import ViewedRun, open_runs, summaries
from mmdiff.training.config import PretrainConfig
from mmdiff.whole_files import write_whole

INDEX = "index.html"
STALE = ("run_*.html", "sheet_*.png")  # what a view writes beside its index
MOST = 12  # rows of a sheet: with more, nobody finds the frames again that they are of
RANDOM_WEIGHTS = (
    "There is no model (--config.model.checkpoint gives one): what the strategies see that look at features is what "
    "random weights make of the frames."
)
HOW_TO_READ = """
Each row is a strategy, each column a frame, in order of time. Of a strategy the colours come first: how much it wants
each patch. They are missing where it wants all alike. Then comes what it hid: the patches that it took for its budget,
and the pooled places that this makes targets. Masks are for the whole window at once: what is not in one frame may be in
another. A box matches if its label has anything of the anchors; the numbers are of patches hidden inside such boxes, and of
all patches.
"""
FIRST_STEP = """
Masks are those of a run's first step, drawn with the seed of its configuration; here frames are not cropped.
"""
AS_EVALUATED = """
Masks are drawn with the kept model, of frames that are not cropped, with the key of step 0, as when the run is evaluated.
"""
NO_MODEL_KEPT = "The run has kept no model yet: what it looks at is what {} makes of the frames."
PADDING = (
    "Padding is hidden, too (masking.mask_padding), and counted with the patches; it is not drawn, so that the pictures "
    "show less than the numbers say."
)
MOVING_COPY = (
    "In training, masks came from the slowly moving copy of the vision encoder (objective.target_momentum), which is not "
    "kept; these come from the kept model."
)
COUNTED = "The numbers are those that each run counted at its end, over windows of the run's split."
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
    notes += [PADDING] if config.masking.mask_padding else []
    heading = "What each strategy hides" if len(maskings) > 1 else f"What {strategies[0]} masking hides"
    kept = {INDEX, *_write_pictures(out, sheets)}
    written = page.write_report(out, heading, notes, [_in_all(sheets, FIRST_STEP), *map(_clip, sheets)], INDEX)
    _remove_stale(out, kept)
    return written


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
    looks = []
    for run in viewed:
        model = open_model([run.config], run.tokenizer)
        looks.append(open_look(run.title, run.config, run.tokenizer, model, run.anchors))
    sheets = sheets_of(pick_records(viewed[0].config.data.records, [split], clips), looks)
    addresses = _addresses(viewed)
    of_runs = {run.name: _notes(run) for run in viewed}
    for number, run in enumerate(viewed):
        links = [("all runs", INDEX), *((other.title, addresses[other.name]) for other in viewed if other is not run)]
        about = [_settings(run), _anchors(run), _numbers(run)]
        own = [_alone(sheet, number) for sheet in sheets]
        page.write_report(out, run.title, of_runs[run.name], [*about, *own], addresses[run.name], links)
    compared = Section("The runs", COUNTED, _targets(viewed), summaries(viewed))
    links = [(run.title, addresses[run.name]) for run in viewed]
    sections = [compared, _in_all(sheets, AS_EVALUATED), *map(_clip, sheets)]
    notes = [f"{name}: {note}" for name, said in of_runs.items() for note in said]
    kept = {INDEX, *addresses.values(), *_write_pictures(out, sheets)}
    written = page.write_report(out, "What each run hides", notes, sections, INDEX, links)
    _remove_stale(out, kept)
    return written


def _notes(run: ViewedRun) -> list[str]:
    """What to know before its pictures are read."""
    notes = []
    if looks_at_features(run.config.masking):
        if not run.kept:
            started = "the checkpoint that it started from" if run.config.model.checkpoint else "random weights"
            notes.append(NO_MODEL_KEPT.format(started))
        elif run.config.objective.target_momentum:
            notes.append(MOVING_COPY)
    if run.config.masking.mask_padding:
        notes.append(PADDING)
    return notes


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


def _write_pictures(out: Path, sheets: list[MaskSheet]) -> list[str]:
    """Every sheet as it is, beside the page; the names of their files come back."""
    out.mkdir(parents=True, exist_ok=True)
    pictures = {}
    for number, sheet in enumerate(sheets):
        pictures[f"sheet_{number:02d}.png"] = sheet.picture
        pictures |= {f"sheet_{number:02d}_over_time_{part}.png": shown for part, shown in enumerate(sheet.over_time)}
    for name, picture in pictures.items():
        write_whole(out / name, page.encode_png(picture))
    return list(pictures)


def _remove_stale(out: Path, kept: set[str]) -> None:
    """Removes what an earlier view of others left here: nothing links to it any more."""
    for pattern in STALE:
        for path in out.glob(pattern):
            if path.name not in kept:
                path.unlink()


def _in_all(sheets: list[MaskSheet], masks: str) -> Section:
    """The counts of all clips that are shown, added up."""
    rows = []
    for parts in zip(*(sheet.counts for sheet in sheets), strict=True):
        patches, hidden = (sum(part[name] for part in parts) for name in ("patches", "hidden"))
        inside = sum(part[INSIDE] * part["hidden"] for part in parts) / max(hidden, 1)
        covered = sum(part[COVER] * part["patches"] for part in parts) / max(patches, 1)
        targets = [part["targets"] for part in parts]
        rows.append(
            {
                "strategy": parts[0]["strategy"],
                "hidden, %": f"{100 * hidden / max(patches, 1):.1f}",
                "targets a window": f"{np.mean(targets):,.1f}",
                "min to max": f"{min(targets):,} to {max(targets):,}",
                INSIDE: f"{inside:.1f}",
                COVER: f"{covered:.1f}",
            }
        )
    text = f"Of the {tables.counted(len(sheets), 'window')} shown below. {HOW_TO_READ.strip()} {masks.strip()}"
    return Section("In numbers", text, [], rows)


def _clip(sheet: MaskSheet) -> Section:
    """A window: what is said in it, the strategies side by side, and each over time."""
    images = [(sheet.description, page.encode_webp(sheet.picture))]
    images += [(OVER_TIME, page.encode_webp(picture)) for picture in sheet.over_time]
    counts = [
        {name: f"{count:.1f}" if name in (INSIDE, COVER) else count for name, count in row.items() if name != "clip"}
        for row in sheet.counts
    ]
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


def _anchors(run: ViewedRun) -> Section:
    """The words that boxes were compared with, those found with what they were found by, and the weights of boxes."""
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
    labels = metadata(run.config.data.records)["labels"]
    text = f"Anchors: {', '.join(known['words'])}." + (f" {known['warning']}." if known["warning"] else "")
    if labels is not None:
        weighed = [
            (run.anchors(label, part), count, label, part)
            for label, parts in labels.items()
            for part, count in parts.items()
        ]
        shown["Boxes of the records, by how similar their labels are to the anchors"] = [
            {"label": label, "part": part, "weight": f"{weight:.3f}", "boxes": f"{count:,}"}
            for weight, count, label, part in sorted(weighed, key=lambda row: (-row[0], -row[1], *row[2:]))
        ]
    elif known["labels"]:  # records of older versions do not list theirs
        text += f' A box of a person weighs at least as much as the label "{PERSON}", whatever its own label is.'
        shown["Labels of the records' boxes, by their similarity to the anchors"] = [
            {"label": label, "similarity": f"{similarity:.3f}"} for label, similarity in known["labels"].items()
        ]
    return Section("Anchors", text, [], None, shown)


def _numbers(run: ViewedRun) -> Section:
    """What the run itself counted, of each window of its split."""
    if run.targets is None:
        return Section("What it hid", f"Not measured: {run.without_targets}.", [], None)
    windows = tables.counted(len(run.targets.window), "window")
    text = f"Counted by the run over {windows} of the run's split, {run.targets.split}, with its last weights."
    return Section("What it hid", text, _targets([run]), [run.numbers])


def _targets(viewed: list[ViewedRun]) -> list[tuple[str, bytes]]:
    """A picture of how many targets each run's windows have, if they counted them."""
    rows = [Counts(run.title, "", run.targets.targets, run.config.masking.unit) for run in viewed if run.targets]
    if not any(len(row.values) > 1 for row in rows):  # of one window each there is no distribution
        return []
    return [("Targets in each window, as the runs counted them.", distributions(rows, "targets in a window"))]
