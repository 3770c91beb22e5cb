"""Small trees of TVQA, TVQA+ and Social-IQ 2.0: real annotations, and real videos under their names.

    python benchmarks/miniature_trees.py OUT --shared ../shared

The media of these datasets need signed forms. Here pieces of other real clips stand under the names that real questions
ask for, so that every stage runs on real input: what is asked has nothing to do with what is seen, and no accuracy on
it means anything. TVQA's own answered files are not at hand; TVQA+ asks the same questions in tokenised form.
"""

import argparse
import json
import random
import wave
from collections.abc import Iterator
from pathlib import Path

import av
import cv2
import numpy as np

from preprocessing.decode_audio import decode_audio
from preprocessing.decode_video import SampledFrames
from preprocessing.subtitles import read_cues

CLIPS = ("hamilton_short.mp4", "nasa_13013.mp4", "one_by_one_person.mp4", "asl_walk.mkv")
WIDTH, HEIGHT, FPS, RATE = 480, 270, 3, 22_050


def _samples(path: Path, seconds: float, beside_pictures: bool = False) -> np.ndarray | None:
    sound, _ = decode_audio(path, RATE, seconds, beside_pictures)
    if sound is None:
        return None
    with sound:
        return sound.piece(0, sound.count)


class Footage:
    """Pictures, sound and words of the real clips, from which a clip of any length is put together."""

    def __init__(self, videos: Path):
        self.pieces = []
        speech = _samples(videos / "jfk.flac", 11.0, beside_pictures=True)
        for name in CLIPS:
            frames = [cv2.resize(frame, (WIDTH, HEIGHT)) for _, frame in SampledFrames(videos / name, FPS)]
            sound = _samples(videos / name, len(frames) / FPS)
            sound = np.resize(speech if sound is None else sound, len(frames) * RATE // FPS)  # silent ones get a speech
            words = videos / Path(name).with_suffix(".srt")
            self.pieces.append((frames, sound, read_cues(words)[0] if words.exists() else []))

    def clip(self, seconds: float, rng: random.Random) -> tuple[list, np.ndarray, list]:
        """RGB frames, sound, and (start, end, text) of what is said."""
        frames, sound, words = [], [], []
        while len(frames) < seconds * FPS:
            source, audio, cues = rng.choice(self.pieces)
            first = rng.randrange(max(1, len(source) - 24))
            count = min(len(source) - first, 45, round(seconds * FPS) - len(frames))
            shift = (len(frames) - first) / FPS
            words += [
                (cue.start + shift, cue.end + shift, cue.text)
                for cue in cues
                if first / FPS <= cue.start and cue.start < (first + count) / FPS
            ]
            frames += source[first : first + count]
            sound.append(audio[first * RATE // FPS : (first + count) * RATE // FPS])
        return frames, np.concatenate(sound), words


def make_tvqa(out: Path, shared: Path, footage: Footage, clips: int, seconds: float, questions: int) -> None:
    """`clips` clips of TVQA+ for training, a half of that for validation, and two of TVQA's own test questions."""
    plus = json.loads((shared / "data/tvqa/tvqa_plus_val.json").read_text())
    by_clip: dict[str, list[dict]] = {}
    for item in plus:
        by_clip.setdefault(item["vid_name"], []).append(item)
    names = list(by_clip)[: clips + clips // 2]
    splits = {"train": names[:clips], "val": names[clips:]}
    for split, chosen in splits.items():
        items = [item for name in chosen for item in by_clip[name][:questions]]
        lines = [
            json.dumps(
                {key: item[key] for key in ("qid", "q", "a0", "a1", "a2", "a3", "a4", "vid_name")}
                | {"answer_idx": int(item["answer_idx"]), "show_name": "The Big Bang Theory"}
                | {"ts": f"{item['ts'][0]:g}-{item['ts'][1]:g}"}
            )
            for item in items
        ]
        write(out / f"tvqa_qa_release/tvqa_{split}.jsonl", "\n".join(lines) + "\n")
        write(out / f"tvqa_plus_annotations_with_test/tvqa_plus_{split}.json", json.dumps(items))
    with (shared / "data/tvqa/tvqa_test_public.jsonl").open() as file:
        rows = [line for line in file if "friends_s06e12" in line or "castle_s02e24_seg02_clip_26" in line]
    write(out / "tvqa_qa_release/tvqa_test_public.jsonl", "".join(rows))
    tested = list(dict.fromkeys(json.loads(line)["vid_name"] for line in rows))[:2]
    for name in names + tested:
        show = name.split("_")[0] if name in tested else "bbt"
        frames, sound, words = footage.clip(seconds, random.Random(name))
        folder = out / f"tvqa_frames/frames_hq/{show}_frames/{name}"
        folder.mkdir(parents=True, exist_ok=True)
        for number, frame in enumerate(frames, 1):
            cv2.imwrite(str(folder / f"{number:05d}.jpg"), cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        audios = out / f"tvqa_frames/audios/{'bbt_new' if show == 'bbt' else show}/{show}_audios"
        write_mp3(audios / f"{name}.mp3", sound)
        write(out / f"tvqa_subtitles/{name}.srt", subtitles(words, ","))


def make_social_iq2(out: Path, shared: Path, footage: Footage, clips: int, seconds: float) -> None:
    """All annotations as they are; videos for `clips` of the training ids and a half of that of the validation ids."""
    source = shared / "data/social_iq_2"
    for path in [*source.glob("qa/*.json"), *source.glob("*.json")]:
        write(out / path.relative_to(source), path.read_text())
    for split, count in (("train", clips), ("val", clips // 2)):
        with (source / f"qa/qa_{split}.json").open() as file:
            names = list(dict.fromkeys(json.loads(line)["vid_name"] for line in file))[:count]
        for name in names:
            frames, sound, words = footage.clip(seconds, random.Random(name))
            write_mp4(out / f"video/{name}.mp4", frames)
            write_wav(out / f"audio/wav/{name}.wav", sound)
            write(out / f"transcript/{name}.vtt", "WEBVTT\n\n" + subtitles(words, "."))


def subtitles(words: list, comma: str) -> str:
    def clock(time: float) -> str:
        return f"{int(time) // 3600:02d}:{int(time) // 60 % 60:02d}:{time % 60:06.3f}".replace(".", comma)

    return "\n".join(f"{i}\n{clock(a)} --> {clock(b)}\n{text}\n" for i, (a, b, text) in enumerate(words, 1))


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def write_mp3(path: Path, sound: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libmp3lame", rate=RATE)
        for frame in audio_frames(sound, stream):
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def audio_frames(sound: np.ndarray, stream) -> Iterator[av.AudioFrame]:
    frame = av.AudioFrame.from_ndarray(sound[None].astype(np.float32), format="fltp", layout="mono")
    frame.rate, frame.pts = RATE, 0
    resampler = av.AudioResampler(stream.format.name, stream.layout, RATE, frame_size=stream.frame_size)
    yield from [*resampler.resample(frame), *resampler.resample(None)]


def write_wav(path: Path, sound: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes((np.clip(sound, -1, 1) * 32767).astype("<i2").tobytes())


def write_mp4(path: Path, frames: list) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # PyAV takes a name that begins with a dash for what it is: the path is absolute.
    with av.open(str(path.resolve()), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "20", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="with data/ and videos/")
    parser.add_argument("--clips", type=int, default=8, help="for training; half as many for validation")
    parser.add_argument("--questions", type=int, default=100, help="of a clip of TVQA, at most")
    parser.add_argument("--seconds", type=float, default=60.0, help="of a clip")
    options = parser.parse_args()
    footage = Footage(options.shared / "videos")
    make_tvqa(options.out / "tvqa", options.shared, footage, options.clips, options.seconds, options.questions)
    make_social_iq2(options.out / "social_iq2", options.shared, footage, options.clips, options.seconds)
    print(f"{options.out}/tvqa (also for tvqa_plus) and {options.out}/social_iq2")


if __name__ == "__main__":
    main()
