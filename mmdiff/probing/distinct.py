"""Records in, each frame, each piece of audio and each candidate that their questions ask about, once, out."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import UInt8

from mmdiff.data.question_examples import answer_tokens
from mmdiff.data.records import MEL_BINS, MEL_FRAMES, SUBSEGMENTS, Record
from mmdiff.data.tokenizer import Tokenizer
from mmdiff.data.video_examples import (
    DataConfig,
    candidate_tokens,
    crop_frame,
    decode_frame,
    draw_crop,
    window_segments,
)
from mmdiff.models.reserve import ReserveConfig
from mmdiff.objectives.question_answering import QuestionConfig
from mmdiff.probing.encoder import Row

# What a pass encoded, and what one forward pass for each question would have.
COUNTS = ("frames", "frames_per_question_pass", "segments", "segments_per_question_pass")


class Distinct:
    """Distinct frames, segments and candidates of some records, and the questions that ask for them."""

    def __init__(
        self,
        data: DataConfig,
        questions: QuestionConfig,
        model: ReserveConfig,
        tokenizer: Tokenizer,
        decoders: ThreadPoolExecutor,
    ):
        self._data, self._questions, self._tokenizer, self._decoders = data, questions, tokenizer, decoders
        self._size = tuple(side * model.patch_size for side in model.image_grid)
        # Place 0 of either bank is what padding and silence point to.
        self._frames = [decoders.submit(np.zeros, (*self._size, 3), np.uint8)]
        self.segments = [(np.zeros((SUBSEGMENTS, MEL_FRAMES, MEL_BINS), np.uint8), np.float32(1))]
        self.rows: list[Row] = []
        self.asked: list[tuple[list[int], int, str, str]] = []  # rows of the answers, label, id, group
        self.counts = dict.fromkeys(COUNTS, 0)

    def frames(self) -> list[UInt8[np.ndarray, "h w 3"]]:
        """The pixels of the frames; waits for those that are still being decoded."""
        return [frame.result() for frame in self._frames]

    def __len__(self) -> int:
        """Frames or segments, whichever are more."""
        return max(len(self._frames), len(self.segments))

    def _pixels(self, jpeg: bytes, record: str) -> UInt8[np.ndarray, "h w 3"]:
        pixels = decode_frame(jpeg, record)
        return crop_frame(pixels, draw_crop(pixels.shape[:2], self._size, None), self._size)[0]

    def add(self, record: Record) -> None:
        """Everything that the labelled questions of a record ask about, once."""
        frame_place: dict[int, int] = {}
        segment_place: dict[bytes, int] = {}
        row_place: dict[tuple, int] = {}
        windows: dict[int, tuple] = {}

        def see(index: int) -> int:
            if index not in frame_place:
                frame_place[index] = len(self._frames)
                self._frames.append(self._decoders.submit(self._pixels, record.frames[index], record.id))
            return frame_place[index]

        def hear(index: int) -> int:
            if not record.segments.has_audio[index]:
                return 0
            mel = record.segments.mel[index]
            content = mel.tobytes()
            if content not in segment_place:
                segment_place[content] = len(self.segments)
                self.segments.append((mel, np.float32(record.mel_scale)))
            return segment_place[content]

        def window(number: int) -> tuple:
            if number not in windows:
                segments = window_segments(record, number, self._data.segments)
                indices = range(segments.start, segments.stop)
                frames, heard = (np.zeros(self._data.segments, np.int32) for _ in range(2))
                frames[: len(indices)] = [see(int(record.segments.frame[i])) for i in indices]
                heard[: len(indices)] = [hear(i) for i in indices]
                attended = np.arange(self._data.segments) < len(indices)
                windows[number] = frames, attended | self._questions.attend_to_padding, heard
            return windows[number]

        for question in record.questions:
            if question.label < 0:
                continue
            seen = window(question.window)
            self.counts["frames_per_question_pass"] += int((seen[0] > 0).sum())
            self.counts["segments_per_question_pass"] += int((seen[2] > 0).sum())
            places = []
            for answer in question.answers:
                prefix = candidate_tokens(record, question, answer, self._tokenizer, self._data.clip_question_span)
                key = (question.window, *prefix)
                if key not in row_place:
                    row_place[key] = len(self.rows)
                    tokens = answer_tokens(record, question.window, prefix, self._data, self._tokenizer)
                    self.rows.append(Row(tokens, *seen))
                places.append(row_place[key])
            self.asked.append((places, question.label, question.id, record.video))
        self.counts["frames"] += len(frame_place)
        self.counts["segments"] += len(segment_place)
