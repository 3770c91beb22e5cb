"""A record and one of its questions in, the token rows of its candidate answers, or the whole question as arrays, out."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

from mmdiff.data.loader import stack
from mmdiff.data.records import Question, Record, RecordError, decode, read_split
from mmdiff.data.tokenizer import Tokenizer
from mmdiff.data.video_examples import (
    NO_BOXES,
    DataConfig,
    audio_sequence,
    candidate_tokens,
    text_sequence,
    video_example,
)


class AnswerTokens(NamedTuple):
    """Candidate answers as the model reads them: `l` positions each, once with subtitles and once with audio."""

    text_tokens: Int[Array, "*c l"]
    text_segments: Int[Array, "*c l"]
    audio_tokens: Int[Array, "*c l"]
    audio_segments: Int[Array, "*c l"]
    audio_pointers: Int[Array, "*c l"]


class QuestionBatch(NamedTuple):
    """`b` questions with up to `a` answers, and the windows they ask about. A single one has no axis `b`."""

    frames: UInt8[Array, "b s h w 3"]
    frame_valid: Bool[Array, "b s"]
    mels: UInt8[Array, "b s 3 60 64"]
    mel_scale: Float[Array, " b"]
    answers: AnswerTokens  # [b a l]
    offered: Bool[Array, "b a"]  # none: an empty example that fills a batch
    label: Int[Array, " b"]


def answer_tokens(
    record: Record, window: int, prefix: list[int], config: DataConfig, tokenizer: Tokenizer
) -> AnswerTokens:
    """One candidate answer, without the axis `c`; `prefix` is what `candidate_tokens` made of it."""
    first, count = (int(x) for x in record.windows[window])
    segments = slice(first, first + count)
    return AnswerTokens(
        *text_sequence(prefix, record.segments.subtitle[segments], config.text_length, tokenizer),
        *audio_sequence(prefix, record.segments.has_audio[segments], config.text_length),
    )


def question_example(
    record: Record,
    question: Question,
    answers: int,
    config: DataConfig,
    grid: tuple[int, int],
    patch_size: int,
    tokenizer: Tokenizer,
    rng: np.random.Generator | None,
) -> QuestionBatch:
    """One question as arrays with `answers` slots; with `rng`, its window's frames are cropped at random."""
    video = video_example(record, question.window, config, grid, patch_size, NO_BOXES, tokenizer, rng)
    prefixes = [
        candidate_tokens(record, question, answer, tokenizer, config.clip_question_span) for answer in question.answers
    ]
    prefixes += prefixes[-1:] * (answers - len(prefixes))
    return QuestionBatch(
        frames=video.frames,
        frame_valid=video.frame_valid,
        mels=video.mels,
        mel_scale=video.mel_scale,
        answers=stack([answer_tokens(record, question.window, prefix, config, tokenizer) for prefix in prefixes]),
        offered=np.arange(answers) < len(question.answers),
        label=np.int32(question.label),
    )


class Questions:
    """The labelled questions of a split, one by one, found by a number: (record, question).

    Raises RecordError where the split has none.
    """

    def __init__(self, folder: str, split: str):
        self._source = read_split(folder, split)
        self._places: list[tuple[int, int]] = []
        self.answers, self.id, self.video = [], [], []
        for index in range(len(self._source)):
            record = decode(self._source[index])
            for place, question in enumerate(record.questions):
                if question.label >= 0:
                    self._places.append((index, place))
                    self.answers.append(len(question.answers))
                    self.id.append(question.id)
                    self.video.append(record.video)
        if not self._places:
            raise no_questions(folder, split)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, number: int) -> tuple[Record, Question]:
        index, place = self._places[number]
        record = decode(self._source[index])
        return record, record.questions[place]


def no_questions(folder: str, split: str) -> RecordError:
    """What to say of a split without a labelled question."""
    return RecordError(
        f"{folder} has no question with a known answer in its {split} split: put a questions.jsonl beside "
        "the videos and run `mmdiff preprocess` again"
    )
