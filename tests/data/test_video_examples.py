"""A record becomes arrays: frames, patches in boxes, tokens."""

import dataclasses

import cv2
import numpy as np
import pytest
import tiny

from mmdiff.data.records import RecordError
from mmdiff.data.tokenizer import AUDIOSPAN, MASK, PAD, START, Tokenizer, TokenizerError, train_tokenizer
from mmdiff.data.video_examples import (
    BoxRule,
    DataConfig,
    audio_sequence,
    candidate_tokens,
    crop_frame,
    cropped_size,
    draw_crop,
    question_tokens,
    text_sequence,
    video_example,
    window_id,
)

GRID, SIDE = (4, 6), 16
BODY = BoxRule(lambda label, part: float(label == "person"), "body", 0.25, "where")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return train_tokenizer([tiny.WORDS], 300, tmp_path_factory.mktemp("vocabulary") / "tokenizer.json")


def example(tokenizer, record=None, rule=BODY, rng=None, **options):
    config = DataConfig(segments=3, text_length=64, **options)
    return video_example(record or tiny.record(0), 0, config, GRID, SIDE, rule, tokenizer, rng)


def test_a_short_window_is_padded_and_says_so(tokenizer):
    made = example(tokenizer)
    assert made.frame_valid.tolist() == [True, True, False]
    assert made.patch_valid[:2].all() and not made.patch_valid[2].any()
    assert not made.frames[2].any() and made.frames.shape == (3, 64, 96, 3)


def test_a_window_longer_than_the_model_says_what_to_do(tokenizer):
    with pytest.raises(RecordError, match="data.segments=4"):
        example(tokenizer, tiny.record(0, segments=4))


def test_frames_keep_their_shape_and_leave_black_on_the_right_and_below(tokenizer):
    frame = np.full((72, 128, 3), 200, np.uint8)
    out, real = crop_frame(frame, draw_crop((72, 128), (64, 96), None), (64, 96))
    assert real == (54, 96)
    assert (out[:54] > 190).all() and not out[54:].any()


def test_boxes_move_with_their_frame(tokenizer):
    # A person painted where the box says: under any crop the patches inside the box are the painted ones.
    record = tiny.record(0)
    pixels = np.zeros((144, 256, 3), np.uint8)
    y0, x0, y1, x1 = (record.boxes.box[0] * [144, 256, 144, 256]).round().astype(int)
    pixels[y0:y1, x0:x1] = 255
    record.frames = [cv2.imencode(".png", pixels)[1].tobytes()] * 2
    rule = dataclasses.replace(BODY, min_coverage=0.5)
    for seed in range(5):
        made = example(tokenizer, record, rule, np.random.default_rng(seed))
        bright = made.frames[0].reshape(4, 16, 6, 16, 3).mean(axis=(1, 3, 4)) / 255
        inside = made.track[0].reshape(GRID) > 0
        assert (bright[inside] > 0.4).all() and (bright[~inside] < 0.6).all()


def test_boxes_cropped_apart_go_astray(tokenizer):
    rng = [np.random.default_rng(1), np.random.default_rng(1)]
    together = example(tokenizer, rng=rng[0])
    apart = example(tokenizer, rng=rng[1], crop_boxes_with_frame=False)
    np.testing.assert_array_equal(together.frames, apart.frames)
    assert (together.track != apart.track).any()


def test_similarity_goes_astray_with_the_boxes_as_it_did_in_the_official_code(tokenizer):
    record, rng = tiny.record(0, similarity=True), [np.random.default_rng(1), np.random.default_rng(1)]
    together = example(tokenizer, record, rng=rng[0])
    apart = example(tokenizer, record, rng=rng[1], crop_boxes_with_frame=False)
    np.testing.assert_array_equal(together.frames, apart.frames)
    assert (together.similarity != apart.similarity).any()


def test_face_and_body_boxes_are_told_apart(tokenizer):
    body, face = (example(tokenizer, rule=dataclasses.replace(BODY, where=where)) for where in ("body", "face"))
    assert 0 < (face.track > 0).sum() < (body.track > 0).sum()
    np.testing.assert_array_equal(body.person, face.person)
    assert set(np.unique(body.track)) == {0, 4}  # track 3, counted from 1


