"""What is wrong with other people's files, one fact each. Mutations by the hundred: benchmarks/mutated_videos.py."""

import errno
import fractions
import functools
import json
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from clips import make_clip, nobody, walking_square

from preprocessing import decode_video
from preprocessing.decode_audio import decode_audio
from preprocessing.decode_images import ImageFrames
from preprocessing.decode_video import SampledFrames, open_video
from preprocessing.problems import VideoError
from preprocessing.subtitles import read_cues

MUTATED_VIDEOS = Path(__file__).resolve().parents[2] / "benchmarks" / "mutated_videos.py"
STEP = 8  # gray levels from one picture to the next


def grays(count, size=(48, 32)):
    return [np.full((size[1], size[0], 3), 20 + STEP * i, np.uint8) for i in range(count)]


def write(path, pictures, ticks=None, rate=10, unit=1000, codec="libx264", form="yuv420p", **options):
    """A video whose pictures stand at `ticks` of 1 / `unit` seconds."""
    ticks = ticks or [i * unit // rate for i in range(len(pictures))]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = form
        stream.time_base = stream.codec_context.time_base = fractions.Fraction(1, unit)
        for tick, picture in zip(ticks, pictures, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = tick, stream.time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def shown(path, fps):
    """Which of `grays` stands at every sampled time."""
    return [round((float(image.mean()) - 20) / STEP) for _, image in SampledFrames(path, fps)]


def sentence_of(path):
    """What is said of a file that is refused for good."""
    with pytest.raises(VideoError) as error:
        list(SampledFrames(path, 3.0))
    assert not error.value.transient
    return error.value.problem.problem


# Files that are something else


def test_archives_pictures_and_texts_with_the_name_of_a_video_are_refused(tmp_path):
    path = tmp_path / "x.mp4"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("words.txt", "words " * 500)
    assert "is not a readable video" in sentence_of(path)
    for suffix in (".jpg", ".png"):
        path.write_bytes(cv2.imencode(suffix, np.zeros((50, 50, 3), np.uint8))[1].tobytes())
        assert sentence_of(path) == "is a picture and not a video"
    path.write_text("1\n00:00:00,000 --> 00:00:01,000\nwords\n")
    assert "has no video stream (it holds subtitle)" in sentence_of(path)


def test_folders_pipes_and_links_in_a_circle_are_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "circle.mp4").symlink_to(tmp_path / "circle.mp4")
    (tmp_path / "nowhere.mp4").symlink_to(tmp_path / "nothing")
    assert "is not a file but" in sentence_of(tmp_path / "pipe.mp4")
    assert "is not a file but" in sentence_of(tmp_path / "folder.mp4")
    assert "symbolic links" in sentence_of(tmp_path / "circle.mp4")
    assert "No such file" in sentence_of(tmp_path / "nowhere.mp4")


@pytest.mark.parametrize("cover", [False, True])
def test_sound_alone_is_not_a_video_even_with_a_picture_of_its_cover(tmp_path, cover):
    path = tmp_path / "song.mka"
    with av.open(str(path), "w") as container:
        if cover:
            picture = container.add_attachment(
                "cover.png", "image/png", cv2.imencode(".png", np.zeros((20, 20, 3), np.uint8))[1].tobytes()
            )
            assert picture
        sound = container.add_stream("flac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), format="s16", layout="mono")
        frame.rate, frame.pts = 8000, 0
        container.mux(sound.encode(frame))
        container.mux(sound.encode())
    with pytest.raises(VideoError, match="has no video stream"):
        list(SampledFrames(path, 3.0))


@pytest.mark.parametrize(
    "script",
    [
        "ffconcat version 1.0\nfile secret.mkv\n",
        "ffconcat version 1.0\nfile '{folder}/secret.mkv'\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{folder}/secret.mkv\n#EXT-X-ENDLIST\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nsecret.ts\n#EXT-X-ENDLIST\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
    ],
)
def test_a_playlist_reaches_no_other_file_and_no_network(tmp_path, script):
    write(tmp_path / "secret.mkv", grays(5))
    write(tmp_path / "secret.ts", grays(5))
    for name in ("x.mp4", "x.m3u8"):
        (tmp_path / name).write_text(script.format(folder=tmp_path))
        assert sentence_of(tmp_path / name)


@pytest.mark.parametrize(
    "name",
    ["a b.mp4", "-i.mp4", "é 日本.mp4", "two\nlines.mp4", "%03d.mp4", "100%.mp4", "concat:a|b.mp4", "pipe:0.mp4"]
    + ["http:x.mp4", "file:x.mp4", "data:x.mp4", "'\"$(x).mp4", "[1].mp4", os.fsdecode(b"\xff\xfe.mp4")],
)
def test_a_name_is_the_name_of_a_file_whatever_it_looks_like(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("plain.mp4", grays(3))
    os.rename("plain.mp4", name)
    assert shown(Path(name), 10.0) == shown(tmp_path / name, 10.0) == [0, 1, 2]
    decode_audio(Path(name), 22_620, 1.0)


# Files that cannot be read, or not to their end


@pytest.mark.parametrize("number, transient", [(errno.EACCES, False), (errno.EIO, True), (errno.EMFILE, True)])
def test_a_file_that_cannot_be_opened_is_reported_and_tried_again_only_where_that_may_help(
    tmp_path, monkeypatch, number, transient
):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    path = write(tmp_path / "x.mp4", grays(3))
    monkeypatch.setattr(decode_video.os, "open", refuse)
    with pytest.raises(VideoError, match=os.strerror(number)) as error:
        list(SampledFrames(path, 3.0))
    assert error.value.transient is transient


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi", ".ts"])
def test_a_read_error_never_shortens_a_video(tmp_path, monkeypatch, suffix):
    """FFmpeg's demuxers take one for the end of the file."""
    codec = "mpeg4" if suffix == ".avi" else "libx264"
    path = make_clip(tmp_path / f"x{suffix}", walking_square(12), tone=12, codec=codec)
    read, size = os.read, path.stat().st_size
    monkeypatch.setattr(decode_video, "READ_AHEAD", size // 16)

    def fail(share, descriptor, count):
        if os.lseek(descriptor, 0, os.SEEK_CUR) >= share * size:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(descriptor, count)

    for share in (0.0, 0.5, 0.9):
        monkeypatch.setattr(decode_video.os, "read", functools.partial(fail, share))
        for attempt in (lambda: list(SampledFrames(path, 3.0)), lambda: decode_audio(path, 22_620, 60.0)):
            with pytest.raises(VideoError, match="could not be read to its end .Input/output error") as error:
                attempt()
            assert error.value.transient


def test_a_subtitle_file_or_an_image_that_a_disk_does_not_give_is_tried_again(tmp_path, monkeypatch):
    (tmp_path / "x.srt").symlink_to(tmp_path / "x.srt")
    with pytest.raises(VideoError, match="could not be read") as error:
        read_cues(tmp_path / "x.srt")
    assert not error.value.transient

    def fail(*_, **__):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    cv2.imwrite(str(tmp_path / "00001.jpg"), np.zeros((20, 20, 3), np.uint8))
    frames = ImageFrames(tmp_path)
    monkeypatch.setattr(np, "fromfile", fail)
    with pytest.raises(VideoError, match="Input/output error") as error:
        list(frames)
    assert error.value.transient


@pytest.mark.parametrize("change", ["grows", "is written again", "is cut"])
def test_a_file_that_changes_while_it_is_read_is_not_taken(tmp_path, change):
    path = make_clip(tmp_path / "x.mkv", walking_square(5))
    frames = iter(SampledFrames(path, 3.0))
    next(frames)
    if change == "grows":
        with path.open("ab") as file:
            file.write(b"more")
    elif change == "is cut":
        os.truncate(path, path.stat().st_size // 2)
    else:
        os.utime(path, ns=(1, 1))
    with pytest.raises(VideoError, match="changed while it was read") as error:
        list(frames)
    assert error.value.transient


def test_an_error_that_may_pass_stays_one_on_its_way_out_of_a_worker():
    error = pickle.loads(pickle.dumps(VideoError("x.mp4", "could not be read", "try again", "audio", transient=True)))
    assert error.transient and error.problem.stage == "audio"


# Odd clocks


def test_a_variable_frame_rate_keeps_its_times(tmp_path):
    ticks = [0, 100, 150, 1000, 1030, 2500, 2501, 3999]
    path = write(tmp_path / "x.mkv", grays(8), ticks, crf="4")
    expected = [sum(tick <= time for tick in ticks) - 1 for time in range(0, 4000, 200)]
    found = shown(path, 5.0)
    assert found[: len(expected)] == expected and len(found) - len(expected) <= 1


def test_a_thousand_pictures_declared_for_every_second_change_no_time(tmp_path):
    path = write(tmp_path / "x.mkv", grays(10), [100 * i for i in range(10)], rate=1000, crf="4")
    assert shown(path, 5.0)[:5] == [0, 2, 4, 6, 8]


def test_pictures_before_the_beginning_of_time_are_shown_from_the_first_on(tmp_path):
    path = write(tmp_path / "x.mkv", grays(6), [-300 + 100 * i for i in range(6)], crf="4")
    assert shown(path, 10.0)[:6] == [0, 1, 2, 3, 4, 5]


def test_a_stream_without_any_clock_is_shown_at_its_rate(tmp_path):
    path = write(tmp_path / "x.h264", grays(20), crf="4")
    sampled = SampledFrames(path, 5.0)
    assert len(list(sampled)) == round(5 * 20 / sampled.native_fps)


@pytest.mark.parametrize("jump", [50_000_000, -5_000])
def test_a_clock_that_jumps_is_taken_to_have_been_reset(tmp_path, jump):
    ticks = [100 * i for i in range(5)] + [10_000 + jump + 100 * i for i in range(5)]
    ticks = [tick + 10_000 for tick in ticks[:5]] + ticks[5:]
    path = tmp_path / "x.ts"
    write(path, grays(10), ticks, crf="4") if jump > 0 else write(path, grays(5), ticks[:5], crf="4")
    if jump < 0:  # as when a recording is joined to an older one
        write(tmp_path / "y.ts", grays(10)[5:], ticks[5:], crf="4")
        path.write_bytes(path.read_bytes() + (tmp_path / "y.ts").read_bytes())
    sampled = SampledFrames(path, 10.0)
    assert [round((image.mean() - 20) / STEP) for _, image in sampled] == list(range(10))
    assert sampled.seconds == pytest.approx(1.0, abs=0.11)


def test_a_picture_that_is_to_last_for_days_does_not(tmp_path):
    path = write(tmp_path / "x.mp4", grays(2), [0, 1_000_000_000_000])
    assert len(shown(path, 3.0)) < 10
    with av.open(str(tmp_path / "y.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=1)
        stream.width = stream.height = 32
        for packet in [*stream.encode(av.VideoFrame(32, 32, "yuv420p")), *stream.encode()]:
            packet.duration = 10**5 * packet.time_base.denominator // packet.time_base.numerator
            container.mux(packet)
    sampled = SampledFrames(tmp_path / "y.mp4", 3.0)
    assert len(list(sampled)) < 10 and sampled.declared == pytest.approx(10**5)


def test_a_clock_in_the_wrong_unit_is_refused_before_it_fills_the_disk(tmp_path):
    path = write(tmp_path / "x.mkv", grays(9), [i * 500_000 for i in range(9)])
    with pytest.raises(VideoError, match="shows 2 pictures in 1000 s: its clock is broken"):
        list(SampledFrames(path, 3.0))


# Odd pictures


@pytest.mark.parametrize("turned, quarters", [(0, 0), (90, 1), (180, 2), (270, 3), (-90, 3), (45, 0)])
def test_pictures_stand_as_players_show_them(tmp_path, turned, quarters):
    picture = np.full((32, 64, 3), 30, np.uint8)
    picture[:, :32] = 220
    path = make_clip(tmp_path / "x.mp4", [picture] * 4, turned=turned)
    sampled = SampledFrames(path, 3.0)
    (_, image), *_ = sampled
    expected = np.rot90(picture, quarters)
    assert image.shape == expected.shape and np.abs(image.astype(int) - expected).mean() < 8
    assert sampled.shown_size == expected.shape[1::-1]


@pytest.mark.parametrize(
    "suffix, codec, form",
    [(".mp4", "libx264", "yuv420p10le"), (".mkv", "ffv1", "yuv422p10le"), (".avi", "rawvideo", "bgr24")]
    + [(".mkv", "ffv1", "gray"), (".mkv", "ffv1", "gray16le"), (".mkv", "ffv1", "bgra")],
)
def test_every_depth_gives_the_same_gray(tmp_path, suffix, codec, form):
    path = write(tmp_path / f"x{suffix}", grays(10), codec=codec, form=form, **({"crf": "4"} if "264" in codec else {}))
    assert shown(path, 5.0)[:5] == [0, 2, 4, 6, 8]


def test_a_huge_picture_is_reduced(tmp_path):
    path = write(tmp_path / "x.mkv", [np.full((2250, 4000, 3), 84, np.uint8)], codec="mpeg4")
    sampled = SampledFrames(path, 3.0)
    (_, image), *_ = sampled
    assert image.shape == (450, 800, 3) and sampled.shown_size == (4000, 2250)
    assert image.mean() == pytest.approx(84, abs=3)


@pytest.mark.parametrize("side", [16_384, 65_535, 2**31 - 1])
def test_a_header_with_a_size_that_nothing_has_is_refused(tmp_path, side):
    data = write(tmp_path / "x.avi", grays(3), codec="ffv1").read_bytes()
    header = data.index(b"strf") + 12  # of BITMAPINFOHEADER: size, width, height
    path = tmp_path / "big.avi"
    path.write_bytes(data[:header] + side.to_bytes(4, "little") * 2 + data[header + 8 :])
    assert sentence_of(path)


def test_pictures_larger_than_any_camera_makes_are_refused_before_memory_is_taken(tmp_path, monkeypatch):
    for suffix, codec in [(".mp4", "libx264"), (".mkv", "ffv1"), (".ts", "libx264"), (".avi", "mjpeg")]:
        form = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        path = write(tmp_path / f"x{suffix}", grays(3), codec=codec, form=form)
        monkeypatch.setattr(decode_video, "MOST_PIXELS", 64 * 64)
        assert len(list(SampledFrames(path, 10.0))) == 3
        monkeypatch.setattr(decode_video, "MOST_PIXELS", 48 * 32 - 1)
        assert sentence_of(path) in ("declares pictures of 48x32 pixels", "holds no picture that can be decoded")


def test_pictures_that_change_their_size_midway_keep_the_first(tmp_path):
    one = write(tmp_path / "one.ts", grays(10), rate=5, crf="4")
    two = write(tmp_path / "two.ts", grays(20, (96, 80))[10:], rate=5, crf="4")
    path = tmp_path / "both.ts"
    path.write_bytes(one.read_bytes() + two.read_bytes())
    images = [image for _, image in SampledFrames(path, 5.0)]
    assert {image.shape for image in images} == {(32, 48, 3)}
    assert [round((image.mean() - 20) / STEP) for image in images] == list(range(20))


def test_pixels_that_are_not_square_are_shown_square_unless_they_are_absurd(tmp_path):
    for ratio, width in [(fractions.Fraction(2, 1), 96), (fractions.Fraction(1000, 1), 48)]:
        path = tmp_path / f"{width}.mkv"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=10)
            stream.width, stream.height, stream.codec_context.sample_aspect_ratio = 48, 32, ratio
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grays(1)[0], format="rgb24")))
            container.mux(stream.encode())
        sampled = SampledFrames(path, 3.0)
        (_, image), *_ = sampled
        assert image.shape == (32, width, 3) and sampled.shown_size == (width, 32)


def test_of_several_video_streams_one_is_shown(tmp_path):
    path = tmp_path / "x.mkv"
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("libx264", rate=10) for _ in range(2)]
        for stream, side in zip(streams, (32, 64), strict=True):
            stream.width = stream.height = side
        for stream in streams:
            picture = np.full((stream.height, stream.width, 3), stream.width, np.uint8)
            for _ in range(10):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())
    images = [image for _, image in SampledFrames(path, 5.0)]
    assert len(images) == 5 and len({image.shape for image in images}) == 1


def test_pictures_of_one_pixel_are_pictures(tmp_path):
    path = write(tmp_path / "x.mkv", [np.full((1, 1, 3), 84, np.uint8)] * 3, codec="ffv1", form="bgr0")
    assert [image.shape for _, image in SampledFrames(path, 10.0)] == [(1, 1, 3)] * 3


def test_a_video_cut_anywhere_is_decoded_or_refused(tmp_path):
    for suffix, codec in [(".mp4", "libx264"), (".mkv", "libx264"), (".avi", "mpeg4"), (".ts", "libx264")]:
        data = make_clip(tmp_path / f"whole{suffix}", nobody(2), tone=2, codec=codec).read_bytes()
        for tenth in range(1, 10):
            path = tmp_path / f"cut{suffix}"
            path.write_bytes(data[: len(data) * tenth // 10])
            try:
                assert len(list(SampledFrames(path, 3.0))) <= 7
                decode_audio(path, 22_620, 2.0)
            except VideoError as error:
                assert not error.transient


def test_damage_that_a_decoder_covers_up_is_told(tmp_path):
    path = make_clip(tmp_path / "x.mp4", walking_square(2))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes(data)
    sampled = SampledFrames(path, 3.0)
    assert len(list(sampled)) == 6 and "pictures are damaged in part" in sampled.problem


def test_a_container_is_closed_where_its_reader_stops_early(tmp_path):
    path = make_clip(tmp_path / "x.mkv", walking_square(3))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        frames = iter(SampledFrames(path, 3.0))
        next(frames)
        frames.close()
        with open_video(path):
            pass
    assert len(os.listdir("/proc/self/fd")) == before


def test_broken_copies_are_decoded_or_refused():
    """A small run of the benchmark, which gives every file a process of its own."""
    run = subprocess.run(
        [sys.executable, MUTATED_VIDEOS, "--count", "40", "--seed", "3"], check=False, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout + run.stderr
    found = json.loads(run.stdout)
    assert found["whole"] + found["partly"] + found["refused"] == 40 and min(found["partly"], found["refused"]) > 4


def test_a_crash_a_hang_and_another_error_are_seen_as_what_they_are(tmp_path):
    script = f"""
import os, sys, time
sys.path.insert(0, {str(MUTATED_VIDEOS.parent)!r})
import mutated_videos
def fail(path): raise KeyError("x")
for read in (lambda path: os.abort(), lambda path: time.sleep(9), fail, lambda path: {{"x": bytearray(1 << 34)}}):
    mutated_videos.read = read
    print(mutated_videos.outcome_of("x", 0.5)["outcome"])
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["crash", "hang", "escaped", "escaped"]
