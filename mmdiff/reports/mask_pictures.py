"""Records and a masking configuration in, what training would hide of them out: `mmdiff view`."""

import dataclasses
from collections import Counter
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from mmdiff.data.loader import stack
from mmdiff.data.records import Record, decode, read_split
from mmdiff.data.tokenizer import Tokenizer
from mmdiff.data.video_examples import decode_frame, draw_crop
from mmdiff.masking.anchors import PERSON
from mmdiff.masking.strategies import MaskingConfig
from mmdiff.models.reserve import MerlotReserve, ReserveConfig
from mmdiff.objectives.masked_video import MaskedVideo
from mmdiff.reports.mask_gallery import MaskedFrame, contact_sheet, write_gallery
from mmdiff.training.config import PretrainConfig, validate
from mmdiff.training.pretrain import example_maker, run_keys

FRAMES_IN_A_SHEET = 4
LOOKED_AT = 1000  # records of a split among which to pick


@dataclasses.dataclass(frozen=True)
class MaskSheet:
    """One window: a row of frames per strategy, and how much each strategy hid of it."""

    title: str
    description: str
    picture: np.ndarray  # uint8 [h, w, 3]
    counts: list[dict]


def mask_sheet(
    record: Record, window: int, config: PretrainConfig, maskings: dict[str, MaskingConfig], tokenizer: Tokenizer
) -> MaskSheet:
    """The masks that a run with this configuration gives this window at its first step, uncropped."""
    sizes = ReserveConfig(image_grid=(config.model.rows, config.model.columns))
    rows, counts = [], []
    _, step_key = run_keys(config.train.seed)
    for name, masking in maskings.items():
        example = example_maker(config.data, masking, sizes, tokenizer)(record, window, None)
        objective = MaskedVideo(MerlotReserve(sizes), masking, config.objective)
        batch = stack([example])
        mask = objective.masks(jax.tree.map(jnp.asarray, batch), step_key, jnp.zeros((), jnp.int32))
        pools = np.asarray(objective.pools(mask.scored)).reshape(config.data.segments, -1)
        hidden = np.asarray(mask.hidden).reshape(config.data.segments, -1)
        rows.append(_row(record, window, example, hidden, pools, sizes))
        real = int(example.patch_valid.sum())
        counts.append(
            {
                "clip": record.id,
                "strategy": name,
                "patches": real,
                "hidden": int(hidden.sum()),
                "hidden pools": int(pools.sum()),
                "hidden in boxes, %": round(100 * float(hidden[example.person].sum() / max(hidden.sum(), 1))),
                "boxes cover, %": round(100 * float(example.person.sum() / max(real, 1))),
            }
        )
    first, count = (int(x) for x in record.windows[window])
    start, end = record.segments.start[first], record.segments.end[first + count - 1]
    said = " ".join(text for text in record.segments.subtitle[first : first + count] if text)
    return MaskSheet(
        f"{record.video}, {start:.1f} to {end:.1f} s",
        f"Subtitles: {said}" if said else "No subtitles.",
        contact_sheet(rows, list(maskings)),
        counts,
    )


def _row(record: Record, window: int, example, hidden, pools, sizes: ReserveConfig) -> list[MaskedFrame]:
    first, count = (int(x) for x in record.windows[window])
    grid, side = sizes.image_grid, sizes.patch_size
    wanted = (grid[0] * side, grid[1] * side)
    frames = []
    for i in np.unique(np.linspace(0, count - 1, min(count, FRAMES_IN_A_SHEET)).round().astype(int)):
        index = record.segments.frame[first + i]
        stored = decode_frame(record.frames[index], record.id).shape[:2]
        stretch = np.array(stored) * draw_crop(stored, wanted, None).scale / wanted
        here = np.flatnonzero(record.boxes.frame == index)
        frames.append(
            MaskedFrame(
                image=example.frames[i],
                hidden=hidden[i].reshape(grid),
                pooled=pools[i].reshape(grid[0] // sizes.pooling, grid[1] // sizes.pooling),
                boxes=[
                    (*np.clip(record.boxes.box[b] * np.tile(stretch, 2), 0, 1).tolist(), _caption(record, int(b)))
                    for b in here
                ],
                title=f"{record.frame_times[index]:.1f} s",
            )
        )
    return frames


def _caption(record: Record, box: int) -> str:
    """ "3 body*" or "Sheldon": the track and the part, or a name, and a star where the box was computed from another."""
    boxes = record.boxes
    said = f"{boxes.track[box]} {boxes.part[box]}" if boxes.label[box] == PERSON else boxes.label[box]
    return said + "*" * (boxes.source[box] == "derived")


def pick_records(folder: str, names: list[str], clips: int) -> list[Record]:
    """Up to `clips` records to look at: one of each video first, those with the most boxes before the others."""
    sources = {name: read_split(folder, name) for name in names}
    found = []
    for name, source in sources.items():
        for index in np.unique(np.linspace(0, len(source) - 1, min(LOOKED_AT, len(source))).round().astype(int)):
            record = decode(source[int(index)])
            found.append((record.video, -len(record.boxes.frame), record.id, name, int(index)))
    taken, ranked = Counter(), []
    for video, boxes, *rest in sorted(found):
        ranked.append((taken[video], boxes, video, *rest))
        taken[video] += 1
    # Decoded again: a thousand records with their frames would not fit.
    return [decode(sources[name][index]) for *_, name, index in sorted(ranked)[:clips]]


def mask_sheets(
    config: PretrainConfig, maskings: dict[str, MaskingConfig], names: list[str], clips: int
) -> list[MaskSheet]:
    """Sheets of up to `clips` records of the splits named, the middle window of each."""
    tokenizer = Tokenizer(config.data.tokenizer)
    records = pick_records(config.data.records, names, clips)
    return [mask_sheet(record, len(record.windows) // 2, config, maskings, tokenizer) for record in records]


def view(config: PretrainConfig, out: str | Path, strategies: list[str], split: str, clips: int) -> Path:
    """Writes a gallery of frames with boxes and masks; returns the page.

    Raises ConfigError, RecordError or TokenizerError, each one sentence for the user.
    """
    maskings = {name: dataclasses.replace(config.masking, strategy=name) for name in strategies}
    for masking in maskings.values():
        validate(dataclasses.replace(config, masking=masking))
    sheets = mask_sheets(config, maskings, [split], clips)
    return write_gallery(
        Path(out),
        [(sheet.title, sheet.description, sheet.picture) for sheet in sheets],
        [row for sheet in sheets for row in sheet.counts],
        f"What {' and '.join(strategies)} masking hides",
    )
