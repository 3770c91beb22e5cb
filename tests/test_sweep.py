"""`mmdiff sweep`: each method with each seed once, however often it is begun, and one report of all."""

import json

import jax
import pytest
import tiny
import tiny_texts
from text_encoders import write_masked_model

from mmdiff import cli, sweep
from mmdiff.errors import UserError

ROOT = tiny.Path(__file__).resolve().parents[1]
CONFIG, PROBE = str(ROOT / "configs" / "text_folder.py"), str(ROOT / "configs" / "probe_acl_arc.py")


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """What all sweeps here have on their command line, but for --out."""
    top = tmp_path_factory.mktemp("sweep")
    corpus = tiny_texts.write_corpus(top / "citation_intent", train=16, dev=8, test=8)
    model = tiny_texts.write_model(top / "tiny_bert")
    return [
        "sweep", "--config", CONFIG, "--probe", PROBE,
        f"--config.data.corpus={corpus}", f"--config.model.checkpoint={model}", "--config.data.buckets=1",
        "--config.data.longest=20", "--config.train.epochs=1", "--config.train.batch_size=8", "--config.anchors.min_count=1",
        f"--config.anchors.unigrams={tiny_texts.write_counts(top / 'counts.txt')}", "--config.model.dtype=float32",
        "--probe.probe.epochs=2", "--probe.data.buckets=1", "--probe.probe.seeds=2",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def compilations():
    """Counts the programs that were not found in the cache, in a list of one."""
    count = [0]

    def note(event: str, **_) -> None:
        count[0] += event == "/jax/compilation_cache/cache_misses"

    jax.monitoring.register_event_listener(note)
    yield count
    jax.monitoring.unregister_event_listener(note)


@pytest.fixture(scope="module")
def done(words, tmp_path_factory, compilations):
    """A sweep of two seeds of a method, and the model as it came; beside it, what each run and probe compiled."""
    out, compiled = tmp_path_factory.mktemp("out") / "sweep", []

    def counted(function):
        def run(*arguments):
            before = compilations[0]
            made = function(*arguments)
            compiled.append(compilations[0] - before)
            return made

        return run

    with pytest.MonkeyPatch.context() as patch:
        for name in ("pretrain_text", "probe_text"):
            patch.setattr(sweep, name, counted(getattr(sweep, name)))
        assert cli.main([*words, "--strategies", "none,span", "--seeds", "2", "--out", str(out)]) == 0
    (out.parent / "compiled.json").write_text(json.dumps(compiled))
    return out


@pytest.mark.slow
def test_the_second_seed_compiles_nothing(done):
    compiled = json.loads((done.parent / "compiled.json").read_text())
    assert len(compiled) == 5 and compiled[3:] == [0, 0]


@pytest.mark.slow
def test_every_method_and_seed_has_its_run_and_probe_and_one_report_shows_them(done):
    for seed in (0, 1):
        config = json.loads((done / "span" / f"seed_{seed}" / "run" / "config.json").read_text())
        assert config["train"]["seed"] == seed
        probe = json.loads((done / "span" / f"seed_{seed}" / "probe" / "probe.json").read_text())
        assert probe["pretraining"] == config and len(probe["scores"]["macro_f1"]) == 2
    assert json.loads((done / "none" / "probe" / "probe.json").read_text())["pretraining"] is None
    (group,) = json.loads((done / "report" / "report.json").read_text())["text"]["groups"]
    assert {row["method"]: row["runs"] for row in group["rows"]} == {"none": 1, "span": 2}


@pytest.mark.slow
def test_a_finished_sweep_only_reports_and_a_larger_one_adds_what_is_new(words, done, monkeypatch):
    begun = []
    monkeypatch.setattr(sweep, "pretrain_text", lambda config, folder, bar: begun.append(("run", folder)))
    monkeypatch.setattr(sweep, "probe_text", lambda config, checkpoint, folder, bar: begun.append(("probe", folder)))
    assert cli.main([*words, "--strategies", "span,none", "--seeds", "2", "--out", str(done)]) == 0
    assert begun == []
    assert cli.main([*words, "--strategies", "span,pmi", "--seeds", "2", "--out", str(done)]) == 0
    assert begun == [(what, done / "pmi" / f"seed_{seed}" / what) for seed in (0, 1) for what in ("run", "probe")]


@pytest.mark.slow
def test_another_configuration_in_the_same_folder_is_refused(words, done, capsys):
    changed = [*words, "--config.masking.ratio=0.4", "--strategies", "span", "--seeds", "1", "--out", str(done)]
    assert cli.main(changed) == 2
    assert "holds another run (masking.ratio: 0.25 -> 0.4)" in capsys.readouterr().err


@pytest.mark.slow
def test_another_corpus_in_the_same_folder_is_refused(words, done, tmp_path, capsys):
    corpus = tiny_texts.write_corpus(tmp_path / "citation_intent", train=17, dev=8, test=8)
    changed = [word for word in words if not word.startswith("--config.data.corpus")]
    changed += [f"--config.data.corpus={corpus}", "--strategies", "span", "--seeds", "1", "--out", str(done)]
    assert cli.main(changed) == 2
    assert "no longer holds what the run in" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--strategies", "span,span"], "names span twice"),
        (["--strategies", "span", "--seeds", "0"], "at least one"),
        (["--strategies", "span", "--config.masking.rate=0.4"], "has no field 'rate'"),
        (["--strategies", "span", "--probe.probe.head=2"], "has no field 'head'"),
        (["--strategies", "span", "--probe.data.corpus=/nowhere"], "no texts at /nowhere"),
        (["--strategies", "span", "--surprise"], "do not know what to do with '--surprise'"),
        (["--strategies", "span,selective"], "needs masking.classifier"),
        (["--strategies", "none,spam"], "masking.strategy='spam' is unknown"),
    ],
)
def test_mistakes_are_told_before_any_work(words, tmp_path, capsys, more, said):
    assert cli.main([*words, *more, "--out", str(tmp_path / "out")]) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_corpus_without_labels_is_told_before_any_work(words, tmp_path, capsys):
    for name in ("train", "dev", "test"):
        (tmp_path / f"{name}.txt").write_text("the parser of work\n")
    more = [f"--probe.data.corpus={tmp_path}", "--strategies", "span", "--out", str(tmp_path / "out")]
    assert cli.main([*words, *more]) == 2
    assert "have no labels" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_sweep_needs_a_model(words, tmp_path):
    fields = [word for word in words if word.startswith("--config.data.corpus")]
    with pytest.raises(UserError, match="needs --config.model.checkpoint"):
        sweep.sweep(CONFIG, ["span"], 1, PROBE, tmp_path / "out", fields)


