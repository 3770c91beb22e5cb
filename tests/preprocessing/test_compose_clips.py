"""`mmdiff demo`'s clips: the same seed gives the same folder, the clips decode, the questions are fair."""

import collections
import itertools
import json
import shutil

import numpy as np
import pytest

av = pytest.importorskip("av", reason="needs the preprocess extra")
pytest.importorskip("skimage", reason="needs the preprocess extra")

from preprocessing import compose_clips as module
from preprocessing.compose_clips import compose_clips

CLIPS, SECONDS = 2, 9.5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    compose_clips(folder, CLIPS, SECONDS, seed=3)
    return folder


def _questions(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "questions.jsonl").read_text().splitlines()]


def test_an_interrupted_folder_has_no_questions_and_its_seed_makes_it_again(folder, tmp_path):
    class Stopped(Exception):
        pass

    def stop(pictures):
        yield next(pictures)
        raise Stopped

    again = shutil.copytree(folder, tmp_path / "again")  # There are questions, of clips that are made anew.
    write = module._write_video
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(module, "_write_video", lambda path, pictures, sound: write(path, stop(pictures), sound))
        compose_clips(again, CLIPS, SECONDS, seed=4)
    assert not (again / "questions.jsonl").exists()
    assert (again / "clip_00.srt").read_bytes() != (folder / "clip_00.srt").read_bytes(), "another seed, another clip"
    assert (again / "clip_00.mp4").read_bytes() == (folder / "clip_00.mp4").read_bytes()  # whole, if of another seed
    compose_clips(again, CLIPS, SECONDS, seed=3)
    for path in folder.iterdir():
        assert (again / path.name).read_bytes() == path.read_bytes(), path.name
    assert len(list(again.iterdir())) == len(list(folder.iterdir()))


def test_questions_come_after_every_clip(tmp_path):
    seen = []

    def watched(numbers):
        for number in numbers:
            seen.append((tmp_path / "questions.jsonl").exists())
            yield number
        seen.append((tmp_path / "questions.jsonl").exists())

    compose_clips(tmp_path, 2, 1.0, seed=0, progress=watched)
    assert seen == [False] * 3 and (tmp_path / "questions.jsonl").exists()


def test_clips_decode_with_sound_and_the_stated_duration(folder):
    for number in range(CLIPS):
        with av.open(str(folder / f"clip_{number:02d}.mp4")) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        with av.open(str(folder / f"clip_{number:02d}.mp4")) as container:
            sound = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
        assert frames[0].shape == (180, 320, 3)
        assert len(frames) == round(SECONDS * module.FPS)
        assert abs(len(sound) / module.SAMPLE_RATE - SECONDS) < 2 * module.SAMPLES_PER_PACKET / module.SAMPLE_RATE
        assert np.abs(frames[0].astype(int) - frames[20]).mean() > 1, "nothing moves"


def test_what_is_heard_is_what_the_question_says(folder):
    for question in _questions(folder):
        if not question["id"].endswith("sound"):
            continue
        with av.open(str(folder / question["video"])) as container:
            sound = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
        # A tenth of a second off both ends: fades, and AAC's delay.
        first, last = (
            int((t + d) * module.SAMPLE_RATE) for t, d in ((question["start"], 0.1), (question["end"], -0.1))
        )
        part = sound[first:last]
        spectrum = np.abs(np.fft.rfft(part)) ** 2
        peak = np.argmax(spectrum) * module.SAMPLE_RATE / len(part)
        if np.sqrt(np.mean(part**2)) < 1e-3:
            heard = "silence"
        elif spectrum.max() < 0.05 * spectrum.sum():
            heard = "noise"
        else:
            heard = "a low tone" if peak < 500 else "a high tone"
        assert question["answers"][question["label"]] == heard


def test_every_question_has_one_right_answer_among_four_distinct(folder):
    questions = _questions(folder)
    assert len({question["id"] for question in questions}) == len(questions) >= 3 * CLIPS
    for question in questions:
        assert (folder / question["video"]).exists()
        assert 0 <= question["label"] < len(question["answers"]) == len(set(question["answers"])) == 4
        assert 0 <= question["start"] < question["end"] <= SECONDS


