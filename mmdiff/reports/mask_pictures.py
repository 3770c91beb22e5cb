"""Records and ways of masking in, pictures and counts of what each would hide of them out."""

import dataclasses
import logging
from collections import Counter
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from mmdiff.data.loader import stack
from mmdiff.data.records import Record, decode, read_split
from mmdiff.data.tokenizer import Tokenizer
from mmdiff.data.video_examples import VideoBatch, decode_frame, draw_crop
from mmdiff.masking.anchors import PERSON, Anchors, open_anchors
from mmdiff.masking.strategies import MaskingConfig, PatchMask, find, patch_units
from mmdiff.models.reserve import MerlotReserve, ReserveConfig
from mmdiff.objectives.masked_video import MaskedVideo
from mmdiff.reports.heat import heat
from mmdiff.reports.hidden_share import COVER, INSIDE
from mmdiff.reports.mask_gallery import MaskedFrame, Row, contact_sheet
from mmdiff.reports.mask_over_time import over_time
from mmdiff.training import runs
from mmdiff.training.config import PretrainConfig, validate
from mmdiff.training.pretrain import check_records, example_maker, run_keys

FRAMES_IN_A_SHEET = 4
LOOKED_AT = 1000  # records of a split among which to pick

log_line = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Look:
    """One way of masking, ready to be looked at."""

    name: str
    sizes: ReserveConfig
    segments: int  # of a window, padding included
    unit: str  # of what is hidden, as `MaskingConfig.unit`
    example: Callable[[Record, int], VideoBatch]
    # Of a batch: masks [b, n], targets [b, m], and the counts of `MaskedVideo.count`.
    masks: Callable[[VideoBatch], tuple[PatchMask, jax.Array, dict[str, jax.Array]]]


@dataclasses.dataclass(frozen=True)
class MaskSheet:
    """One window: a row of frames per strategy, and how much each strategy hid of it."""

    title: str
    description: str
    picture: np.ndarray  # uint8 [h, w, 3]
    over_time: list[np.ndarray]  # every frame and the share of it that was hidden; none of a window of one frame
    counts: list[dict]
    frames: Row  # what `rows` are of, with boxes; some frames of the window
    rows: list[Row]  # one for each strategy
    every_frame: list[Row]  # the frames, and one for each strategy


def looks_at_features(masking: MaskingConfig) -> bool:
    """Whether its strategy needs a model."""
    return "features" in find(masking.strategy).looks_at


def check(config: PretrainConfig) -> None:
    """Raises ConfigError, StrategyError or RecordError where nothing can be masked so."""
    validate(config)
    check_records(config)


def open_model(configs: list[PretrainConfig], tokenizer: Tokenizer) -> tuple[ReserveConfig, dict] | None:
    """The model that these configurations share, and its parameters, if any of them looks at features.

    Without a checkpoint they are random, and a warning says so.
    """
    looking = [config.masking.strategy for config in configs if looks_at_features(config.masking)]
    if not looking:
        return None
    if not configs[0].model.checkpoint:
        log_line.warning(
            "no model.checkpoint: what a model with random weights makes of the frames is what is looked at by %s",
            ", ".join(dict.fromkeys(looking)),
        )
    return runs.build_model(configs[0].model, tokenizer, run_keys(configs[0].train.seed)[0])


def open_look(
    name: str,
    config: PretrainConfig,
    tokenizer: Tokenizer,
    model: tuple[ReserveConfig, dict] | None,
    anchors: Anchors,
) -> Look:
    """What a run with this configuration hides of a window with the key of its first step.

    Args:
      name: of its row.
      config: the run's.
      tokenizer: the run's vocabulary.
      model: its sizes and parameters; not needed by strategies that do not look at features.
      anchors: the run's.

    Raises ConfigError, StrategyError or RecordError, each one sentence for the user.
    """
    check(config)
    sizes, params = model or (ReserveConfig(image_grid=(config.model.rows, config.model.columns)), None)
    make = example_maker(config.data, config.masking, anchors, sizes, tokenizer)
    objective = MaskedVideo(MerlotReserve(sizes), config.masking, config.objective)
    key = run_keys(config.train.seed)[1]

    @jax.jit
    def masks(params, batch):
        mask = objective.masks(batch, key, jnp.zeros((), jnp.int32), params)
        counts = objective.count(batch, key, jnp.zeros((), jnp.int32), params)
        return mask, objective.pools(mask.scored), counts

    needed = params if looks_at_features(config.masking) else None
    return Look(
        name,
        sizes,
        config.data.segments,
        config.masking.unit,
        lambda record, window: make(record, window, None),
        lambda batch: masks(needed, batch),
    )


