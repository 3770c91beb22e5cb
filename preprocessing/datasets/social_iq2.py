"""Social-IQ 2.0: four answers to questions about a minute of social life, from YouTube, films and cars."""

import collections
import json
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType

from preprocessing.annotations import Annotations
from preprocessing.clip import Media
from preprocessing.datasets.dataset import TEST, TRAIN, VALIDATION, Dataset, Official, Row, json_lines
from preprocessing.problems import PreprocessError
from preprocessing.questions import checked, read_span

FILES = {TRAIN: "qa_train.json", VALIDATION: "qa_val.json", TEST: "qa_test.json"}  # JSON lines, whatever their name
ANSWERS = 4


class SocialIq2(Dataset):
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

    def annotation_files(self) -> list[Path]:
        return [path for file in FILES.values() if (path := self._below(f"qa/{file}"))]

    def rows(self) -> Iterator[Row]:
        files = self.annotation_files()
        if not files:
            raise PreprocessError(
                f"{self.data} holds no annotation of Social-IQ 2.0: give the folder siq2 of the challenge's repository, "
                f"which holds qa/{FILES[TRAIN]}"
            )
        for split, file in FILES.items():
            for path in (path for path in files if path.name == file):
                for where, fields, problem in json_lines(path):
                    try:
                        if fields is None:
                            raise ValueError(problem)
                        yield Row(split, where, (self._asked(where, fields),))
                    except ValueError as error:
                        yield Row(split, where, problem=str(error))

    def _asked(self, where: str, fields: dict):
        answers, label = [fields.get(f"a{i}") for i in range(ANSWERS)], fields.get("answer_idx")
        question = checked(
            where,
            fields.get("qid"),
            fields.get("vid_name"),
            fields.get("q"),
            answers,
            label,
            read_span(fields.get("ts")),
        )
        told = fields.get("ans_corr")
        if told is not None and (label is None or answers[label] != told):
            raise ValueError(f"answer_idx {label!r} and ans_corr {told!r} are not the same answer")
        return question

    def media(self, clip: str) -> Media:
        return Media(
            pictures=self._below(f"video/{clip}.mp4", f"frames/{clip}"),
            audio=self._below(f"audio/wav/{clip}.wav", f"audio/mp3/{clip}.mp3"),
            subtitles=self._below(f"transcript/{clip}.vtt"),
            english=True,
        )

    def layout(self) -> str:
        return "video/{id}.mp4 or frames/{id}/{id}_001.jpg ..., in the folder or in its siq2"

    def sources(self) -> dict[str, dict[str, set[str]]]:
        """Ids by where the videos come from and by split; empty without a file of splits.

        Raises PreprocessError where the file is not what it should be.
        """
        path = self._below("current_split.json", "original_split.json")
        if path is None:
            return {}
        try:
            subsets = json.loads(path.read_text(encoding="utf-8"))["subsets"]
            names = {"train": TRAIN, "val": VALIDATION, "test": TEST}
            return {
                source: {names[split]: set(ids) for split, ids in splits.items()} for source, splits in subsets.items()
            }
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise PreprocessError(f"{path} is not a file of splits ({error!r}); copy it again") from None

    def notices(self, annotations: Annotations) -> list[str]:
        found, listed = [], collections.defaultdict(set)
        for source, splits in self.sources().items():
            for split, ids in splits.items():
                asked = set(annotations.clips(split)) & ids
                files = sum(self.lack(clip) is None for clip in asked)
                found.append(
                    f"{source}, {split}: {len(ids)} ids, {len(asked)} with questions, {files} of these with pictures"
                )
                listed[split] |= ids
        for split, ids in listed.items():
            if unlisted := set(annotations.clips(split)) - ids:
                found.append(f"{split}: {len(unlisted)} clips with questions are not in the file of splits")
        if (path := self._below("trims.json")) and listed:
            untrimmed = set.union(*listed.values()) - set(json.loads(path.read_text(encoding="utf-8")))
            found.append(f"{len(untrimmed)} ids have no start in trims.json: they cannot be cut out of the whole video")
        return found

    def _below(self, *names: str) -> Path | None:
        return self.find(*names, *(f"siq2/{name}" for name in names))
