"""What a user types, and the one sentence they get where it cannot be done."""

import sys

import pytest
import tiny

from mmdiff import cli
from mmdiff.models.pretrained import save_safetensors

ROOT = tiny.Path(__file__).resolve().parents[1]
CONFIG = str(ROOT / "configs" / "video_folder.py") + ":difference"
PROBE = str(ROOT / "configs" / "probe_video_folder.py")


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return tiny.write_dataset(
        tmp_path_factory.mktemp("records"), [tiny.record(i) for i in range(6)], [tiny.record(9), tiny.record(10)]
    )


def fields(records) -> list[str]:
    """The tiny configuration as words of a command line."""
    wanted, words = tiny.config(records), []
    for section in ("data", "model"):
        for name in (
            "records",
            "tokenizer",
            "segments",
            "text_length",
            "threads",
            "rows",
            "columns",
            "dtype",
            "hidden_size",
        ):
            if hasattr(getattr(wanted, section), name):
                words.append(f"--config.{section}.{name}={getattr(getattr(wanted, section), name)}")
    words += [f"--config.model.{encoder}_layers=1" for encoder in ("vision", "audio", "joint", "span")]
    return [*words, "--config.train.steps=2", "--config.optimizer.warmup_steps=0"]


def said(capsys, *words) -> str:
    """The sentence a mistake ends in: one line, exit code 2, no traceback."""
    assert cli.main([str(word) for word in words]) == 2
    text = capsys.readouterr().err.strip()
    assert text.startswith(f"mmdiff {words[0]}: ") and "\n" not in text and "Traceback" not in text
    return text


