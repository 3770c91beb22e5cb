"""A seed in, a folder of short captioned clips with sound and true questions about them out: what `mmdiff demo` watches.

The pixels are photographs that the scikit-image wheel carries, cut out and moved over textures from the same wheel:
nothing is downloaded. What the wheel itself (skimage/data/_fetchers.py, version 0.26) says of each:

    astronaut   NASA Great Images; no known copyright restrictions, released into the public domain
    camera      CC0 by the photographer, Lav Varshney
    chelsea     CC0 by the photographer, Stefan van der Walt
    coffee      CC0 by the photographer, Rachel Michetti; courtesy of Pikolo Espresso Bar
    rocket      photographed by SpaceX, released in the public domain
    motorcycle  left image of the Middlebury 2014 stereo benchmark (Scharstein et al., GCPR 2014); no licence is stated
    brick, gravel   CC0, from CC0Textures         grass   CC0, from DeviantArt
    hubble_deep_field   NASA; may be freely used in the public domain

A clip is a row of scenes, each one model segment long (the last takes what remains): one texture, one sound, and in two
of three scenes a person who drifts along the bottom edge, with or without a thing beside. MTCNN finds both persons,
the photographer's profile included. Answers are dealt like cards, so that within a kind of question every answer and
every position is right about equally often; a caption tells a given fact in every second scene.
"""

import dataclasses
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from mmdiff.data.records import SECONDS_PER_SEGMENT
from mmdiff.whole_files import whole
from preprocessing.datasets.video_folder import FILE_NAME

WIDTH, HEIGHT, FPS = 320, 180, 12
SAMPLE_RATE = 22_050
SAMPLES_PER_PACKET = 1024  # of AAC
PERSONS_PER_DECK = ("astronaut", "photographer", None)  # two scenes of three hold a person
THINGS_PER_DECK = (1, 1, 1, 0, 2)  # beside a person two count as one
MARGIN = 22  # pixels between the middle of the picture and the middle of a person who is "on the left"


@dataclasses.dataclass(frozen=True)
class Subject:
    """A photograph's outline, how large it appears, and what may be said of it."""

    photo: str
    outline: tuple[tuple[int, int], ...]  # x, y in pixels of the photograph
    height: int  # in pixels of the clip
    name: str
    captions: tuple[str, ...]


def _ellipse(x: int, y: int, rx: int, ry: int) -> tuple[tuple[int, int], ...]:
    angles = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    return tuple((round(x + rx * np.cos(angle)), round(y + ry * np.sin(angle))) for angle in angles)


