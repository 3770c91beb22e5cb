"""How fast records become batches of the base configuration, what takes the time, and whether memory stays flat.

    python benchmarks/feeding.py --videos FOLDER
    python benchmarks/feeding.py --memory 10000

The first writes records such as `mmdiff preprocess` makes of TVQA: clips of 75 s with seven windows of seven segments,
a frame of 640x360 for each segment at JPEG quality 95, six boxes in each, subtitles. The pixels are frames of the videos
in FOLDER; without it, noise of the same size in bytes. It reads them with 1, 2 and 4 threads in the shape of
configs/tvqa.py, and then once in one thread under a profiler. Examples per second of a core count the CPU time of the
whole process: other work on the machine does not change them much.

The second takes so many batches, of four small records each, and prints the process's resident memory as it goes.
"""

import argparse
import cProfile
import itertools
import pstats
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import psutil
import tensorflow_datasets as tfds

from mmdiff.data import loader, patch_boxes, records, video_examples
from mmdiff.data.tokenizer import Tokenizer, train_tokenizer
from mmdiff.masking.strategies import MaskingConfig
from mmdiff.models.reserve import ReserveConfig
from mmdiff.training.pretrain import example_maker

WINDOWS, SEGMENTS, PEOPLE = 7, 7, 3
NEEDED = {"a v2-8 by the original's logs": 29.5, "a v2-8 by the cost model": 52.0}  # examples a second
SENTENCE = (
    "well i do not think that we should go back there tonight , she said , and what would you do if it was you ? "
)
# Of an example, what is spent in these and what they call.
PARTS = {
    "read the record from disk": ("__getitem__", "data_source"),
    "its fields as arrays": (records.decode, None),
    "decode JPEG": (video_examples.decode_frame, None),
    "resize and crop": (video_examples.crop_frame, None),
    "boxes to patches": (patch_boxes.patches_in_boxes, None),
    "tokens": (video_examples.text_sequence, None),
    "all of one window": (video_examples.video_example, None),
    "stack": (loader.stack, None),
}


class Clips(tfds.core.GeneratorBasedBuilder):
    """Records that are given."""

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, made, **options):
        self._made = made
        super().__init__(**options)

    def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=records.features())

    def _split_generators(self, dl_manager):
        return {"train": ((record.id, records.encode(record)) for record in self._made)}

    def _generate_examples(self):
        raise NotImplementedError("the split comes ready")


def pictures(videos: Path | None, width: int, height: int):
    """Endless frames: a few of each second of the videos, or noise on a smooth ground."""
    if videos is None:
        rng = np.random.default_rng(0)
        while True:
            ground = cv2.resize(
                rng.integers(0, 255, (9, 16, 3), np.uint8), (width, height), interpolation=cv2.INTER_CUBIC
            )
            yield np.clip(ground + rng.normal(0, 6, ground.shape), 0, 255).astype(np.uint8)
    import av

    kept = []
    for path in sorted(videos.iterdir()):
        if path.suffix not in (".mkv", ".mp4"):
            continue
        with av.open(str(path)) as video:
            for number, frame in enumerate(video.decode(video=0)):
                if number % 10 == 0:
                    kept.append(frame.to_ndarray(format="bgr24", width=width, height=height))
                if len(kept) >= 400:
                    break
    yield from itertools.cycle(kept)