@pytest.fixture(scope="module")
def run(records, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run") / "run"
    assert cli.main(["pretrain", "--config", CONFIG, "--workdir", str(workdir), *fields(records)]) == 0
    return workdir


@pytest.mark.slow
def test_pretrain_probe_and_view_work_by_their_documented_words(records, run, tmp_path, capsys):
    assert sorted(path.name for path in run.iterdir()) == [
        "anchors.json",
        "checkpoints",
        "config.json",
        "metrics.jsonl",
        "model.safetensors",
        "records.digest",
        "summary.json",
        "targets.json",
        "tensorboard",
        "tokenizer.json",
    ]
    assert cli.main(["probe", "--config", PROBE, "--checkpoint", str(run), "--workdir", str(tmp_path / "probe")]) == 0
    assert "| difference body | linear |" in capsys.readouterr().out
    words = ["--config", CONFIG, "--out", str(tmp_path / "view"), "--strategies", "random,difference", "--clips", "1"]
    assert cli.main(["view", *words, *fields(records)]) == 0
    page = (tmp_path / "view" / "index.html").read_text(encoding="utf-8")
    assert "clip" in page and "data:image/webp" in page


@pytest.mark.slow
def test_official_code_preset_runs_and_is_stored(tmp_path):
    train_only = tiny.write_dataset(tmp_path / "records", [tiny.record(i) for i in range(3)], [])
    words = [*fields(train_only), "--config.preset=official_code", "--config.masking.alpha=0.7"]
    assert cli.main(["pretrain", "--config", CONFIG, "--workdir", str(tmp_path / "run"), *words]) == 0
    stored = (tmp_path / "run" / "config.json").read_text()
    for line in ('"empty_rows_count": true', '"hidden_values": "constant"', '"state": "compact"', '"alpha": 0.7'):
        assert line in stored


def test_mistakes_in_the_configuration_name_what_is_known(records, tmp_path, capsys):
    def pretrain(*words, config=CONFIG):
        return said(capsys, "pretrain", "--config", config, "--workdir", tmp_path / "run", *fields(records), *words)

    assert "known: random, difference" in pretrain(config=CONFIG.replace("difference", "differ"))
    assert "has no field 'ration'; it has strategy, where" in pretrain("--config.masking.ration=0.3")
    assert "config has no field 'maskin'; it has preset, data" in pretrain("--config.maskin.ratio=0.3")
    assert "must be labels" in pretrain("--config.anchors.words=person,hand")
    assert "labelled 'persn'; its commonest labels are person" in pretrain("--config.anchors.words=('persn',)")
    assert "holds no similarities for the strategy clip" in pretrain(config=CONFIG.replace("difference", "clip"))
    assert "is a float: it must be a function" in pretrain("--config.masking.strategy=jax.numpy:pi")
    assert "train.fsdp=3 does not divide" in pretrain("--config.train.fsdp=3")
    assert "must be even" in pretrain("--config.model.rows=5")
    assert "multiple of 64" in pretrain("--config.model.hidden_size=0")
    assert "this command needs a PretrainConfig" in pretrain(config=PROBE)
    (tmp_path / "broken.py").write_text("def get_config(:")
    assert "cannot be used: SyntaxError" in pretrain(config=str(tmp_path / "broken.py"))
    assert "known: paper, official_code" in pretrain("--config.preset=mine")
    assert "known: body, face" in pretrain("--config.masking.where=hand")
    assert "no configuration file at nowhere.py" in pretrain(config="nowhere.py")
    assert "steps" in pretrain("--config.train.steps=many")
    assert "do not know what to do with" in pretrain("stray")
    assert "no vocabulary at" in pretrain("--config.data.tokenizer=nowhere.json")
    assert "no records" in pretrain(f"--config.data.records={tmp_path}")
    assert "data.segments=2" in pretrain("--config.data.segments=1")
    assert "data.records is empty" in said(capsys, "pretrain", "--config", CONFIG, "--workdir", tmp_path / "run")
    assert "--config is missing" in said(capsys, "pretrain", "--workdir", tmp_path / "run")


def test_mistakes_about_checkpoints_are_explained(records, run, tmp_path, capsys):
    def pretrain(checkpoint):
        words = [*fields(records), f"--config.model.checkpoint={checkpoint}"]
        return said(capsys, "pretrain", "--config", CONFIG, "--workdir", tmp_path / "run", *words)

    assert "no checkpoint file" in pretrain(tmp_path / "nothing")
    whole = (run / "model.safetensors").read_bytes()
    (tmp_path / "half.safetensors").write_bytes(whole[: len(whole) // 2])
    assert "not a whole checkpoint" in pretrain(tmp_path / "half.safetensors")
    save_safetensors(tmp_path / "other.safetensors", {"weights": tiny.np.zeros(3, tiny.np.float32)})
    assert "token_encoder" in pretrain(tmp_path / "other.safetensors")
    words = ["--config", PROBE, "--workdir", tmp_path / "probe", "--checkpoint"]
    assert "not the folder of a run" in said(capsys, "probe", *words, tmp_path)
    assert "holds no probe" in said(capsys, "probe", "--config", PROBE, "--workdir", run, "--checkpoint", run)
    own = [*words, run, "--config.data.segments=7", "--config.model.rows=4"]
    assert "only data.records can be changed" in said(capsys, "probe", *own)
    typo = [*words, run, "--config.probe.sedes=3"]
    assert "config.probe has no field 'sedes'; it has seeds, at_once, epochs" in said(capsys, "probe", *typo)


def test_what_a_training_machine_may_lack_is_explained(records, run, tmp_path, capsys, monkeypatch):
    words = ["--config", CONFIG, *fields(records)]
    said_of_bucket = said(capsys, "pretrain", *words, "--workdir", "gs://mine/runs/first")
    assert (
        "gs://mine/runs/first is not a folder: mount the bucket" in said_of_bucket
        and "MOUNT/runs/first" in said_of_bucket
    )
    assert "mount the bucket" in said(capsys, "probe", "--checkpoint=gs://mine/run", "--workdir", tmp_path / "probe")
    assert "mount the bucket" in said(capsys, "report", "gs://mine/runs", "--out", tmp_path / "report")
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert "pip install wandb" in said(capsys, "pretrain", *words, "--workdir", tmp_path / "run", "--wandb", "mine")
    assert not (tmp_path / "run").exists()
    assert "holds no nonfinite/step_N" in said(capsys, "replay", run)
    assert "is not the folder of a run" in said(capsys, "replay", tmp_path)
    assert "do not know what to do with" in said(capsys, "replay", run, "stray")


def test_a_bad_file_costs_itself_and_strict_says_so(tmp_path, capsys):
    from preprocessing.compose_clips import compose_clips

    compose_clips(tmp_path / "videos", 1, 5.0, 0)
    (tmp_path / "videos" / "broken.mp4").write_text("not a video")
    words = ["preprocess", str(tmp_path / "videos"), str(tmp_path / "out"), "--fps", "0.5", "--workers", "0"]
    assert cli.main(words) == 0
    assert "problems: 1, all of them in" in capsys.readouterr().out
    assert cli.main([*words, "--strict"]) == 1


def test_mistakes_about_videos_are_explained(tmp_path, capsys):
    assert "nowhere" in said(capsys, "preprocess", tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    assert "video" in said(capsys, "preprocess", tmp_path / "empty", tmp_path / "out")
    assert "known" in said(capsys, "preprocess", tmp_path / "empty", tmp_path / "out", "--detector", "yolo9000")
    assert "not a folder" in said(capsys, "demo", tmp_path / "out", "--videos", tmp_path / "nowhere")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("mine")
    assert "holds no demo" in said(capsys, "demo", tmp_path / "full")