def test_answers_and_positions_are_dealt_evenly():
    rng = np.random.default_rng(0)
    films = module._plan(24, 14.0, rng)
    questions = [question for film in films for question in module._ask("clip", "clip.mp4", film)]
    right = {question["answers"][0] for question in questions}
    module._shuffle_answers(questions, rng)
    by_kind = collections.defaultdict(list)
    for question in questions:
        by_kind[question["id"].rsplit("-")[-1]].append(question)
    for kind, asked in by_kind.items():
        labels = np.bincount([question["label"] for question in asked], minlength=4)
        assert labels.max() - labels.min() <= 1, kind
        answers = collections.Counter(question["answers"][question["label"]] for question in asked)
        assert len(answers) == 4 and set(answers) <= right
        assert max(answers.values()) < 0.4 * len(asked), f"always saying the same is too good at {kind}: {answers}"
    scenes = [scene for film in films for scene in film]
    assert sum(scene.person is not None for scene in scenes) == 2 * len(scenes) / 3


def test_captions_tell_about_half_of_the_facts():
    scenes = [scene for film in module._plan(24, 14.0, np.random.default_rng(1)) for scene in film]
    grounds = [any(text in module.GROUNDS[scene.ground][2] for text in scene.captions) for scene in scenes]
    sounds = [any(text in module.SOUNDS[scene.sound][1] for text in scene.captions) for scene in scenes]
    assert abs(np.mean(grounds) - 0.5) < 0.02 and abs(np.mean(sounds) - 0.5) < 0.02
    assert all(scene.captions for scene in scenes)


def test_nobody_hides_anything_and_persons_keep_their_side():
    for film in module._plan(40, 14.0, np.random.default_rng(2)):
        for scene in film:
            for when in (0, 1):
                spans = []
                for layer in scene.layers:
                    half = module._width(layer.subject) * layer.growth[when] / 2
                    spans.append((layer.path[when][0] - half, layer.path[when][0] + half))
                spans.sort()
                assert all(one[1] <= two[0] + 1e-6 for one, two in itertools.pairwise(spans))
                if scene.person:
                    x = scene.layers[0].path[when][0]
                    assert x < module.WIDTH / 2 if scene.side == "left" else x > module.WIDTH / 2


def test_a_person_covers_a_tenth_to_a_third_of_the_picture():
    for subject in module.PERSONS.values():
        share = module._cut_out(subject)[..., 3].sum() / (module.WIDTH * module.HEIGHT)
        assert 0.1 < share < 0.3


def test_nothing_to_compose_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one clip"):
        compose_clips(tmp_path, 0, 5.0, seed=0)


def test_mtcnn_finds_both_persons_on_their_side():
    facenet = pytest.importorskip("facenet_pytorch", reason="needs the preprocess extra")
    detector = facenet.MTCNN(min_face_size=20, keep_all=True)
    cutouts = {
        subject.photo: module._cut_out(subject) for subject in (*module.PERSONS.values(), *module.THINGS.values())
    }
    grounds = {ground: module._paint_ground(ground) for ground in module.GROUNDS}
    scenes = [scene for film in module._plan(4, 14.0, np.random.default_rng(5)) for scene in film if scene.person]
    assert {scene.person for scene in scenes} == set(module.PERSONS)
    for scene in scenes[:4]:
        picture = module._draw([scene], (scene.start + scene.end) / 2, cutouts, grounds)
        boxes, scores = detector.detect(picture)
        assert boxes is not None, scene.person
        x0, y0, x1, y1 = (float(edge) for edge in boxes[int(np.argmax(scores))])
        layer = scene.layers[0]
        (x, _), half = np.mean(layer.path, axis=0), module._width(layer.subject) * max(layer.growth) / 2
        assert y1 - y0 >= 36 and abs((x0 + x1) / 2 - x) < half, "that face is somebody else's"
