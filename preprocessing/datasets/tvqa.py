"""TVQA: five answers, a time span, subtitles, frames at 3 fps, and sound, of 21,793 clips of six TV shows."""

import functools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType

from preprocessing.clip import Media
from preprocessing.datasets.dataset import TEST, TRAIN, VALIDATION, FilePerSplit, Official, Row, json_lines
from preprocessing.questions import Asked, checked, clip_name, read_span
from preprocessing.subtitles import Cue, plain

SHOWS = {  # as the annotation spells them
    "Grey's Anatomy": "grey",
    "How I Met You Mother": "met",  # the annotation's own spelling
    "How I Met Your Mother": "met",
    "Friends": "friends",
    "The Big Bang Theory": "bbt",
    "House M.D.": "house",
    "Castle": "castle",
}
PREFIXES = ("castle", "friends", "grey", "house", "met")  # of clips' names; those of The Big Bang Theory have none
ANSWERS = 5
PREPROCESSED = "tvqa_preprocessed_subtitles.jsonl"  # of TVR: in the place of the .srt files


class Tvqa(FilePerSplit):
    """Lei et al. 2018, https://arxiv.org/abs/1809.01696."""

    name = "tvqa"
    description = "TVQA: compositional video question answering on six TV shows, as windows around localised spans."
    homepage = "https://github.com/jayleicn/TVQA"
    licence = (
        "Annotations: MIT (jayleicn/TVQA). Frames and sound are lent under a signed agreement and may not be passed on; "
        "that holds for records made of them."
    )
    citation = """@inproceedings{lei2018tvqa,
  title={TVQA: Localized, Compositional Video Question Answering},
  author={Lei, Jie and Yu, Licheng and Bansal, Mohit and Berg, Tamara L},
  booktitle={EMNLP},
  year={2018}
}"""
    official = MappingProxyType(
        {TRAIN: Official(122_039, 17_435), VALIDATION: Official(15_253, 2_179), TEST: Official(7_623, 1_089)}
    )

    files = MappingProxyType({TRAIN: "tvqa_train.jsonl", VALIDATION: "tvqa_val.jsonl", TEST: "tvqa_test_public.jsonl"})
    folders = ("tvqa_qa_release", ".")
    wanted = "unpack tvqa_qa_release.tar.gz there, so that tvqa_qa_release/tvqa_train.jsonl exists"

    def rows_of(self, split: str, path: Path) -> Iterator[Row]:
        return json_lines(split, path, asked)

    def media(self, clip: str) -> Media:
        show = show_of(clip)
        frames = f"frames_hq/{show}_frames/{clip}"
        audio = f"audios/{'bbt_new' if show == 'bbt' else show}/{show}_audios/{clip}"
        return Media(
            pictures=self.find(*_below(frames, f"{frames}.mp4")),
            audio=self.find_file(*_below(f"{audio}.mp3", f"{audio}.wav")),
            subtitles=self.find_file(f"tvqa_subtitles/{clip}.srt"),
            cues=self._cues(clip) if self._lines else None,
            english=True,
        )

    @functools.cached_property
    def _lines(self) -> dict[str, int]:
        """Where the line of each clip begins in the file of all subtitles; nothing where there is no such file."""
        path, found = self.find_file(PREPROCESSED, f"tvqa_subtitles/{PREPROCESSED}"), {}
        if path is None:
            return found
        with path.open("rb") as file:
            while line := file.readline():
                if fields := _subtitles(line):
                    found[fields["vid_name"]] = file.tell() - len(line)
        return found

    def _cues(self, clip: str) -> tuple[Cue, ...] | None:
        if clip not in self._lines:
            return None
        with self.find_file(PREPROCESSED, f"tvqa_subtitles/{PREPROCESSED}").open("rb") as file:
            file.seek(self._lines[clip])
            said = _subtitles(file.readline())["sub"]
        cues = (Cue(float(one["start"]), float(one["end"]), plain(one["text"])) for one in said)
        return tuple(cue for cue in cues if cue.text)

    def layout(self) -> str:
        return "frames_hq/{show}_frames/{clip}/00001.jpg ... or {clip}.mp4, in the folder or in its tvqa_frames"


def _below(*names: str) -> tuple[str, ...]:
    return *names, *(f"tvqa_frames/{name}" for name in names)


def asked(where: str, fields: dict) -> Asked:
    """The question of a line of TVQA or of an item of TVQA+. Raises ValueError with a reason."""
    show, clip, answer = fields.get("show_name"), clip_name(fields.get("vid_name")), fields.get("answer_idx")
    if show is not None and (not isinstance(show, str) or show not in SHOWS):
        raise ValueError(f"the show {show!r} is none of {', '.join(SHOWS)}")
    if show is not None and show_of(clip) != SHOWS[show]:
        raise ValueError(f"the clip {clip!r} is not of the show {show!r}")
    if isinstance(answer, str) and answer.isdigit():
        answer = int(answer)  # TVQA+ has texts
    answers = [fields.get(f"a{i}") for i in range(ANSWERS)]
    return checked(where, fields.get("qid"), clip, fields.get("q"), answers, answer, read_span(fields.get("ts")))


def _subtitles(line: bytes) -> dict | None:
    """The object of a line of the preprocessed subtitles; None where it is not one."""
    try:
        fields = json.loads(line)
        whole = isinstance(fields["vid_name"], str) and all(
            isinstance(one["text"], str) and math.isfinite(one["start"] + one["end"]) for one in fields["sub"]
        )
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return fields if whole else None


def show_of(clip: str) -> str:
    """The short name of a clip's show: friends_s06e15-16_seg02_clip_22 is of friends, s03e21_seg02_clip_08 of bbt."""
    prefix = clip.split("_", 1)[0]
    return prefix if prefix in PREFIXES else "bbt"
