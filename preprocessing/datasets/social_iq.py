"""Social-IQ 1.0: to each question four right and three wrong answers, from which a protocol makes multiple choices."""

import ast
import functools
import hashlib
import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import MappingProxyType

from preprocessing.clip import Media
from preprocessing.datasets.dataset import TRAIN, VALIDATION, Dataset, Official, Row, row_of
from preprocessing.problems import PreprocessError
from preprocessing.questions import checked, clip_name

FOLDS = {TRAIN: "standard_train_fold", VALIDATION: "standard_valid_fold"}  # The test fold was never released.
FOLDS_FILE = "socialiq_std_folds.py"
UNUSABLE = ("f5NJQiY9AuY", "aHBLOkfJSYI")  # which the authors' own code leaves out
LINE = re.compile(r"\s*([qai])\d*\s*:(.*)", re.IGNORECASE)
RIGHT, WRONG = 4, 3  # answers of each kind


class SocialIq(Dataset):
    """Zadeh et al. 2019, CVPR. Protocols: a2 asks to tell one right from one wrong answer, a4 one from three wrong."""

    name = "social_iq"
    description = "Social-IQ 1.0: questions about a minute of social interaction each."
    homepage = "https://github.com/A2Zadeh/Social-IQ"
    licence = (
        "The repository A2Zadeh/Social-IQ states no licence. Videos belong to those who published them on YouTube."
    )
    citation = """@inproceedings{zadeh2019socialiq,
  title={Social-IQ: A Question Answering Benchmark for Artificial Social Intelligence},
  author={Zadeh, Amir and Chan, Michael and Liang, Paul Pu and Tong, Edmund and Morency, Louis-Philippe},
  booktitle={CVPR},
  year={2019}
}"""
    official = MappingProxyType({TRAIN: Official(888 * 6, 888), VALIDATION: Official(127 * 6, 127)})
    protocols = ("a2", "a4")

    def annotation_files(self) -> list[Path]:
        return sorted(self._labels().glob("*.txt")) if self._labels() else []

    def rows(self) -> Iterator[Row]:
        labels = self._labels()
        if labels is None:
            raise PreprocessError(
                f"{self.data} holds no annotation of Social-IQ: labels/{{id}}.txt (or qa/{{id}}_trimmed.txt) is needed"
            )
        for split, clips in self.folds().items():
            for clip in clips:
                path = next((p for p in (labels / f"{clip}.txt", labels / f"{clip}_trimmed.txt") if p.is_file()), None)
                if clip in UNUSABLE:
                    told = "the dataset's authors leave this video out"
                    yield Row(split, clip, problem=told, advice="so do we", is_question=False)
                elif path is None:
                    told, advice = "the fold names it, but no file has its questions", f"copy its file to {labels}"
                    yield Row(split, clip, problem=told, advice=advice, is_question=False)
                else:
                    yield from self._rows(split, clip, path)

    def media(self, clip: str) -> Media:
        names = [clip, f"{clip}_trimmed-out", f"{clip}_trimmed"]
        return Media(
            pictures=self._below(("video", "videos", "vision/raw"), names, ".mp4")
            or self._below(("frames",), [clip], ""),
            audio=self._below(("audio/wav", "audio", "acoustic/raw"), names, ".wav")
            or self._below(("audio/mp3",), names, ".mp3"),
            subtitles=self._below(("transcript", "transcripts", "transcript/raw"), names, ".vtt"),
            english=True,
        )

    def layout(self) -> str:
        return "video/{id}.mp4 or vision/raw/{id}_trimmed-out.mp4, in the folder or in its raw"

    def folds(self) -> dict[str, list[str]]:
        """The ids of each split. The file is Python: its lists are read, nothing in it is run."""
        path = self.find_file(FOLDS_FILE, f"data/{FOLDS_FILE}", f"raw/{FOLDS_FILE}")
        if path is None:
            raise PreprocessError(f"{self.data} holds no {FOLDS_FILE}: copy it from the repository A2Zadeh/Social-IQ")
        try:
            lists = {
                target.id: ast.literal_eval(statement.value)
                for statement in ast.parse(path.read_text(encoding="utf-8-sig")).body
                if isinstance(statement, ast.Assign)
                for target in statement.targets
                if isinstance(target, ast.Name) and target.id in FOLDS.values()
            }
            for name in FOLDS.values():
                if not isinstance(lists[name], list | tuple):
                    raise TypeError(f"{name} is no list")
            return {split: list(dict.fromkeys(map(clip_name, lists[name]))) for split, name in FOLDS.items()}
        except (SyntaxError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise PreprocessError(f"{path} holds no lists {' and '.join(FOLDS.values())} ({error!r})") from None

    def _rows(self, split: str, clip: str, path: Path) -> Iterator[Row]:
        question: list | None = None  # [where, text, right answers, wrong answers]
        text = path.read_bytes().decode("utf-8-sig", errors="replace")
        for number, line in enumerate(itertools.chain(text.splitlines(), ["q:"]), 1):
            match = LINE.fullmatch(line)
            if match is None and not line.strip():
                continue
            where = f"{path.name}:{number}"
            kind, said = (match[1].lower(), match[2].strip()) if match else ("", "")
            if kind in ("q", "") and question:
                yield row_of(split, question[0], functools.partial(self._row, split, clip, *question))
            if kind == "q":
                question = [where, said, [], []]
            elif kind and question:
                question[2 if kind == "a" else 3].append(said)
            elif kind:
                yield Row(split, where, problem="an answer without a question", is_question=False)
            else:  # It may have been a question: what follows is not the one before's.
                question = None
                told = f"is neither q, a nor i followed by a colon: {line.strip()[:40]!r}"
                yield Row(split, where, problem=told, is_question=False)

    def _row(self, split: str, clip: str, where: str, text: str, right: list[str], wrong: list[str]) -> Row:
        kept_right, kept_wrong = _distinct(right), _distinct([said for said in wrong if said not in right])
        left_out = len(right) + len(wrong) - len(kept_right) - len(kept_wrong)
        problem = f"{left_out} of its answers are repeated or empty" if left_out else None
        told = f"{len(right)} right and {len(wrong)} wrong answers instead of {RIGHT} and {WRONG}"
        if len(right) > RIGHT or len(wrong) > WRONG:
            raise ValueError(told)  # Another question's may be among them.
        if len(right) < RIGHT or len(wrong) < WRONG:
            problem = f"{told}; {problem}" if problem else told
        name = f"{clip}_{where.rsplit(':', 1)[1]}"
        asked = tuple(self._asked(where, clip, name, text, kept_right, kept_wrong))
        return Row(split, where, asked, problem=problem, advice="the others are used")

    def _asked(self, where: str, clip: str, name: str, text: str, right: Sequence[str], wrong: Sequence[str]):
        sets = [wrong] if self.options.protocol == "a4" else [[said] for said in wrong]
        if not right or not wrong or (self.options.protocol == "a4" and len(wrong) < WRONG):
            raise ValueError(f"{len(right)} right and {len(wrong)} wrong answers that differ are too few")
        for i, j in itertools.product(range(len(right)), range(len(sets))):
            answers = [right[i], *sets[j]]
            id = f"{name}_a{i + 1}_i{j + 1}"
            # Turned by a number that is always the same: nobody can win by choosing the first.
            turn = hashlib.sha256(id.encode()).digest()[0] % len(answers)
            yield checked(where, id, clip, text, answers[-turn:] + answers[:-turn], turn, span=None)

    def _labels(self) -> Path | None:
        return self.find("labels", "qa", "raw/labels", "raw/qa")

    def _below(self, folders: Sequence[str], names: Sequence[str], suffix: str) -> Path | None:
        places = [f"{folder}/{name}{suffix}" for folder in folders for name in names]
        find = self.find_file if suffix else self.find
        return find(*places, *(f"raw/{place}" for place in places))


def _distinct(answers: list[str]) -> list[str]:
    return list({" ".join(said.split()).casefold(): said for said in reversed(answers) if said}.values())[::-1]
