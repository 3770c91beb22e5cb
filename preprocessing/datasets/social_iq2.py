"""Social-IQ 2.0: four answers to questions about a minute of social life, from YouTube, films and cars."""

import collections
import json
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType

from preprocessing.annotations import Annotations
from preprocessing.clip import Media
from preprocessing.datasets.dataset import TEST, TRAIN, VALIDATION, FilePerSplit, Official, Row, json_lines
from preprocessing.questions import Asked, checked, clip_name, read_span

ANSWERS = 4


class SocialIq2(FilePerSplit):
    """Wilf et al. 2023, https://cmu-multicomp-lab.github.io/social-iq-2.0/."""

    name = "social_iq2"
    description = "Social-IQ 2.0: multiple-choice questions about a minute of social interaction each."
    homepage = "https://github.com/abwilf/Social-IQ-2.0-Challenge"
    licence = "Annotations: MIT (abwilf/Social-IQ-2.0-Challenge). Videos belong to those who published them on YouTube."
    citation = """@misc{siq2,
  title={Social-IQ 2.0 Challenge: Benchmarking Multimodal Social Understanding},
  author={Wilf, Alex and Mathur, Leena and Mathew, Sheryl and Ko, Claire and Kebe, Youssouf and Liang, Paul Pu and
    Morency, Louis-Philippe},
  howpublished={https://github.com/abwilf/Social-IQ-2.0-Challenge},
  year={2023}
}"""
    official = MappingProxyType(
        {TRAIN: Official(6_159, 987), VALIDATION: Official(943, 145), TEST: Official(1_715, 275)}
    )

    # JSON lines, whatever their name.
    files = MappingProxyType({TRAIN: "qa_train.json", VALIDATION: "qa_val.json", TEST: "qa_test.json"})
    folders = ("qa", "siq2/qa")
    wanted = "give the folder siq2 of the challenge's repository, which holds qa/qa_train.json"

    def rows_of(self, split: str, path: Path) -> Iterator[Row]:
        return json_lines(split, path, _asked)

    def media(self, clip: str) -> Media:
        return Media(
            pictures=self.find(*_below(f"video/{clip}.mp4", f"frames/{clip}")),
            audio=self.find_file(*_below(f"audio/wav/{clip}.wav", f"audio/mp3/{clip}.mp3")),
            subtitles=self.find_file(*_below(f"transcript/{clip}.vtt")),
            english=True,
        )

    def layout(self) -> str:
        return "video/{id}.mp4 or frames/{id}/{id}_001.jpg ..., in the folder or in its siq2"

    def notices(self, annotations: Annotations) -> list[str]:
        subsets = self._object("current_split.json", "original_split.json").get("subsets", {})
        found, listed = [], collections.defaultdict(set)
        try:
            for source, splits in subsets.items():
                for name, ids in splits.items():
                    split, ids = {"val": VALIDATION}.get(name, name), set(map(clip_name, ids))
                    asked = set(annotations.clips(split)) & ids
                    files = sum(self.lack(clip) is None for clip in asked)
                    told = f"{len(ids)} ids, {len(asked)} with questions, {files} of these with pictures"
                    found.append(f"{source}, {split}: {told}")
                    listed[split] |= ids
        except (AttributeError, TypeError, ValueError) as error:
            return [f"the file of splits is not what it should be ({error!r:.100}): nothing is said of its ids"]
        for split, ids in listed.items():
            if unlisted := set(annotations.clips(split)) - ids:
                found.append(f"{split}: {len(unlisted)} clips with questions are not in the file of splits")
        if (trims := self._object("trims.json")) and listed:
            missing = len(set.union(*listed.values()) - set(trims))
            found.append(f"{missing} ids have no start in trims.json: they cannot be cut out of the whole video")
        return found

    def _object(self, *names: str) -> dict:
        """The first of these JSON files; nothing where there is none or it is not one: no record depends on them."""
        path = self.find_file(*_below(*names))
        try:
            found = json.loads(path.read_text(encoding="utf-8-sig")) if path else {}
        except (ValueError, RecursionError):
            return {}
        return found if type(found) is dict else {}


def _asked(where: str, fields: dict) -> Asked:
    answers, label = [fields.get(f"a{i}") for i in range(ANSWERS)], fields.get("answer_idx")
    clip, span = clip_name(fields.get("vid_name")), read_span(fields.get("ts"))
    question = checked(where, fields.get("qid"), clip, fields.get("q"), answers, label, span)
    told = fields.get("ans_corr")
    if told is not None and (label is None or answers[label] != told):
        raise ValueError(f"answer_idx {label!r} and ans_corr {told!r:.60} are not the same answer")
    return question


def _below(*names: str) -> tuple[str, ...]:
    return *names, *(f"siq2/{name}" for name in names)
