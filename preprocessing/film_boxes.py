"""A video and the boxes of its sampled pictures in, the video with boxes that move from one to the next out (H.264)."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from jaxtyping import UInt8

from mmdiff.whole_files import whole
from preprocessing.decode_images import ImageFrames
from preprocessing.decode_video import SampledFrames
from preprocessing.draw_boxes import TrackedBox, clock, draw, fitted, stamp
from preprocessing.shot_cuts import THUMBNAIL, change
from preprocessing.track_boxes import between

SMOOTH = 30.0  # pictures a second, at most
LONGEST = 6000  # pictures; a longer film has fewer a second, but not fewer than were looked at
SIDE = 640  # pixels, of the longer side at least: tags must be readable

Small = UInt8[np.ndarray, "18 32 3"]  # shot_cuts.THUMBNAIL


def sampled(path: Path, fps: float) -> ImageFrames | SampledFrames:
    """The pictures of a video at that rate, or those of a folder of images at theirs."""
    return ImageFrames(path) if path.is_dir() else SampledFrames(path, fps)


def small(picture: UInt8[np.ndarray, "h w 3"]) -> Small:
    """What is kept of a picture to tell by which side of a cut another one is."""
    return cv2.resize(picture, THUMBNAIL, interpolation=cv2.INTER_AREA)


def rate_of(seconds: float, native_fps: float, fps: float) -> float:
    """Pictures a second of the film of a video: its own, where that is not too many."""
    return max(min(native_fps, SMOOTH, LONGEST / max(seconds, 1e-6)), min(fps, SMOOTH))


def write_film(
    out: Path,
    path: Path,
    boxes: Mapping[int, Sequence[TrackedBox]],
    fps: float,
    cuts: Mapping[int, tuple[Small, Small]],
    rate: float,
) -> None:
    """Writes an mp4 that lasts as long as the video's pictures do.

    Args:
      out: the file, which appears whole or not at all.
      path: the video, or a folder of images.
      boxes: of the sampled pictures that have some.
      fps: sampled pictures a second.
      cuts: sampled pictures that begin a shot, with the `small` pictures before it and of it.
      rate: pictures a second of the film.

    Raises VideoError where nothing can be decoded.
    """
    frames = sampled(path, rate)
    with (
        whole(out) as unfinished,
        av.open(str(unfinished), "w", format="mp4", options={"movflags": "faststart"}) as film,
    ):
        stream = None
        for time, picture in frames:
            shown = _even(stamp(draw(_enlarged(picture), boxes_at(time * fps, boxes, cuts, picture)), clock(time)))
            if stream is None:
                stream = film.add_stream("libx264", rate=Fraction(frames.fps).limit_denominator(10_000))
                stream.height, stream.width = shown.shape[:2]
                stream.pix_fmt, stream.options = "yuv420p", {"preset": "veryfast", "crf": "23"}
                stream.thread_count = 1  # the same bytes on every machine
            for packet in stream.encode(av.VideoFrame.from_ndarray(shown, format="rgb24")):
                film.mux(packet)
        for packet in stream.encode() if stream else ():
            film.mux(packet)


def boxes_at(
    moment: float,
    boxes: Mapping[int, Sequence[TrackedBox]],
    cuts: Mapping[int, tuple[Small, Small]],
    picture: UInt8[np.ndarray, "h w 3"],
) -> list[TrackedBox]:
    """The boxes of a picture that stands at so many sampled pictures, in a line between the two around it.

    What is only in one of them is shown in the half that is nearer to it. Across a cut nothing moves: the picture has the
    boxes of the one that it is more like.
    """
    before = int(moment + 1e-6)
    share = max(moment - before, 0.0)
    left, right = ({one.kind: one for one in boxes.get(index, ())} for index in (before, before + 1))
    if before + 1 in cuts:
        old, new = cuts[before + 1]
        shown = small(picture)
        return list((left if change(old, shown) <= change(shown, new) else right).values())
    nearer = left if share < 0.5 else right
    return [
        replace(one, box=_moved(left[kind], right[kind], share, one)) if kind in left and kind in right else one
        for kind, one in nearer.items()
    ]


def _moved(left: TrackedBox, right: TrackedBox, share: float, nearer: TrackedBox):
    return replace(between(left.box, right.box, share), source=nearer.box.source, score=nearer.box.score)


def _enlarged(picture: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h2 w2 3"]:
    return picture if max(picture.shape) >= SIDE else fitted(picture, SIDE)


def _even(picture: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h2 w2 3"]:
    """The picture with an even number of rows and columns, as H.264's colours need."""
    height, width = picture.shape[:2]
    return np.ascontiguousarray(np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge"))
