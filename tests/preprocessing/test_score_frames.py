"""Scoring as a stage of its own: after detection, restartable, and in the records."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from clips import BRIGHT_SQUARE, make_clip, nobody, walking_square

from mmdiff.cli import main
from mmdiff.data import records
from mmdiff.data.video_examples import decode_frame
from preprocessing.anchor_similarity import AnchorSimilarity
from preprocessing.build import preprocess
from preprocessing.options import Options
from preprocessing.problems import PreprocessError
from preprocessing.write_records import BUILDERS

ROUNDING = 200 * np.finfo(np.float32).eps  # another batch, another order of the sums


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    make_clip(folder / "walks.mp4", walking_square(14))  # three segments, in windows of two
    make_clip(folder / "nobody.mp4", nobody(5))
    return folder


@pytest.fixture(scope="module")
def options(random_clip):
    return Options(detector=BRIGHT_SQUARE, workers=0, windows="tiles", segments_per_window=2, clip=str(random_clip))


def run(videos, out, options, **changes):
    return preprocess(videos, out, dataclasses.replace(options, **changes), progress=False)


def read(out) -> dict[str, records.Record]:
    return {
        record.id: record
        for split in records.splits(out)
        for record in map(records.decode, records.read_split(out, split))
    }


@pytest.fixture(scope="module")
def scored(videos, options, tmp_path_factory):
    out = tmp_path_factory.mktemp("scored")
    return out, run(videos, out, options)


def test_every_stored_frame_has_the_similarity_of_its_own_pixels(scored, random_clip):
    model = AnchorSimilarity(random_clip, ("person",))
    found = read(scored[0])
    assert set(found) == {"walks.mp4~0000", "walks.mp4~0002", "nobody.mp4~0000"}
    for record in found.values():
        assert record.similarity.shape == (len(record.frames), 18, 32)
        frames = [decode_frame(frame, record.id) for frame in record.frames]
        np.testing.assert_allclose(record.similarity, model(frames), atol=ROUNDING)
    assert scored[1].similarity["frames"] == sum(len(record.frames) for record in found.values()) == 4


def test_the_records_say_who_scored_them_and_what_labels_they_hold(scored, random_clip):
    said = records.metadata(scored[0])
    assert said["similarity"] == {"model": random_clip.name, "anchors": ["person"]}
    assert said["labels"] == {"person": {"body": 3}}  # one in each frame of the film with somebody
    everything = [path for path in scored[0].glob("video_folder/**/*") if path.is_file()]
    assert not any(str(random_clip.parent).encode() in path.read_bytes() for path in everything)


def test_the_summary_says_how_many_frames_were_scored(scored, videos, options):
    assert "similarity to person by random-clip: 4 frames, 4 of them scored now" in scored[1].describe()
    again = run(videos, scored[0], options)
    assert again.already_done and "4 frames, none of them scored now" in again.describe()


def test_other_anchors_are_scored_and_nothing_is_detected_again(videos, options, scored, tmp_path):
    out = shutil.copytree(scored[0], tmp_path / "out")
    summary = run(videos, out, options, clip_anchors=("person", " face", "person"))
    assert (summary.detected, summary.similarity["scored"]) == (0, 4)
    assert records.metadata(out)["similarity"]["anchors"] == ["person", "face"]
    before, after = read(scored[0]), read(out)
    assert all((after[name].similarity >= before[name].similarity - ROUNDING).all() for name in before)
    assert any((after[name].similarity > before[name].similarity + 0.01).any() for name in before)


def test_scores_come_and_go_with_the_option(videos, options, tmp_path):
    out = tmp_path / "out"
    assert run(videos, out, options, clip="").similarity is None
    assert all(record.similarity is None for record in read(out).values())
    assert records.metadata(out)["similarity"] is None

    added = run(videos, out, options)
    assert added.detected == 0 and all(record.similarity is not None for record in read(out).values())

    gone = run(videos, out, options, clip="")
    assert gone.detected == 0 and all(record.similarity is None for record in read(out).values())

    back = run(videos, out, options)
    assert (back.detected, back.similarity["scored"]) == (0, 0) and not back.already_done
    assert all(record.similarity is not None for record in read(out).values())


def test_other_weights_under_the_same_name_score_again(videos, options, scored, random_clip, tmp_path):
    import safetensors.numpy

    out = shutil.copytree(scored[0], tmp_path / "out")
    model = shutil.copytree(random_clip, tmp_path / "other" / random_clip.name)
    weights = safetensors.numpy.load_file(model / "model.safetensors")
    weights["visual_projection.weight"] = -weights["visual_projection.weight"]
    safetensors.numpy.save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    assert run(videos, out, options, clip=str(model)).similarity["scored"] == 4
    for name, record in read(scored[0]).items():
        np.testing.assert_allclose(read(out)[name].similarity, -record.similarity, atol=ROUNDING)


def test_a_killed_run_goes_on_with_the_clips_that_are_left(videos, options, scored, tmp_path):
    """As after a kill between two clips: one scored, one half-written, the records not yet."""
    out = shutil.copytree(scored[0], tmp_path / "out")
    (out / "summary.json").unlink()
    shutil.rmtree(out / "video_folder")
    lost = next((out / "staging" / "similarity").glob("nobody*"))
    lost.rename(lost.with_name(lost.name + ".unfinished"))
    summary = run(videos, out, options)
    assert (summary.detected, summary.similarity["scored"]) == (0, 1)
    assert not list(out.rglob("*.unfinished"))
    for name, record in read(scored[0]).items():
        np.testing.assert_array_equal(read(out)[name].similarity, record.similarity)


def test_a_changed_video_is_scored_again_and_only_it(videos, options, tmp_path):
    copy = shutil.copytree(videos, tmp_path / "films")
    run(copy, tmp_path / "out", options)
    make_clip(copy / "nobody.mp4", nobody(12))
    summary = run(copy, tmp_path / "out", options)
    assert (summary.detected, summary.similarity["scored"]) == (1, 3)


def test_records_of_an_earlier_version_are_written_anew_without_detecting(videos, options, tmp_path):
    out = tmp_path / "out"
    run(videos, out, options, clip="")
    manifest = json.loads((out / "preprocess.json").read_text())
    del manifest["layout"], manifest["similarity"]
    (out / "preprocess.json").write_text(json.dumps(manifest))
    summary = json.loads((out / "summary.json").read_text())
    del summary["similarity"]
    (out / "summary.json").write_text(json.dumps(summary))
    again = run(videos, out, options, clip="")
    assert again.detected == 0 and not again.already_done
    assert run(videos, out, options, clip="").already_done


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"clip": "/no/such/model"}, "is no folder; give one that holds a CLIP model"),
        ({"clip_anchors": ()}, "clip_anchors is .*one word or more"),
        ({"clip_anchors": ("person", " ")}, "clip_anchors is .*none of them empty"),
    ],
)
def test_a_model_or_anchors_that_cannot_be_are_refused_before_any_work(videos, options, tmp_path, changes, says):
    with pytest.raises(PreprocessError, match=says):
        run(videos, tmp_path / "out", options, **changes)
    assert not (tmp_path / "out").exists()


def test_a_builder_given_a_folder_scores_it_too(videos, options, tmp_path):
    builder = BUILDERS["video_folder"](data=videos, options=options, data_dir=tmp_path)
    builder.download_and_prepare()
    assert all(record.similarity is not None for record in read(tmp_path).values())


def test_the_command_line_names_a_model_and_anchors(videos, random_clip, tmp_path, capsys, monkeypatch):
    command = ["preprocess", str(videos), str(tmp_path / "out"), "--detector", BRIGHT_SQUARE, "--workers", "1"]
    monkeypatch.setenv("PYTHONPATH", __file__.rpartition("/")[0])  # of the worker, which looks for the detector
    assert main([*command, "--clip-anchors", "face"]) == 2
    assert "--clip-anchors needs --clip" in capsys.readouterr().err
    assert main([*command, "--clip", str(random_clip), "--clip-anchors", "face,dog"]) == 0
    assert "similarity to face, dog by random-clip: 4 frames" in capsys.readouterr().out