def mask_sheet(record: Record, window: int, looks: list[Look]) -> MaskSheet:
    """What each look hides of this window, uncropped."""
    times, rows, every, counts = None, [], [], []
    for look in looks:
        example = look.example(record, window)
        mask, pools, count = jax.device_get(look.masks(jax.tree.map(jnp.asarray, stack([example]))))
        scores = heat(*_wanted(look, mask.score[0], example.patch_valid.reshape(-1)))
        frames = _frames(record, window, look, example, mask.hidden[0], pools[0], scores.value)
        some = [frames[i] for i in np.unique(np.linspace(0, len(frames) - 1, FRAMES_IN_A_SHEET).round().astype(int))]
        if times is None:
            times = some, frames
        # On masks, boxes without captions: these would hide what they are about.
        plain = [_without_captions(frame, scores.flat) for frame in some]
        rows.append(Row(look.name, scores.note, plain))
        every.append(Row(look.name, scores.note, frames))
        counts.append({"clip": record.id, **_count(look.name, count)})
    few, all_ = (len(frames) for frames in times)
    note = f"{few} of {all_} frames, as the model sees them, with the boxes of the records"
    shown = Row("frames", note, [_nothing_hidden(frame) for frame in times[0]])
    every = [Row("frames", "", [_nothing_hidden(frame) for frame in times[1]]), *every]
    first, count = (int(x) for x in record.windows[window])
    start, end = record.segments.start[first], record.segments.end[first + count - 1]
    said = " ".join(text for text in record.segments.subtitle[first : first + count] if text)
    return MaskSheet(
        f"{record.video}, {start:.1f} to {end:.1f} s",
        f"Subtitles: {said}" if said else "No subtitles.",
        contact_sheet([shown, *rows]),
        over_time(every) if count > 1 else [],
        counts,
        shown,
        rows,
        every,
    )


def _wanted(look: Look, score: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How much each patch [n] is wanted, and which can be: those of a pool as much as its best one, if pools fall."""
    units = patch_units(look.unit, look.segments, look.sizes.image_grid, look.sizes.pooling)
    scores, can_be = np.empty(score.shape, np.float64), np.empty_like(valid)
    scores[units] = score[units].max(axis=1, keepdims=True)
    can_be[units] = valid[units].all(axis=1, keepdims=True)
    return scores, can_be


def _count(name: str, count: dict[str, np.ndarray]) -> dict:
    patches, hidden, targets = (int(count[name][0]) for name in ("patches", "hidden", "targets"))
    inside, cover = (100 * float(count[name][0]) for name in ("hidden_inside", "boxes_cover"))
    return {"strategy": name, "patches": patches, "hidden": hidden, "targets": targets, INSIDE: inside, COVER: cover}


def _frames(record: Record, window: int, look: Look, example: VideoBatch, hidden, pools, value) -> list[MaskedFrame]:
    """Every real frame of the window, without the black beside and below what a video of another shape leaves."""
    first, count = (int(x) for x in record.windows[window])
    grid, side, pooling = look.sizes.image_grid, look.sizes.patch_size, look.sizes.pooling
    by_frame = (look.segments, *grid)
    valid, hidden, value = (x.reshape(by_frame) for x in (example.patch_valid, hidden, value))
    pools = pools.reshape(look.segments, grid[0] // pooling, grid[1] // pooling)
    # Whole pools, and the same for all frames of the window.
    rows, columns = (
        -(-(int(np.flatnonzero(valid.any(axis=axes)).max(initial=0)) + 1) // pooling) * pooling
        for axes in ((0, 2), (0, 1))
    )
    frames = []
    for i in range(count):
        index = record.segments.frame[first + i]
        stored = decode_frame(record.frames[index], record.id).shape[:2]
        crop = draw_crop(stored, (grid[0] * side, grid[1] * side), None)
        stretch = np.array(stored) * crop.scale / (rows * side, columns * side)
        frames.append(
            MaskedFrame(
                image=example.frames[i, : rows * side, : columns * side],
                hidden=hidden[i, :rows, :columns],
                pooled=pools[i, : rows // pooling, : columns // pooling],
                boxes=[
                    (*np.clip(record.boxes.box[b] * np.tile(stretch, 2), 0, 1).tolist(), _caption(record, int(b)))
                    for b in np.flatnonzero(record.boxes.frame == index)
                ],
                title=f"{record.frame_times[index]:.1f} s",
                heat=value[i, :rows, :columns],
            )
        )
    return frames


def _without_captions(frame: MaskedFrame, flat: bool) -> MaskedFrame:
    boxes = [(*box[:4], "") for box in frame.boxes]
    return dataclasses.replace(frame, boxes=boxes, heat=None if flat else frame.heat)


def _nothing_hidden(frame: MaskedFrame) -> MaskedFrame:
    nothing = np.zeros_like(frame.hidden), np.zeros_like(frame.pooled)
    return dataclasses.replace(frame, hidden=nothing[0], pooled=nothing[1], heat=None)


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
    """Sheets of up to `clips` records of the splits named, the middle window of each.

    Raises ConfigError, StrategyError, RecordError, AnchorError or CheckpointError, each one sentence for the user.
    """
    tokenizer = Tokenizer(config.data.tokenizer)
    configs = {name: dataclasses.replace(config, masking=masking) for name, masking in maskings.items()}
    for each in configs.values():
        check(each)
    aimed = any("boxes" in find(masking.strategy).looks_at for masking in maskings.values())
    anchors = open_anchors(config.anchors, config.data.records, where="both" if aimed else None)
    model = open_model(list(configs.values()), tokenizer)
    looks = [open_look(name, each, tokenizer, model, anchors) for name, each in configs.items()]
    return sheets_of(pick_records(config.data.records, names, clips), looks)


def sheets_of(records: list[Record], looks: list[Look]) -> list[MaskSheet]:
    """The middle window of each record."""
    return [mask_sheet(record, len(record.windows) // 2, looks) for record in records]
