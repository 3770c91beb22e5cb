"""A video in, its subtitles out: cues in time, and one line of text for each segment."""

import dataclasses
import html
import re
from collections.abc import Sequence
from pathlib import Path

from av.error import FFmpegError

from preprocessing.decode_video import open_video, packets_of, refuse_if_passing, video_stream
from preprocessing.problems import VideoError, may_pass

SUFFIXES = (".srt", ".SRT", ".vtt", ".VTT")  # in order of preference
TAG = re.compile(r"</?[a-zA-Z][^>]*>|\{\\[^}]*\}")  # <i>, <v Speaker>, {\an8}
UNKNOWN_SPEAKER = re.compile(r"\(?\s*<?UNKNAME>?\s*:\s*\)?")  # for whom TVQA's preprocessed subtitles know no name


@dataclasses.dataclass(frozen=True)
class Cue:
    """What is said from `start` to `end`, in seconds."""

    start: float
    end: float
    text: str


def subtitle_file(video: Path) -> Path | None:
    """The .srt or .vtt beside the video that has its name."""
    return next((path for suffix in SUFFIXES if (path := video.with_suffix(suffix)).is_file()), None)


def read_cues(path: Path) -> tuple[list[Cue], str | None]:
    """The cues of an .srt or .vtt file, or of a video's text stream, if it has one; and what was wrong.

    Raises VideoError where the file cannot be read at all.
    """
    return _from_file(path) if path.suffix in SUFFIXES else _from_stream(path)


def in_ascii(cues: Sequence[Cue]) -> list[Cue]:
    """The cues with every character written in ASCII, as the original stored the English of TVQA."""
    from anyascii import anyascii

    return [dataclasses.replace(cue, text=anyascii(cue.text)) for cue in cues]


def subtitle_of_segments(cues: Sequence[Cue], starts: Sequence[float], ends: Sequence[float]) -> list[str]:
    """One line per segment; a cue belongs to the segment that contains its midpoint."""
    ordered = sorted(cues, key=lambda cue: (cue.start, cue.end))
    return [
        " ".join(cue.text for cue in ordered if start <= (cue.start + cue.end) / 2 < end)
        for start, end in zip(starts, ends, strict=True)
    ]


def plain(text: str) -> str:
    """Text in one line, without markup, and with wrongly decoded characters mended."""
    from ftfy import fix_text

    lines = UNKNOWN_SPEAKER.sub("", text).replace(r"\N", " ").replace(r"\n", " ")
    return " ".join(fix_text(html.unescape(TAG.sub("", lines))).split())


def _from_file(path: Path) -> tuple[list[Cue], str | None]:
    import pysubs2

    try:
        text = _decode(path.read_bytes())
    except OSError as error:
        said = f"could not be read ({error.strerror})"
        raise VideoError(path, said, "see to its permissions or copy it again", "subtitles", may_pass(error)) from None
    if text.strip() in ("", "WEBVTT"):  # Nobody speaks.
        return [], None
    announced = text.count("-->")
    try:
        events = pysubs2.SSAFile.from_string(text, format_=path.suffix[1:].lower())
        cues = [Cue(event.start / 1000, event.end / 1000, plain(event.text)) for event in events]
    except (pysubs2.exceptions.Pysubs2Error, ValueError, LookupError, OverflowError) as error:
        return [], f"{path.name} cannot be read as subtitles ({error})"
    if not cues:
        return [], f"{path.name} holds no subtitle that can be read"
    problem = None
    if len(cues) < announced:
        problem = f"{path.name}: only {len(cues)} of {announced} subtitles can be read"
    return [cue for cue in cues if cue.text], problem


def _decode(data: bytes) -> str:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", errors="replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _from_stream(path: Path) -> tuple[list[Cue], str | None]:
    cues = []
    with open_video(path) as container:
        video = video_stream(container, path)
        first = float((video.start_time or 0) * video.time_base)
        stream = container.streams.best("subtitle", related=video)
        if stream is None or stream.codec_context is None:
            return [], None
        try:
            for packet in packets_of(container, stream):
                if packet.pts is None or not packet.duration:
                    continue
                text = " ".join(
                    plain(subtitle.dialogue.decode("utf-8", errors="replace"))
                    for subtitle in packet.decode()
                    if hasattr(subtitle, "dialogue")  # bitmap subtitles have no text
                ).strip()
                start = float(packet.pts * packet.time_base) - first
                if text:
                    cues.append(Cue(start, start + float(packet.duration * packet.time_base), text))
        except (FFmpegError, MemoryError) as error:
            refuse_if_passing(error, path)
            return cues, f"its subtitle stream is damaged after {len(cues)} subtitles ({error.strerror})"
    return cues, None