def test_body_and_face_boxes_can_count_together(tokenizer):
    record = tiny.record(0)
    record.boxes.box[2:] = [0, 0, 0.1, 0.1]  # the faces, away from the bodies
    made = {
        where: example(tokenizer, record, dataclasses.replace(BODY, where=where)) for where in ("body", "face", "both")
    }
    in_body, in_face, in_both = (made[where].track > 0 for where in ("body", "face", "both"))
    assert in_face.any() and in_body.any() and not (in_face & in_body).any()
    np.testing.assert_array_equal(in_both, in_face | in_body)
    assert not example(tokenizer, tiny.record(0, boxes=False), dataclasses.replace(BODY, where="both")).track.any()


def test_boxes_of_the_whole_frame_hold_all_pixels_and_no_padding(tokenizer):
    record = tiny.record(0)
    record.boxes.box[:] = [0, 0, 1, 1]
    made = example(tokenizer, record, dataclasses.replace(BODY, min_coverage=0.01))
    np.testing.assert_array_equal(made.track > 0, made.patch_valid)


def of_size(record, height, width):
    """The record with black frames of this size."""
    blank = cv2.imencode(".jpg", np.zeros((height, width, 3), np.uint8))[1].tobytes()
    record.frames = [blank] * len(record.frames)
    return record


def test_similarity_is_read_at_the_centre_of_each_patch(tokenizer):
    record = tiny.record(0)  # 72 x 128 pixels, of which the model sees 54 x 96
    rows, columns = np.meshgrid((np.arange(18) + 0.5) / 18, (np.arange(32) + 0.5) / 32, indexing="ij")
    record.similarity = np.stack([rows, columns]).astype(np.float32)
    down, right = example(tokenizer, record).similarity[:2].reshape(2, *GRID)
    expected = np.minimum((np.arange(4) + 0.5) * 16 / 54, 17.5 / 18)  # the last centre lies below the frame
    np.testing.assert_allclose(down, expected[:, None].repeat(6, 1), atol=1e-6)
    np.testing.assert_allclose(right, ((np.arange(6) + 0.5) / 6)[None].repeat(4, 0), atol=1e-6)


def test_padding_has_no_similarity(tokenizer):
    record = of_size(tiny.record(0, similarity=True), 36, 128)  # 27 x 96 of 64 x 96 pixels are real
    made = example(tokenizer, record)
    np.testing.assert_array_equal(made.similarity != 0, made.patch_valid)
    assert made.patch_valid[0].reshape(GRID)[:, 0].tolist() == [True, True, False, False]


def test_records_without_similarity_give_zeros(tokenizer):
    made = example(tokenizer)
    assert made.similarity.shape == made.track.shape and made.similarity.dtype == np.float32
    assert not made.similarity.any()


def test_similarity_moves_with_its_frame(tokenizer):
    """One bright cell, painted in the frame too: under any crop both are in the same patches."""
    record, pixels = tiny.record(0), np.zeros((144, 256, 3), np.uint8)
    pixels[8 * 11 : 8 * 12, 8 * 20 : 8 * 21] = 255
    record.frames = [cv2.imencode(".png", pixels)[1].tobytes()] * 2
    record.similarity = np.zeros((2, 18, 32), np.float32)
    record.similarity[:, 11, 20] = 1
    grid, patch_size = (18, 32), 8
    moved = set()
    for seed in range(8):
        made = video_example(
            record,
            0,
            DataConfig(segments=2, text_length=64),
            grid,
            patch_size,
            BODY,
            tokenizer,
            np.random.default_rng(seed),
        )
        bright = made.frames[0].reshape(18, 8, 32, 8, 3).mean(axis=(1, 3, 4)) / 255
        found = made.similarity[0].reshape(grid)
        # Reading at a point falls off with the distance as the overlap of two squares does, but for 10% of size.
        assert np.abs(found - bright).max() < 0.25 and found.max() > 0.3
        moved.add(int(found.argmax()))
    assert len(moved) > 1


def test_without_body_boxes_the_official_fallback_ignores_faces(tokenizer):
    record = tiny.record(0)
    record.boxes.part = ["face"] * len(record.boxes.part)
    face = dataclasses.replace(BODY, where="face")
    assert example(tokenizer, record, face).track.any()
    assert not example(tokenizer, record, dataclasses.replace(face, fallback_without="body")).track.any()


def test_a_record_without_boxes_audio_or_subtitles_works(tokenizer):
    record = tiny.record(0, boxes=False, audio=False)
    record.segments.subtitle = ["", ""]
    made = example(tokenizer, record)
    assert not made.track.any() and not made.person.any()
    assert made.text_tokens.tolist() == [START] + [PAD] * 63 == made.audio_tokens.tolist()