@pytest.mark.slow
def test_with_a_byte_level_vocabulary_words_are_compared_by_the_tokens_of_their_texts(words, shared_data, tmp_path):
    folder = shared_data / "text_classification" / "citation_intent"
    (corpus := tmp_path / "citation_intent").mkdir()
    for split in ("train", "dev", "test"):
        lines = (folder / f"{split}.txt").read_text().splitlines(keepends=True)
        lines = [line for line in lines if json.loads(line)["label"] in ("Background", "Uses")][:48]
        (corpus / f"{split}.txt").write_text("".join(lines))
    texts = [json.loads(line)["text"] for line in lines]
    model = write_masked_model(tmp_path / "tiny_roberta", texts, "roberta", layers=1)
    other = ("--config.data.corpus", "--config.model.checkpoint", "--config.anchors.unigrams")
    given = [word for word in words if not word.startswith(other)]
    given += [f"--config.data.corpus={corpus}", f"--config.model.checkpoint={model}", "--config.data.longest=40"]
    assert cli.main([*given, "--strategies", "difference", "--seeds", "1", "--out", str(tmp_path / "out")]) == 0
    summary = json.loads((tmp_path / "out" / "difference" / "seed_0" / "run" / "summary.json").read_text())
    assert summary["words_compared_by_their_tokens"] == 1.0