# Cut so that a face is 40 pixels high or more and a person covers 10 to 30 % of the picture.
PERSONS = {
    "astronaut": Subject(
        "astronaut",
        ((154, 70), (160, 38), (192, 18), (243, 13), (288, 32), (303, 70), (292, 109), (262, 134), (260, 173), (301, 211),
         (314, 250), (352, 275), (371, 339), (365, 422), (26, 422), (38, 371), (32, 333), (64, 275), (122, 230), (113, 198),
         (122, 173), (179, 147), (183, 128), (156, 115)),
        166,
        "the astronaut",
        ("the astronaut smiles at us", "an astronaut in an orange suit", "she has flown to space", "hello, astronaut"),
    ),
    "photographer": Subject(
        "camera",
        ((14, 291), (6, 262), (19, 211), (51, 173), (109, 122), (151, 109), (160, 83), (192, 64), (237, 67),
         (269, 96), (271, 134), (326, 138), (333, 192), (314, 211), (275, 243), (286, 262), (280, 291)),
        128,
        "the photographer",
        ("the photographer looks through his camera", "a man in a dark coat takes a picture", "he waits for the light",
         "a photographer at work"),
    ),
}  # fmt: skip
THINGS = {
    "cat": Subject(
        "chelsea",
        _ellipse(236, 150, 205, 150),
        96,
        "a cat",
        ("a cat watches", "look at those whiskers", "the cat has green eyes", "a curious cat"),
    ),
    "coffee": Subject(
        "coffee",
        _ellipse(278, 204, 204, 193),
        96,
        "a cup of coffee",
        ("a cup of coffee is ready", "espresso in a red cup", "coffee, and a small spoon", "somebody made coffee"),
    ),
    "rocket": Subject(
        "rocket",
        ((180, 110), (200, 90), (440, 90), (460, 110), (460, 405), (440, 425), (200, 425), (180, 405)),
        104,
        "a rocket",
        ("the rocket stands on its pad", "a rocket before the launch", "lights around the launch pad", "ready for lift-off"),
    ),
    "motorcycle": Subject(
        "motorcycle",
        ((80, 200), (135, 155), (335, 180), (400, 155), (455, 118), (485, 60), (530, 55), (575, 140), (560, 185), (640, 285),
         (655, 320), (692, 370), (685, 435), (640, 455), (575, 435), (528, 340), (485, 355), (420, 382), (335, 420),
         (240, 410), (195, 410), (140, 370), (112, 310), (135, 250), (88, 228)),
        92,
        "a motorcycle",
        ("a red motorcycle", "the motorcycle is parked", "a motorcycle with a black seat", "two wheels and an engine"),
    ),
}  # fmt: skip
# The wheel's textures are grey: each gets the colour its captions speak of.
GROUNDS = {
    "brick": ("a brick wall", (214, 128, 100), ("a wall of bricks", "bricks, row upon row", "an old brick wall")),
    "grass": ("grass", (150, 205, 95), ("green grass everywhere", "out on the lawn", "the grass is short")),
    "gravel": ("gravel", (205, 200, 190), ("gravel on the ground", "many small stones", "grey gravel behind")),
    "hubble_deep_field": (
        "the night sky",
        (255, 255, 255),
        ("stars behind", "far away galaxies", "the night sky is dark"),
    ),
}
SOUNDS = {
    "low": ("a low tone", ("a low tone hums", "a deep hum", "a low note goes on")),
    "high": ("a high tone", ("a high tone whistles", "something beeps high up", "a high note goes on")),
    "noise": ("noise", ("noise, like rain", "it hisses", "a rushing sound")),
    "silence": ("silence", ("not a sound", "it is quiet here", "silence")),
}
TONES = {"low": (140.0, 260.0), "high": (1600.0, 2800.0)}  # hertz; the model hears 55 Hz to 10 kHz
UNTOLD = ("here is another picture", "let us watch for a while", "slowly, slowly", "we take our time", "and on we go")


@dataclasses.dataclass(frozen=True)
class Layer:
    """A subject that moves in a straight line: its centre in pixels, its size as a share of its nominal height."""

    subject: Subject
    mirrored: bool
    path: tuple[tuple[float, float], tuple[float, float]]
    growth: tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Scene:
    """What is seen and heard between two times of a clip, and what the captions tell of it."""

    start: float
    end: float
    ground: str
    pan: tuple[tuple[float, float], tuple[float, float]]
    person: str | None
    side: str
    things: tuple[str, ...]
    layers: tuple[Layer, ...]
    sound: str
    hertz: float
    loudness: float
    captions: tuple[str, ...]


def compose_clips(
    folder: Path, clips: int, seconds: float, seed: int, progress: Callable[[Iterable], Iterable] = iter
) -> None:
    """Writes clip_00.mp4 with clip_00.srt, and so on, and one questions.jsonl; the same seed writes the same folder.

    `questions.jsonl` comes last: where it is, all clips are, and where composing was stopped, it is not.
    `progress` wraps the clips' numbers, as `tqdm.tqdm` does. Raises ValueError where there would be nothing to see.
    """
    if clips < 1 or seconds < 1:
        raise ValueError(f"asked for {clips} clips of {seconds} s; at least one clip of one second is needed")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE_NAME).unlink(missing_ok=True)
    rng = np.random.default_rng(seed)
    films = _plan(clips, seconds, rng)
    names = [f"clip_{number:02d}.mp4" for number in range(clips)]
    questions = [
        question for name, scenes in zip(names, films, strict=True) for question in _ask(Path(name).stem, name, scenes)
    ]
    _shuffle_answers(questions, rng)
    cutouts = {subject.photo: _cut_out(subject) for subject in (*PERSONS.values(), *THINGS.values())}
    grounds = {ground: _paint_ground(ground) for ground in GROUNDS}
    for number in progress(range(clips)):
        path, scenes = folder / names[number], films[number]
        _write_text(path.with_suffix(".srt"), _subtitles(scenes))
        frames = (_draw(scenes, time / FPS, cutouts, grounds) for time in range(round(seconds * FPS)))
        with whole(path) as unfinished:
            _write_video(unfinished, frames, _synthesize(scenes, np.random.default_rng([seed, number])))
    _write_text(folder / FILE_NAME, "".join(json.dumps(question) + "\n" for question in questions))


