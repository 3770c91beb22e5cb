"""Videos per minute of `mmdiff preprocess` against the plain way in one run, where the time goes, and peak memory.

    python benchmarks/preprocess_cost.py --videos FOLDER
    python benchmarks/preprocess_cost.py --videos FOLDER --every-frame --copies 1 --rounds 1
    python benchmarks/preprocess_cost.py --videos FOLDER --memory

The plain way is what one writes first: cv2.VideoCapture over every frame, three frames of each second (with
--every-frame, all of them) one by one to facenet-pytorch's MTCNN(keep_all=True), every one of these written as a JPEG; one
process, with as many threads as PyTorch takes. It finds faces, and nothing else; it reads no sound, follows nobody, and takes the first video stream of a file
where `mmdiff preprocess` takes the best. The two take turns, each in a process of its own, whose start counts. Every
video is there --copies times, so that the longest does not keep one worker busy alone.

--memory repeats videos to half an hour (their packets are copied) and prints the most memory that the worker process
ever held, beside that for the video as it is.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine_load import MachineLoad

VIDEOS = ("asl_walk.mkv", "hamilton_short.mp4", "nasa_13013.mp4", "one_by_one_person.mp4")
FPS = 3.0
LONG = 1800.0  # seconds
PICTURES = 60  # of a clip, at which the cascades are compared
TRIVIAL = "preprocess_cost:Everywhere"
REPEATED = (  # a clip without sound and one with; the detector that is to be used
    ("one_by_one_person.mp4", TRIVIAL),
    ("hamilton_short.mp4", TRIVIAL),
    ("one_by_one_person.mp4", "face_body"),
)


class Everywhere:
    """Three people in every picture, at no cost."""

    def boxes(self, frames):
        from preprocessing.detect_people import LabelledBox

        return [
            [LabelledBox(10.0, 60.0 * i, 100.0, 60.0 * i + 40, "person", "body", 0.9) for i in range(3)] for _ in frames
        ]


def plainly(folder: Path, out: Path, every: bool) -> dict:
    """Faces and frames of every video of a folder, as one would write it first. Seconds by stage."""
    import cv2
    import torch
    from facenet_pytorch import MTCNN

    mtcnn = MTCNN(keep_all=True)
    took = dict.fromkeys(("decode", "face", "write"), 0.0)
    counts = {"frames": 0, "boxes": 0}
    for path in sorted(folder.iterdir()):
        video = cv2.VideoCapture(str(path))
        rate = video.get(cv2.CAP_PROP_FPS)
        read = sampled = 0
        while True:
            began = time.perf_counter()
            there, frame = video.read()
            took["decode"] += time.perf_counter() - began
            if not there:
                break
            if every or read >= sampled * rate / FPS:
                began = time.perf_counter()
                boxes, _ = mtcnn.detect(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
                took["face"] += time.perf_counter() - began
                began = time.perf_counter()
                cv2.imwrite(str(out / f"{path.name}_{sampled:05d}.jpg"), frame)
                took["write"] += time.perf_counter() - began
                sampled += 1
                counts["boxes"] += 0 if boxes is None else len(boxes)
            read += 1
        counts["frames"] += sampled
    return {"took": took, **counts, "threads": torch.get_num_threads()}


def with_mmdiff(folder: Path, out: Path, workers: int, detector: str) -> dict:
    """The same by `mmdiff preprocess`: with bodies, tracks, sound and records."""
    from preprocessing.build import preprocess
    from preprocessing.options import Options

    summary = preprocess(folder, out, Options(workers=workers, detector=detector, fps=FPS), progress=False)
    assert not summary.problems, summary.describe()
    return {"took": summary.seconds_of_workers, "frames": summary.frames, "boxes": summary.boxes["face"]}


def in_a_process(*words: str) -> dict:
    """Runs this file with the words as its arguments; what it printed, and the seconds from its start to its end."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    began = time.perf_counter()
    done = subprocess.run([sys.executable, __file__, *words], env=environment, stdout=subprocess.PIPE, check=True)
    return {**json.loads(done.stdout.splitlines()[-1]), "seconds": time.perf_counter() - began}


def compare(videos: Path, rounds: int, copies: int, workers: int, every: bool) -> None:
    """Prints the ratio of each round, where the time goes, and memory."""
    load = MachineLoad()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / "videos").mkdir()
        for name in VIDEOS:
            for copy in range(copies):
                shutil.copy(videos / name, folder / "videos" / f"{copy}_{name}")
        count = copies * len(VIDEOS)
        ratios, kept = [], {}
        for index in range(rounds):
            for way in ("plain", "mmdiff") if index % 2 == 0 else ("mmdiff", "plain"):
                out = folder / way
                out.mkdir()
                words = [
                    "--only",
                    way,
                    "--videos",
                    str(folder / "videos"),
                    "--out",
                    str(out),
                    "--workers",
                    str(workers),
                ]
                kept[way] = in_a_process(*words, *["--every-frame"] * every)
                shutil.rmtree(out)
            rates = {way: 60 * count / result["seconds"] for way, result in kept.items()}
            ratios.append(rates["mmdiff"] / rates["plain"])
            print(
                f"round {index + 1}: plain {rates['plain']:.2f}, mmdiff preprocess with {workers} workers "
                f"{rates['mmdiff']:.2f} videos a minute: {ratios[-1]:.2f} times",
                flush=True,
            )
    print(f"ratio: min {min(ratios):.2f}, median {statistics.median(ratios):.2f}, max {max(ratios):.2f}")
    print(load.describe())
    for way, result in kept.items():
        total = sum(result["took"].values())
        shares = ", ".join(f"{stage} {seconds / total:.1%}" for stage, seconds in result["took"].items())
        print(
            f"{way}: {result['frames']} pictures, {result['boxes']} faces; of {total:.1f} s in "
            f"{f'{workers} workers' if way == 'mmdiff' else str(result['threads']) + ' threads'}: {shares}; "
            f"{result['cpu']:.0f} s of CPU in all; peak memory {result['peak']} MB"
            + f", of a worker {result['peak_of_worker']} MB"
            * (way == "mmdiff")
        )


