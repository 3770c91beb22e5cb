import pytest

from preprocessing.subtitles import Cue, in_ascii, plain, read_cues, subtitle_file, subtitle_of_segments

SRT = "1\n00:00:00,500 --> 00:00:01,500\n<i>Caf\u00e9</i>\nau lait\n\n2\n00:00:04,000 --> 00:00:06,000\nTea\n"
VTT = "WEBVTT\n\n00:00:01.000 --> 00:00:02.000\n<v Ann>Fish &amp; chips</v>\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "utf-16"])
def test_an_srt_beside_the_video_is_read(tmp_path, encoding):
    (tmp_path / "a.srt").write_bytes(SRT.encode(encoding))
    cues, problem = read_cues(subtitle_file(tmp_path / "a.mp4"))
    assert cues == [Cue(0.5, 1.5, "Caf\u00e9 au lait"), Cue(4.0, 6.0, "Tea")] and problem is None


def test_a_vtt_is_read_and_an_srt_preferred(tmp_path):
    (tmp_path / "a.vtt").write_text(VTT)
    assert read_cues(subtitle_file(tmp_path / "a.mp4"))[0] == [Cue(1.0, 2.0, "Fish & chips")]
    (tmp_path / "a.srt").write_text(SRT)
    assert len(read_cues(subtitle_file(tmp_path / "a.mp4"))[0]) == 2


@pytest.mark.parametrize("name", ["a.srt", "a.vtt"])
@pytest.mark.parametrize("content", [b"\x00\xff\x13garbage\xfe" * 40, b"just words\n", b"1\n99 --> what\nHello\n"])
def test_a_corrupt_file_is_a_problem_that_names_it(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    cues, problem = read_cues(subtitle_file(tmp_path / "a.mp4"))
    assert cues == [] and name in problem


def test_an_empty_file_is_a_video_in_which_nobody_speaks(tmp_path):
    (tmp_path / "a.srt").touch()
    assert read_cues(subtitle_file(tmp_path / "a.mp4")) == ([], None)


def test_subtitles_inside_the_file_equal_those_beside_it(videos, tmp_path):
    alone = tmp_path / "alone.mp4"
    alone.symlink_to(videos / "nasa_13013.mp4")
    inside, problem = read_cues(alone)
    beside, _ = read_cues(subtitle_file(videos / "nasa_13013.mp4"))
    assert problem is None and len(inside) == 4
    assert [cue.text for cue in inside] == [cue.text for cue in beside]
    assert [cue.start for cue in inside] == pytest.approx([cue.start for cue in beside], abs=0.002)
    assert [cue.end for cue in inside] == pytest.approx([cue.end for cue in beside], abs=0.002)


def test_a_cue_belongs_to_the_segment_that_contains_its_middle():
    cues = [Cue(6.0, 9.0, "c"), Cue(3.0, 5.0, "b"), Cue(0.0, 1.0, "a"), Cue(4.0, 6.0, "on the border")]
    assert subtitle_of_segments(cues, [0.0, 5.0], [5.0, 10.0]) == ["a b", "on the border c"]


def test_markup_is_removed_and_comparison_signs_stay():
    assert plain(r"{\an8}<b>a < b</b>\Nand c") == "a < b and c"


def test_the_originals_text_is_ascii_without_the_marks_of_unknown_speakers():
    assert plain("(<UNKNAME>:)I\u2019m <i>fine</i>,\nSheldon.") == "I'm fine, Sheldon."
    assert plain("(Sheldon:)Caf\u00c3\u00a9?") == "(Sheldon:)Caf\u00e9?"  # UTF-8 that was read as latin-1
    assert in_ascii([Cue(0.0, 1.0, "Caf\u00e9 \u2013 na\u00efve")]) == [Cue(0.0, 1.0, "Cafe - naive")]
