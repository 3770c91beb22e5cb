"""One clip's files in, how long they are and what is wrong with them out; nothing is decoded but a first piece."""

import contextlib
import dataclasses
from pathlib import Path

from av.error import FFmpegError

from preprocessing.clip import Media
from preprocessing.decode_audio import decode_audio
from preprocessing.decode_images import ImageFrames
from preprocessing.decode_video import SampledFrames, declared_seconds, open_video, video_stream
from preprocessing.problems import Problem, VideoError
from preprocessing.spectrogram import SAMPLE_RATE
from preprocessing.subtitles import read_cues


@dataclasses.dataclass
class Inspected:
    """What the files of one clip are."""

    clip: str
    seconds: float | None = None  # of the pictures, where the file says it
    readable: bool = False  # its first picture can be decoded
    audio: bool = False
    subtitles: bool = False
    problems: list[Problem] = dataclasses.field(default_factory=list)


def inspect(clip: str, media: Media) -> Inspected:
    """Opens every file of a clip. Never raises for what a file holds."""
    found = Inspected(clip, subtitles=bool(media.cues))
    _try(found, "decode", media.pictures, lambda path: _look(found, path))
    if media.audio:
        _try(found, "audio", media.audio, lambda path: _hear(found, path))
    if media.subtitles:
        _try(found, "subtitles", media.subtitles, lambda path: _read(found, path))
    return found


def _try(found: Inspected, stage: str, path: Path, look) -> None:
    try:
        look(path)
    except VideoError as error:
        _note(found, stage, f"{path.name} {error.problem.problem}", error.problem.advice)
    except (OSError, FFmpegError, ValueError) as error:
        _note(found, stage, f"{path.name} cannot be read ({error})", "copy or download it again")


def _note(found: Inspected, stage: str, problem: str, advice: str) -> None:
    found.problems.append(Problem(found.clip, stage, problem, advice))


def _look(found: Inspected, path: Path) -> None:
    if path.is_dir():
        frames = ImageFrames(path)
        found.seconds = frames.seconds
        if told := frames.what_is_wrong(frames.gaps()):
            _note(found, "decode", told, "the image before each that is missing stands in")
        next(iter(frames))
        found.readable = True
        if not frames.can_read_last():
            _note(found, "decode", "its last image cannot be read", "unpack its frames again")
        return
    with open_video(path) as container:
        stream = video_stream(container, path)
        found.seconds = declared_seconds(container, stream)
        found.audio = container.streams.best("audio", related=stream) is not None
        found.subtitles |= container.streams.best("subtitle", related=stream) is not None
    with contextlib.closing(iter(SampledFrames(path, 1.0))) as frames:
        next(frames)
    found.readable = True


def _hear(found: Inspected, path: Path) -> None:
    sound, _ = decode_audio(path, SAMPLE_RATE, 1.0, beside_pictures=True)
    found.audio = sound is not None
    if sound:
        sound.close()
    if not found.audio:
        _note(found, "audio", f"{path.name} holds no sound", "copy or download it again")


def _read(found: Inspected, path: Path) -> None:
    cues, problem = read_cues(path)
    found.subtitles = bool(cues)
    if problem:
        _note(found, "subtitles", problem, "correct or remove them; the clip is used with those that could be read")