def _deal(cards: Iterable, rng: np.random.Generator) -> Iterator:
    """The cards in random order, again and again: after every full round each came equally often."""
    cards = list(cards)
    while True:
        yield from (cards[i] for i in rng.permutation(len(cards)))


def _plan(clips: int, seconds: float, rng: np.random.Generator) -> list[list[Scene]]:
    """The scenes of every clip."""
    persons, counts = _deal(PERSONS_PER_DECK, rng), _deal(THINGS_PER_DECK, rng)
    sides = {person: _deal(("left", "right"), rng) for person in PERSONS}
    things, grounds, sounds = _deal(THINGS, rng), _deal(GROUNDS, rng), _deal(SOUNDS, rng)
    told = {fact: _deal((True, False), rng) for fact in ("person", "thing", "ground", "sound")}
    scenes_per_clip = max(1, round(seconds / SECONDS_PER_SEGMENT))
    starts = [scene * SECONDS_PER_SEGMENT for scene in range(scenes_per_clip)]

    def plan_scene(start: float, end: float) -> Scene:
        person, count = next(persons), next(counts)
        side = next(sides[person]) if person else ""
        count = min(count, 1) if person else max(count, 1)
        shown: list[str] = []
        while len(shown) < count:
            thing = next(things)
            shown += [thing] * (thing not in shown)
        ground, sound = next(grounds), next(sounds)
        facts = [("person", PERSONS[person].captions)] if person else []
        facts += [("thing", THINGS[thing].captions) for thing in shown]
        facts += [("ground", GROUNDS[ground][2]), ("sound", SOUNDS[sound][1])]
        captions = [str(rng.choice(words)) for fact, words in facts if next(told[fact])]
        return Scene(
            start=start,
            end=end,
            ground=ground,
            pan=tuple((rng.uniform(0, 512 - WIDTH), rng.uniform(0, 512 - HEIGHT)) for _ in range(2)),
            person=person,
            side=side,
            things=tuple(shown),
            layers=_place(person, side, shown, rng),
            sound=sound,
            hertz=rng.uniform(*TONES[sound]) if sound in TONES else 0.0,
            loudness=rng.uniform(0.15, 0.4),
            captions=tuple(captions) or (str(rng.choice(UNTOLD)),),
        )

    return [
        [plan_scene(start, end) for start, end in itertools.pairwise([*starts, float(seconds)])] for _ in range(clips)
    ]


def _place(person: str | None, side: str, things: list[str], rng: np.random.Generator) -> tuple[Layer, ...]:
    """Everyone on a lane of their own, so that nothing hides what a question asks about."""
    layers, free = [], (0.0, float(WIDTH))
    if person:
        subject = PERSONS[person]
        growth = tuple(rng.uniform(1.0, 1.04, 2))
        half = _width(subject) * max(growth) / 2
        nearest = half + 8 if things else WIDTH / 2 - MARGIN
        xs = rng.uniform(half - 8, nearest, 2)
        free = (max(xs) + half, float(WIDTH))
        if side == "right":
            xs, free = WIDTH - xs, (0.0, WIDTH - free[0])
        # Two pixels below the edge: a bust stands on the bottom of the picture and never floats.
        ys = [HEIGHT + 2 - subject.height * size / 2 for size in growth]
        layers.append(Layer(subject, bool(rng.integers(2)), tuple(zip(xs, ys, strict=True)), growth))
    lane = (free[1] - free[0]) / max(len(things), 1)
    for position, thing in enumerate(things):
        subject = THINGS[thing]
        fits = min(0.92 * lane / _width(subject), 1.0 if person else 1.3)
        growth = tuple(rng.uniform(0.85, 1.0, 2) * fits)
        room_x, room_y = (_width(subject) * max(growth) / 2, subject.height * max(growth) / 2)
        left = free[0] + position * lane
        path = tuple(
            (rng.uniform(left + room_x, left + lane - room_x), rng.uniform(room_y, HEIGHT - room_y)) for _ in range(2)
        )
        layers.append(Layer(subject, bool(rng.integers(2)), path, growth))
    return tuple(layers)