def clip(number: int, images, segments: int) -> records.Record:
    """One record: `segments` of each window have frames, boxes and text of their own."""
    rng = np.random.default_rng(number)
    count = WINDOWS * segments
    jpegs = [cv2.imencode(".jpg", next(images), [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes() for _ in range(count)]
    corner = rng.uniform(0, 0.5, (count * PEOPLE, 2))
    body = np.concatenate([corner, corner + rng.uniform(0.2, 0.5, (count * PEOPLE, 2))], axis=1).astype(np.float32)
    face = np.concatenate([body[:, :2], body[:, :2] + 0.1], axis=1)
    start = np.arange(count, dtype=np.float32) * np.float32(records.SECONDS_PER_SEGMENT)
    frames = np.repeat(np.arange(count, dtype=np.int32), PEOPLE)
    return records.Record(
        id=f"clip{number}",
        video=f"clip{number}.mkv",
        frames=jpegs,
        frame_times=start + 2,
        boxes=records.Boxes(
            frame=np.tile(frames, 2),
            box=np.concatenate([body, face]),
            label=["person"] * 2 * len(body),
            part=["body"] * len(body) + ["face"] * len(body),
            score=np.ones(2 * len(body), np.float32),
            track=np.tile(np.arange(PEOPLE, dtype=np.int32), 2 * count),
            source=["derived"] * len(body) + ["detected"] * len(body),
        ),
        segments=records.Segments(
            start=start,
            end=start + np.float32(records.SECONDS_PER_SEGMENT),
            frame=np.arange(count, dtype=np.int32),
            has_audio=np.ones(count, bool),
            mel=rng.integers(0, 200, (count, 3, 60, 64)).astype(np.uint8),
            subtitle=[SENTENCE * 2] * count,
        ),
        mel_scale=29.0,
        windows=np.array([[segments * i, segments] for i in range(WINDOWS)], np.int32),
        questions=[records.Question(f"q{i}", SENTENCE, [SENTENCE] * 5, 0, 0.0, 10.0, i) for i in range(WINDOWS)],
    )


def write(folder: Path, count: int, images, segments: int) -> None:
    tfds.disable_progress_bar()
    made = (clip(number, images, segments) for number in range(count))
    Clips(made, data_dir=str(folder), file_format="array_record").download_and_prepare()
    train_tokenizer([SENTENCE] * 3, 400, folder / "tokenizer.json")


def maker(folder: Path, segments: int, text_length: int, rows: int, columns: int):
    """(record, window, rng) -> an example, as a run with this strategy makes it."""
    tokenizer = Tokenizer(folder / "tokenizer.json")
    data = video_examples.DataConfig(str(folder), str(folder / "tokenizer.json"), segments, text_length)
    sizes = ReserveConfig(64, 1, 1, 1, 1, vocab_size=tokenizer.size, image_grid=(rows, columns))
    return example_maker(data, MaskingConfig(), lambda label, part: 1.0, sizes, tokenizer)


def rates(folder: Path, make, batch_size: int, seconds: float) -> float:
    """Prints the rate with 1, 2 and 4 threads; returns examples per second of CPU time with two."""
    print(f"{'threads':>8} {'examples/s':>11} {'cores busy':>11} {'examples/s of a core':>21}")
    per_core = {}
    for threads in (1, 2, 4):
        batches = loader.training_batches(str(folder), make, batch_size, 0, threads, 0, 1)
        for _ in range(2):
            next(batches)
        began, used, taken = time.perf_counter(), time.process_time(), 0
        while time.perf_counter() - began < seconds:
            next(batches)
            taken += batch_size
        wall, cpu = time.perf_counter() - began, time.process_time() - used
        batches.close()
        per_core[threads] = taken / cpu
        print(f"{threads:>8} {taken / wall:>11.1f} {cpu / wall:>11.2f} {taken / cpu:>21.1f}")
    return per_core[2]


def shares(folder: Path, make, count: int, batch_size: int) -> None:
    """Prints where the time of an example goes, in one thread."""
    source = records.read_split(str(folder), "train")
    rng = np.random.default_rng(0)

    def batch(first: int) -> None:
        made = []
        for number in range(first, first + batch_size):
            record = records.decode(source[number % len(source)])
            made.append(make(record, int(rng.integers(len(record.windows))), rng))
        loader.stack(made)

    batch(0)
    profile = cProfile.Profile(time.process_time)
    profile.enable()
    for first in range(0, count, batch_size):
        batch(first)
    profile.disable()
    stats = pstats.Stats(profile).stats
    total = sum(own for _, _, own, _, _ in stats.values())
    print(f"\n{1000 * total / count:.2f} ms of CPU an example, profiled; of it")
    for part, (function, file) in PARTS.items():
        name = function if file else function.__name__
        where = file or Path(function.__code__.co_filename).name
        spent = [
            cumulative
            for (path, _, called), (_, _, _, cumulative, _) in stats.items()
            if called == name and where in path
        ]
        print(f"{100 * max(spent, default=0) / total:>6.1f}%  {part}")


def memory(folder: Path, make, batches_taken: int, every: int) -> None:
    """Prints resident memory as batches are taken."""
    process = psutil.Process()
    batches = loader.training_batches(str(folder), make, 4, 0, 2, 0, 1)
    print(f"{'batches':>8} {'resident MB':>12}")
    for number in range(1, batches_taken + 1):
        next(batches)
        if number % every == 0:
            print(f"{number:>8} {process.memory_info().rss / 2**20:>12.1f}", flush=True)
    batches.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=Path, help="a folder of .mkv or .mp4 files")
    parser.add_argument("--records", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=8.0, help="of measuring at each number of threads")
    parser.add_argument("--memory", type=int, metavar="BATCHES")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        if options.memory:
            write(folder, options.records, pictures(None, 64, 36), 1)
            memory(folder, maker(folder, 1, 48, 2, 4), options.memory, max(options.memory // 20, 1))
            return
        write(folder, options.records, pictures(options.videos, 640, 360), SEGMENTS)
        size = sum(path.stat().st_size for path in folder.rglob("*array_record*"))
        pixels = f"frames of {options.videos}" if options.videos else "noise"
        print(f"{options.records} records of {size / options.records / 2**20:.1f} MB, {pixels}")
        make = maker(folder, SEGMENTS, 256, 12, 24)
        per_core = rates(folder, make, options.batch_size, options.seconds)
        for what, rate in NEEDED.items():
            print(f"{rate:g} examples/s, what {what} trains, take {rate / per_core:.2f} cores")
        shares(folder, make, 200, options.batch_size)


if __name__ == "__main__":
    main()
