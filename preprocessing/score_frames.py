"""Staged clips in, the similarity of their frames to the anchors out, each clip's in a file beside it.

A stage of its own after detection: another model or other anchors score the same staged frames again, and a killed run
goes on with the clips that have no file yet.
"""

import dataclasses
import functools
import hashlib
import json
from pathlib import Path

import numpy as np
from jaxtyping import Float32
from tqdm import tqdm

from preprocessing import staging
from preprocessing.anchor_similarity import PROMPT, AnchorSimilarity, find_model
from preprocessing.options import Options
from preprocessing.saved_models import digest_of_model

FORMAT = 1  # Raise it when the same model, anchors and frames give other numbers than before.
FRAMES_AT_ONCE = 16
FOLDER = "similarity"  # within that of the staged clips


@dataclasses.dataclass(frozen=True)
class Wanted:
    """The model that is to score, and the anchors."""

    folder: Path
    model: str  # what people call it: the name of its folder, or the id of the hub
    digest: str  # of what is in the folder
    anchors: tuple[str, ...]

    def to_json(self) -> dict:
        """What the scores depend on."""
        return {"format": FORMAT, "model": self.digest, "anchors": list(self.anchors), "prompt": PROMPT}


@dataclasses.dataclass(frozen=True)
class Scored:
    """What the stage did."""

    model: str
    anchors: list[str]
    frames: int  # that have a similarity
    scored: int  # of these, now

    def describe(self) -> str:
        """For people."""
        return (
            f"similarity to {', '.join(self.anchors)} by {self.model}: {self.frames} frames, "
            f"{self.scored or 'none'} of them scored now"
        )


def wanted(options: Options) -> Wanted | None:
    """What the options ask for; None where they name no model. Raises PreprocessError as `find_model` does."""
    if not options.clip:
        return None
    folder = find_model(options.clip)
    # A folder of the hub's cache is called after a revision.
    model = options.clip if options.clip.count("/") == 1 and not Path(options.clip).is_dir() else folder.resolve().name
    return Wanted(folder, model, digest_of_model(folder), options.clip_anchors)


def score_all(clips: list[Path], wanted: Wanted, progress: bool) -> Scored:
    """Scores every stored frame of staged clips that was not scored in this way before; `progress` shows a bar on a terminal."""
    model = functools.cache(lambda: AnchorSimilarity(wanted.folder, wanted.anchors))  # built where one needs it
    frames = scored = 0
    if clips:
        staging.keep_only(clips[0].parent / FOLDER, [scores_of(clip) for clip in clips])
    for clip in tqdm(clips, unit="clip", desc="scoring frames", disable=None if progress else True):
        made_from = staging.load_signature(clip)
        signature = {
            **wanted.to_json(),
            "clip": hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest(),
        }
        kept = staging.load_short(scores_of(clip), signature)
        if kept is None:
            found = [_scores(record, model()) for record in staging.load_records(clip)]
            kept = {"frames": sum(map(len, found))}
            staging.save(scores_of(clip), signature, kept, found)
            scored += kept["frames"]
        frames += kept["frames"]
    return Scored(wanted.model, list(wanted.anchors), frames, scored)


def scores_of(clip: Path) -> Path:
    """Where the scores of a staged clip are kept: its `records` are arrays [f, 18, 32], one for each of the clip's."""
    return clip.parent / FOLDER / clip.name


def _scores(record: dict, model: AnchorSimilarity) -> Float32[np.ndarray, "_ 18 32"]:
    """Of the frames of a staged record; only one batch of them is decoded at a time."""
    from mmdiff.data.video_examples import decode_frame  # brings JAX, which takes Ctrl-C amiss while it is read

    frames = record["frames"]
    return np.concatenate(
        [
            model([decode_frame(frame, record["id"]) for frame in frames[first : first + FRAMES_AT_ONCE]])
            for first in range(0, len(frames), FRAMES_AT_ONCE)
        ]
    )