def _width(subject: Subject) -> float:
    low, high = np.min(subject.outline, axis=0), np.max(subject.outline, axis=0)
    return float(subject.height * (high - low)[0] / (high - low)[1])


def _ask(stem: str, video: str, scenes: list[Scene]) -> list[dict]:
    """Questions whose first answer is the right one, of the kinds that have one right answer among four in a scene."""
    who = [f"{subject.name} on the {side}" for subject in PERSONS.values() for side in ("left", "right")]
    kinds = {
        "person": ("who is in the picture, and on which side?", who),
        "thing": ("what is in the picture?", [subject.name for subject in THINGS.values()]),
        "ground": ("what is in the background?", [name for name, *_ in GROUNDS.values()]),
        "sound": ("which sound is playing?", [name for name, _ in SOUNDS.values()]),
    }
    questions = []
    for number, scene in enumerate(scenes):
        right = {"ground": GROUNDS[scene.ground][0], "sound": SOUNDS[scene.sound][0]}
        if scene.person:
            right["person"] = f"{PERSONS[scene.person].name} on the {scene.side}"
        if len(scene.things) == 1:
            right["thing"] = THINGS[scene.things[0]].name
        for kind, (text, answers) in kinds.items():
            if kind not in right:
                continue
            text = "what else is in the picture?" if kind == "thing" and scene.person else text
            wrong = [answer for answer in answers if answer != right[kind]]
            questions.append(
                {
                    "video": video,
                    "id": f"{stem}-{number}-{kind}",
                    "question": text,
                    "answers": [right[kind], *wrong],
                    "label": 0,
                    "start": round(scene.start, 3),
                    "end": round(scene.end, 3),
                }
            )
    return questions


def _shuffle_answers(questions: list[dict], rng: np.random.Generator) -> None:
    """Moves every right answer to a position that is dealt per kind of question, and the others around it."""
    positions: dict[str, Iterator] = {}
    for question in questions:
        kind = question["id"].rsplit("-", 1)[-1]
        label = int(next(positions.setdefault(kind, _deal(range(len(question["answers"])), rng))))
        right, *wrong = question["answers"]
        answers = [wrong[i] for i in rng.permutation(len(wrong))]
        answers.insert(label, right)
        question.update(answers=answers, label=label)


def _subtitles(scenes: list[Scene]) -> str:
    """The captions as SubRip: those of a scene share its time evenly."""
    cues = []
    for scene in scenes:
        edges = np.linspace(scene.start, scene.end, len(scene.captions) + 1)
        pairs = itertools.pairwise(edges)
        cues += [(begin, end - 0.05, text) for (begin, end), text in zip(pairs, scene.captions, strict=True)]
    return "\n".join(
        f"{number}\n{_clock(begin)} --> {_clock(end)}\n{text}\n" for number, (begin, end, text) in enumerate(cues, 1)
    )


