import av
import numpy as np
import pytest
from clips import make_clip, nobody, walking_square

from preprocessing.decode_video import SampledFrames, kept_size, open_video
from preprocessing.problems import VideoError


def gray_steps(count, step=4):
    """Frames whose gray level says which one they are."""
    return (np.full((32, 48, 3), 20 + step * i, np.uint8) for i in range(count))


@pytest.mark.parametrize("suffix, fps", [(".mp4", 10), (".mkv", 10), (".avi", 10), (".mp4", 30), (".mkv", 2)])
def test_frames_at_three_per_second_are_the_last_that_began(tmp_path, suffix, fps):
    codec = "ffv1" if suffix == ".avi" else "libx264"
    clip = make_clip(tmp_path / f"steps{suffix}", gray_steps(50), fps=fps, codec=codec)
    sampled = SampledFrames(clip, 3.0)
    frames = list(sampled)
    assert sampled.seconds == pytest.approx(50 / fps, abs=0.002)
    assert sampled.problem is None
    assert [time for time, _ in frames] == pytest.approx(np.arange(np.ceil(50 / fps * 3)) / 3)
    shown = [round((frame.mean() - 20) / 4) for _, frame in frames]
    assert shown == [int(time * fps + 1e-6) for time, _ in frames]


def test_frames_are_reduced_never_enlarged():
    assert kept_size(160.0, 90) == (160, 90)
    assert kept_size(1920.0, 1080) == (800, 450)
    assert kept_size(1080.0, 1920) == (450, 800)
    assert kept_size(2000.0, 500) == (800, 200)


def test_a_video_filmed_on_its_side_stands_upright(tmp_path):
    frames = [np.concatenate([np.full((32, 24, 3), 250, np.uint8), np.full((32, 24, 3), 10, np.uint8)], 1)] * 5
    clip = make_clip(tmp_path / "turned.mp4", frames, turned=90)
    (_, image), *_ = SampledFrames(clip, 3.0)
    assert image.shape == (48, 32, 3)
    assert image[-10:].mean() > 200 and image[:10].mean() < 50  # the left side, turned counterclockwise, is below


def test_times_count_from_the_start_of_the_pictures(videos):
    sampled = SampledFrames(videos / "hamilton_short.mp4", 3.0)  # its first picture comes 0.85 s after its sound
    frames = list(sampled)
    assert frames[0][0] == 0 and len(frames) == 28
    assert sampled.seconds == pytest.approx(275 / 29.97, abs=0.01)


def test_a_file_cut_in_the_middle_gives_what_it_holds(tmp_path):
    clip = make_clip(tmp_path / "whole.mkv", walking_square(9))
    data = clip.read_bytes()
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(data[: len(data) * 6 // 10])
    sampled = SampledFrames(cut, 3.0)
    assert 5 < len(list(sampled)) < 27
    assert "of 9.0 s declared" in sampled.problem


@pytest.mark.parametrize(
    "content, says", [(b"", "is empty (0 bytes)"), (b"words\n" * 99, "not a readable video"), (None, "No such file")]
)
def test_an_unreadable_file_is_named_in_one_sentence(tmp_path, content, says):
    path = tmp_path / "bad.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(VideoError, match="bad.mp4") as error, open_video(path):
        pass
    assert says in str(error.value) and "\n" not in str(error.value)


def test_sound_alone_is_not_a_video(videos):
    with pytest.raises(VideoError, match="no video stream"):
        list(SampledFrames(videos / "jfk.flac", 3.0))


def test_a_file_without_any_picture_is_refused(tmp_path):
    path = tmp_path / "none.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.height = stream.width = 32
        container.start_encoding()
    with pytest.raises(VideoError, match="none.mp4"):
        list(SampledFrames(path, 3.0))


def test_a_still_end_repeats_the_last_frame(tmp_path):
    clip = make_clip(tmp_path / "slow.mp4", nobody(2, fps=1), fps=1)
    assert [round(time, 2) for time, _ in SampledFrames(clip, 3.0)] == [0, 0.33, 0.67, 1, 1.33, 1.67]