def share_of_bodies(videos: Path) -> None:
    """Prints how much of `face_body` is faces, and how much the bodies that are derived from them."""
    from preprocessing.decode_video import SampledFrames
    from preprocessing.derive_bodies import with_bodies
    from preprocessing.detect_people import build_detector
    from preprocessing.options import Options

    detector = build_detector(Options(detector="mtcnn"))
    frames = [frame for _, frame in SampledFrames(videos / "hamilton_short.mp4", FPS)]
    began = time.process_time()
    faces = detector.boxes(frames)
    between = time.process_time()
    for frame, found in zip(frames, faces, strict=True):
        with_bodies(found, *frame.shape[:2])
    ended = time.process_time()
    print(
        f"of face_body: faces {(between - began) / (ended - began):.2%}, bodies {(ended - between) / (ended - began):.2%}"
    )


def against_facenet(videos: Path) -> None:
    """Prints how much faster our cascade is than facenet-pytorch's, on one thread, pictures taken in turn."""
    import torch
    from facenet_pytorch import MTCNN

    from preprocessing.decode_video import SampledFrames
    from preprocessing.detect_people import build_detector
    from preprocessing.options import Options

    ours, theirs = build_detector(Options(detector="mtcnn")), MTCNN(keep_all=True)
    torch.set_num_threads(1)
    for name in VIDEOS:
        frames = [frame for _, frame in SampledFrames(videos / name, FPS)][:PICTURES]
        ours.boxes(frames[:2]), theirs.detect(frames[0])  # The first call makes things that stay.
        seconds = {"ours": 0.0, "theirs": 0.0}
        for pair in (frames[first : first + 2] for first in range(0, len(frames), 2)):
            began = time.process_time()
            ours.boxes(pair)
            between = time.process_time()
            for frame in pair:
                theirs.detect(frame)
            seconds["ours"] += between - began
            seconds["theirs"] += time.process_time() - between
        print(
            f"MTCNN alone, {name}, one thread: {seconds['theirs'] / seconds['ours']:.2f} times facenet-pytorch's speed"
        )


def repeat(source: Path, target: Path, seconds: float) -> Path:
    """The same pictures and sound again and again, until so many seconds are full; nothing is encoded."""
    import av

    with av.open(str(target), "w") as joined:
        streams, offset = {}, 0.0
        while offset < seconds:
            with av.open(str(source)) as clip:
                wanted = [stream for stream in (clip.streams.best("video"), clip.streams.best("audio")) if stream]
                streams = streams or {stream.index: joined.add_stream_from_template(stream) for stream in wanted}
                for packet in clip.demux(wanted):
                    if packet.dts is None:
                        continue
                    ticks = round(offset / packet.time_base)
                    packet.pts, packet.dts = packet.pts + ticks, packet.dts + ticks
                    packet.stream = streams[packet.stream.index]
                    joined.mux(packet)
                offset += clip.duration / av.time_base
    return target


def memory(videos: Path) -> None:
    """Prints the peak memory of a worker for videos as they are and for half an hour of them."""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        for name, detector in REPEATED:
            for length in ("as it is", "half an hour"):
                data, out = folder / "videos", folder / "out"
                data.mkdir()
                if length == "as it is":
                    shutil.copy(videos / name, data)
                else:
                    repeat(videos / name, data / name, LONG)
                result = in_a_process(
                    "--only",
                    "mmdiff",
                    "--videos",
                    str(data),
                    "--out",
                    str(out),
                    "--workers",
                    "1",
                    "--detector",
                    detector,
                )
                print(
                    f"{name} {length}, {detector}: {result['frames']} pictures in {result['seconds']:.0f} s, peak "
                    f"{result['peak_of_worker']} MB in the worker, {result['peak']} MB in its parent",
                    flush=True,
                )
                shutil.rmtree(data)
                shutil.rmtree(out)


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=Path, required=True, help="folder that holds " + ", ".join(VIDEOS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--copies", type=int, default=4)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--every-frame", action="store_true", help="the plain way hands all frames to MTCNN")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--only", choices=("plain", "mmdiff"), help="one way, once; prints JSON")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--detector", default="face_body")
    given = parser.parse_args()
    if given.only:
        result = (
            plainly(given.videos, given.out, given.every_frame)
            if given.only == "plain"
            else with_mmdiff(given.videos, given.out, given.workers, given.detector)
        )
        own, workers = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        result |= {"peak": own.ru_maxrss // 1024, "peak_of_worker": workers.ru_maxrss // 1024}
        result["cpu"] = own.ru_utime + own.ru_stime + workers.ru_utime + workers.ru_stime
        print(json.dumps(result))
    elif given.memory:
        memory(given.videos)
    else:
        compare(given.videos, given.rounds, given.copies, given.workers, given.every_frame)
        share_of_bodies(given.videos)
        against_facenet(given.videos)


if __name__ == "__main__":
    main()