def _clock(seconds: float) -> str:
    milliseconds = round(1000 * seconds)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{milliseconds // 1000:02d},{milliseconds % 1000:03d}"


def _photograph(name: str) -> UInt8[np.ndarray, "y x 3"]:
    from skimage import data

    photo = data.stereo_motorcycle()[0] if name == "motorcycle" else getattr(data, name)()
    return photo if photo.ndim == 3 else cv2.cvtColor(photo, cv2.COLOR_GRAY2RGB)


def _cut_out(subject: Subject) -> Float32[np.ndarray, "y x 4"]:
    """The photograph inside its outline, at its nominal height, as premultiplied colour and opacity in 0..1."""
    photo = _photograph(subject.photo).astype(np.float32) / 255
    outline = np.array(subject.outline, np.int32)
    mask = cv2.fillPoly(np.zeros(photo.shape[:2], np.float32), [outline], 1.0)
    mask = cv2.GaussianBlur(mask, (0, 0), 2.0)[..., None]
    x0, y0 = np.maximum(outline.min(0), 0)
    x1, y1 = outline.max(0)
    cut = np.concatenate([photo * mask, mask], axis=-1)[y0:y1, x0:x1]
    return cv2.resize(cut, (round(_width(subject)), subject.height), interpolation=cv2.INTER_AREA)


def _paint_ground(ground: str) -> Float32[np.ndarray, "512 512 3"]:
    texture = _photograph(ground)[:512, :512].astype(np.float32) / 255
    return texture * np.array(GROUNDS[ground][1], np.float32) / 255


def _draw(scenes: list[Scene], time: float, cutouts: dict, grounds: dict) -> UInt8[np.ndarray, "180 320 3"]:
    """The picture at a time in seconds."""
    scene = next((scene for scene in scenes if time < scene.end), scenes[-1])
    done = (time - scene.start) / (scene.end - scene.start)

    def between(ends):
        return (1 - done) * np.asarray(ends[0]) + done * np.asarray(ends[1])

    x, y = between(scene.pan)
    picture = cv2.warpAffine(
        grounds[scene.ground], np.float32([[1, 0, -x], [0, 1, -y]]), (WIDTH, HEIGHT), borderMode=cv2.BORDER_REFLECT
    )
    for layer in scene.layers:
        cutout = cutouts[layer.subject.photo]
        size, (x, y) = float(between(layer.growth)), between(layer.path)
        towards = -size if layer.mirrored else size
        rows, columns = cutout.shape[:2]
        place = np.float32([[towards, 0, x - towards * columns / 2], [0, size, y - size * rows / 2]])
        placed = cv2.warpAffine(cutout, place, (WIDTH, HEIGHT))
        picture = picture * (1 - placed[..., 3:]) + placed[..., :3]
    return np.clip(255 * picture + 0.5, 0, 255).astype(np.uint8)


def _synthesize(scenes: list[Scene], rng: np.random.Generator) -> Float32[np.ndarray, " n"]:
    """One channel of sound in -1..1."""
    track = np.zeros(round(scenes[-1].end * SAMPLE_RATE), np.float32)
    for scene in scenes:
        span = slice(round(scene.start * SAMPLE_RATE), round(scene.end * SAMPLE_RATE))
        count = span.stop - span.start
        if scene.sound == "silence":
            continue
        if scene.sound == "noise":
            wave = rng.uniform(-1, 1, count)
        else:
            wave = np.sin(2 * np.pi * scene.hertz * np.arange(count) / SAMPLE_RATE)
        # 20 ms of fade: a tone that is cut off clicks, and a click is noise.
        fade = np.clip(np.minimum(np.arange(count), np.arange(count)[::-1]) / (0.02 * SAMPLE_RATE), 0, 1)
        track[span] = scene.loudness * wave * fade
    return track


def _write_video(path: Path, frames: Iterable[UInt8[np.ndarray, "180 320 3"]], sound: Float32[np.ndarray, " n"]):
    import av

    with av.open(str(path), "w", format="mp4") as container:
        # Without x264's look-ahead, because with it the same frames were now and then written as other bytes.
        options = {"crf": "20", "preset": "veryfast", "x264-params": "mbtree=0:rc-lookahead=0"}
        video = container.add_stream("libx264", rate=FPS, options=options)
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        video.codec_context.thread_count = 1  # what x264 writes depends on the number of threads
        audio = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        for picture in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode(None))
        for first in range(0, len(sound), SAMPLES_PER_PACKET):
            packet = sound[None, first : first + SAMPLES_PER_PACKET]
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(packet), format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE, first, Fraction(1, SAMPLE_RATE)
            container.mux(audio.encode(frame))
        container.mux(audio.encode(None))


def _write_text(path: Path, text: str) -> None:
    with whole(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