def test_no_answer_enters_unless_asked(tokenizer):
    answer = tokenizer.encode("answer:")
    record = tiny.record(0)
    plain = example(tokenizer, record)
    assert answer[0] not in plain.text_tokens.tolist()
    leaking = example(tokenizer, record, include_answers=True)
    right = tokenizer.encode(f"answer: {record.questions[0].answers[record.questions[0].label]}")
    joined = leaking.text_tokens.tolist()
    assert any(joined[i : i + len(right)] == right for i in range(len(joined)))
    assert MASK not in joined


def test_subtitles_carry_the_number_of_their_segment_from_one(tokenizer):
    tokens, segments = text_sequence([7, 8], ["hello", "", "a cat"], 32, tokenizer)
    hello, cat = tokenizer.encode("hello"), tokenizer.encode("a cat")
    assert tokens[: 2 + len(hello) + len(cat)].tolist() == [7, 8, *hello, *cat]
    assert segments[: 2 + len(hello) + len(cat)].tolist() == [0, 0] + [1] * len(hello) + [3] * len(cat)


def test_audio_spans_point_to_their_thirds_and_skip_silent_segments():
    tokens, segments, pointers = audio_sequence([], np.array([True, False, True]), 40)
    assert tokens.tolist() == [START] + [AUDIOSPAN] * 36 + [PAD] * 3
    assert segments[1:37].tolist() == [1] * 18 + [3] * 18
    assert pointers[1:37].reshape(6, 6)[:, 0].tolist() == [0, 1, 2, 6, 7, 8]


def test_the_mask_survives_truncation(tokenizer):
    prefix = [*range(10, 60), MASK]
    tokens, _ = text_sequence(prefix, ["hello"], 20, tokenizer)
    assert tokens[-1] == MASK and tokens[:-1].tolist() == list(range(10, 29))


def test_a_question_says_its_time_in_percent_of_the_window(tokenizer):
    record = tiny.record(0)
    record.questions[0].start, record.questions[0].end = 0.0, float(record.segments.end[0])
    tokens = question_tokens(record, record.questions[0], tokenizer, True)
    assert tokens == [*tokenizer.encode("0 to 50"), START, *tokenizer.encode("what is it")]
    record.questions[0].start, record.questions[0].end = -100.0, 1000.0
    everything = [*tokenizer.encode("0 to 100"), START]
    assert question_tokens(record, record.questions[0], tokenizer, True)[: len(everything)] == everything
    # The window is 9.3 s long: the official code would have said so many percent.
    outside = [*tokenizer.encode("-1071 to 10714"), START]
    assert question_tokens(record, record.questions[0], tokenizer, False)[: len(outside)] == outside
    record.questions[0].start, record.questions[0].end = 0.0, float(record.segments.end[0])
    asked = candidate_tokens(record, record.questions[0], "a cat", tokenizer, True)
    assert asked == [*tokens, *tokenizer.encode("answer: a cat"), MASK]


def test_special_tokens_in_a_subtitle_are_text(tokenizer):
    assert not set(tokenizer.encode("<|MASK|> <|AUDIOSPAN|>")) & set(range(10))


def test_ids_are_the_same_in_every_run():
    assert window_id("clip", 0) == 3922710799 and window_id("clip", 1) != window_id("clip", 0)


def test_a_frame_that_is_no_image_names_its_record(tokenizer):
    record = tiny.record(0)
    record.frames[1] = b"not a picture"
    with pytest.raises(RecordError, match="clip0.*no JPEG"):
        example(tokenizer, record)


def test_the_released_vocabulary_loads(shared_data):
    released = Tokenizer(shared_data / "tokenizer" / "lowercase_encoder.json")
    assert released.size == 32768
    assert released.encode("The cat") == released.encode("the cat") != []


def test_a_wrong_vocabulary_file_is_explained(tmp_path):
    with pytest.raises(TokenizerError, match="no vocabulary at"):
        Tokenizer(tmp_path / "missing.json")
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(TokenizerError, match="not a tokenizers file"):
        Tokenizer(tmp_path / "bad.json")


@pytest.mark.parametrize("seed", range(6))
def test_the_size_of_real_pixels_is_known_without_them(seed):
    rng = np.random.default_rng(seed)
    stored, wanted = tuple(int(x) for x in rng.integers(20, 200, 2)), (64, 96)
    crop = draw_crop(stored, wanted, rng if seed % 2 else None)
    assert cropped_size(stored, crop, wanted) == crop_frame(np.zeros((*stored, 3), np.uint8), crop, wanted)[1]
