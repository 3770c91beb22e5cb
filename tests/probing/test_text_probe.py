"""Probing text models: heads and whole models learn what can be learnt, on words as on texts, and go on after a kill."""

import json
import shutil

import labelled_texts
import numpy as np
import pytest
from safetensors.numpy import load_file

from mmdiff.data.text_corpora import CorpusError, read_corpus
from mmdiff.data.text_tasks import make_task
from mmdiff.data.text_tokens import TextTokenizer
from mmdiff.errors import UserError
from mmdiff.models.pretrained_text import read_text_model
from mmdiff.probing import text_finetune, text_heads
from mmdiff.probing.text_config import TextProbeConfig, text_probing
from mmdiff.probing.text_probe import probe_text
from mmdiff.training.config import apply_preset, parse_config
from mmdiff.training.metrics import read_metrics


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    top = tmp_path_factory.mktemp("texts")
    labelled_texts.write_classes(top / "classes")
    labelled_texts.write_entities(top / "entities")
    labelled_texts.write_model(top / "bert", layers=1)
    labelled_texts.write_model(top / "roberta", "roberta", layers=1)
    return top


def quick(corpus, mode="linear", **fields) -> TextProbeConfig:
    """Two seeds of a few epochs."""
    config = text_probing(mode)
    config.data.corpus = str(corpus)
    config.probe.seeds, config.probe.epochs, config.probe.learning_rates, config.probe.batch_size = (
        2,
        12,
        (1e-3, 3e-2),
        8,
    )
    config.data.buckets = 2 if mode == "linear" else 1  # each length makes another program, large ones of finetuning
    config.train.epochs, config.train.batch_size, config.train.warmup_epochs = 3, 8, 0.0
    config.optimizer.learning_rate = 3e-3
    for name, value in fields.items():
        section, field = name.split("__")
        setattr(getattr(config, section), field, value)
    return config


@pytest.fixture(scope="module")
def linear(folder):
    """A linear probe of texts."""
    return folder / "linear", probe_text(quick(folder / "classes"), folder / "bert", folder / "linear", False)


@pytest.fixture(scope="module")
def finetuned(folder):
    return folder / "tuned", probe_text(quick(folder / "classes", "finetune"), folder / "bert", folder / "tuned", False)


def test_a_linear_probe_tells_learnable_classes_apart(linear):
    workdir, result = linear
    assert (result["kind"], result["task"], result["metric"], result["selection"]) == (
        "text", "classification", "macro_f1", "validation",
    )  # fmt: skip
    assert result["pretraining"] is None and result["labels"] == ["music", "sport"]
    assert min(result["scores"]["macro_f1"]) > 0.6 and result["scores"]["micro_f1"] == result["scores"]["accuracy"]
    assert result["baseline"]["accuracy"] == 0.5 and result["texts"] == {"train": 24, "validation": 8, "test": 8}
    assert set(result["per_label"]["music"]) == {"precision", "recall", "f1", "support"}
    lines = read_metrics(workdir / "metrics.jsonl")
    assert {(line["seed"], line["learning_rate"]) for line in lines} == {(s, r) for s in (0, 1) for r in (1e-3, 3e-2)}
    for seed, epoch in enumerate(result["epoch"]):
        chosen = [
            line for line in lines
            if line["split"] == "validation" and line["seed"] == seed and line["learning_rate"] == result["learning_rate"]
        ]  # fmt: skip
        assert (
            chosen[epoch - 1]["macro_f1"]
            == max(line["macro_f1"] for line in chosen)
            == result["selection_scores"][seed]
        )


def test_scores_without_texts_of_training_are_those_of_the_others(linear):
    workdir, result = linear
    assert result["duplicates"] == {"test": 8, "in_train": 3}
    with np.load(workdir / "predictions.npz", allow_pickle=False) as stored:
        assert stored["predicted"].shape == (2, 8) and stored["seen"].tolist() == [True] * 3 + [False] * 5
        right = stored["predicted"] == stored["gold"]
        assert right.mean(axis=1).tolist() == pytest.approx(result["scores"]["accuracy"])
        assert right[:, 3:].mean(axis=1).tolist() == pytest.approx(result["deduplicated_scores"]["accuracy"])


def test_validation_texts_of_training_are_counted_and_left_out_if_asked(folder, tmp_path, caplog):
    labelled_texts.write_classes(tmp_path / "classes")
    lines = [(tmp_path / "classes" / f"{name}.txt").read_text().splitlines(keepends=True) for name in ("train", "dev")]
    (tmp_path / "classes" / "dev.txt").write_text("".join([*lines[0][:2], *lines[1]]))
    found = {}
    for choice in ("all", "unseen"):
        caplog.clear()
        config = quick(tmp_path / "classes", probe__validation=choice, probe__seeds=1)
        found[choice] = probe_text(config, folder / "bert", tmp_path / choice, False)
        assert found[choice]["validation_duplicates"] == {"validation": 10, "in_train": 2}
        assert ("2 of 10 validation texts, which choose, are training texts, too" in caplog.text) == (choice == "all")
    assert [found[choice]["texts"]["validation"] for choice in found] == [10, 8]
    assert found["unseen"]["selection"] == "validation, unseen in training"


def test_features_are_computed_once(folder, linear, monkeypatch):
    workdir, result = linear
    assert result["feature_pass"]["train"]["computed_units"] == 24
    again = probe_text(quick(folder / "classes"), folder / "bert", workdir, False)
    assert [again["feature_pass"][name]["computed_units"] for name in ("train", "validation", "test")] == [0, 0, 0]
    assert again["scores"] == result["scores"]
    (features,) = (workdir / "features").iterdir()
    (features / "test.npy").write_bytes(b"damaged")
    again = probe_text(quick(folder / "classes"), folder / "bert", workdir, False)
    assert again["feature_pass"]["test"]["computed_units"] == 8 and again["scores"] == result["scores"]
    first = probe_text(quick(folder / "classes", probe__pool="first"), folder / "bert", workdir, False)
    assert first["feature_pass"]["train"]["computed_units"] == 24  # of other features


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_heads_of_words_find_entities(folder, tmp_path, family):
    result = probe_text(quick(folder / "entities", probe__epochs=25), folder / family, tmp_path / "probe", False)
    assert (result["task"], result["metric"], result["labels"]) == ("entities", "micro_f1", ["O", "B-Thing", "I-Thing"])
    assert min(result["scores"]["micro_f1"]) > 0.6 and result["baseline"]["micro_f1"] == 0.0
    assert result["per_label"]["Thing"]["support"] == 8
    with np.load(tmp_path / "probe" / "predictions.npz", allow_pickle=False) as stored:
        assert len(stored["document"]) == len(stored["id"])
        assert stored["first"][-1] == stored["gold"].shape[0] == 28 and (stored["predicted"] >= 0).all()


def test_finetuning_trains_everything_and_keeps_the_best_epoch(folder, finetuned):
    workdir, result = finetuned
    assert result["mode"] == "finetune" and len(result["scores"]["macro_f1"]) == 2
    (run,) = (workdir / "finetuned").iterdir()
    lines = [x for x in read_metrics(workdir / "metrics.jsonl") if x["split"] == "validation"]
    for seed in (0, 1):
        found = [line["macro_f1"] for line in lines if line["seed"] == seed]
        assert len(found) == 3 and result["selection_scores"][seed] == pytest.approx(max(found))
        assert result["epoch"][seed] == int(np.argmax(found)) + 1
        model = read_text_model(run / f"seed_{seed}" / "model")
        assert (model.labels, model.head) == (("music", "sport"), "sequence")
        assert not (run / f"seed_{seed}" / "checkpoints").exists()
    before, after = (load_file(path / "model.safetensors") for path in (folder / "bert", run / "seed_0" / "model"))
    moved = [name for name in after if name in before and (before[name] != after[name]).any()]
    assert any("layer.0" in name for name in moved) and any("word_embeddings" in name for name in moved)


def test_seeds_begin_with_the_models_encoder_and_pooler_and_a_classifier_of_their_own(folder):
    model = read_text_model(folder / "bert")
    task = make_task(read_corpus(folder / "classes"), TextTokenizer(model.tokenizer, 64))
    zero, one = (text_finetune.first_params(model, model.config, task, seed) for seed in (0, 1))
    assert set(zero) == {"encoder", "pooler", "classifier"}
    assert zero["encoder"] is model.params["encoder"] and zero["pooler"] is one["pooler"] is model.params["pooler"]
    assert (zero["classifier"]["out_proj"]["kernel"] != one["classifier"]["out_proj"]["kernel"]).all()


def test_a_killed_finetuning_ends_as_an_unbroken_one(folder, finetuned, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    whole, count = text_finetune.score, [0]

    def killing(*arguments):
        count[0] += 1
        if count[0] == 2:  # the second evaluation of the first seed
            raise Killed
        return whole(*arguments)

    monkeypatch.setattr(text_finetune, "score", killing)
    config = quick(folder / "classes", "finetune", probe__seeds=1)
    with pytest.raises(Killed):
        probe_text(config, folder / "bert", tmp_path / "probe", False)
    monkeypatch.undo()
    result = probe_text(config, folder / "bert", tmp_path / "probe", False)
    for name in ("scores", "last_epoch_scores"):
        assert {metric: found[:1] for metric, found in finetuned[1][name].items()} == result[name]
    whole, again = (next((x / "finetuned").iterdir()) / "seed_0" for x in (finetuned[0], tmp_path / "probe"))
    for file in ("predicted.npy", "model/model.safetensors"):
        assert (whole / file).read_bytes() == (again / file).read_bytes()


def test_finished_seeds_are_not_trained_again(folder, finetuned, monkeypatch):
    monkeypatch.setattr(text_finetune, "run_loop", None)
    again = probe_text(quick(folder / "classes", "finetune"), folder / "bert", finetuned[0], False)
    assert again["scores"] == finetuned[1]["scores"]


def test_finetuning_finds_entities_with_a_head_for_tokens(folder, tmp_path):
    config = quick(folder / "entities", "finetune", probe__seeds=1, train__epochs=6)
    result = probe_text(config, folder / "roberta", tmp_path / "probe", False)
    assert result["scores"]["micro_f1"][0] > 0.6
    (run,) = (tmp_path / "probe" / "finetuned").iterdir()
    model = read_text_model(run / "seed_0" / "model")
    assert (model.labels, model.head) == (("O", "B-Thing", "I-Thing"), "token")


def test_words_behind_the_window_are_told_to_be_outside(folder, tmp_path, caplog):
    config = quick(folder / "entities", data__longest=4, probe__seeds=1)
    result = probe_text(config, folder / "bert", tmp_path / "probe", False)
    assert result["cut_texts"]["test"] == 8 and "longer than the window" in caplog.text
    with np.load(tmp_path / "probe" / "predictions.npz", allow_pickle=False) as stored:
        assert (stored["predicted"] == -1).any() and stored["gold"].shape[0] == 28
    assert 0 <= result["scores"]["micro_f1"][0] < 1


def test_the_words_own_first_tokens_are_asked(folder):
    model = read_text_model(folder / "roberta")
    split = make_task(read_corpus(folder / "entities"), TextTokenizer(model.tokenizer, 60)).splits["test"]
    for number, (text, example) in enumerate(zip(split.texts, split.examples, strict=True)):
        encoded = model.tokenizer.encode(text.text)
        for place, (start, _) in zip(np.flatnonzero(example.label), text.spans, strict=True):
            first, last = encoded.offsets[place]
            assert text.text[first:last].strip() and start in (first, first + 1)
        tags = [("O", "B-Thing", "I-Thing")[x - 1] for x in example.label[example.label > 0]]
        assert tuple(tags) == text.tags and len(split.units_of(number)) == len(tags)


def test_a_learning_rate_is_chosen_on_validation_alone(folder, linear, monkeypatch):
    asked, scoring = [], text_heads.score
    monkeypatch.setattr(
        text_heads, "score", lambda task, split, *rest: asked.append(split) or scoring(task, split, *rest)
    )
    probe_text(quick(folder / "classes"), folder / "bert", linear[0], False)
    assert all(len(split) == 8 and split.texts[0].name.startswith("dev") for split in asked) and asked


def test_presets_and_arguments():
    paper = text_probing("paper", "accuracy")
    apply_preset(paper, paper.preset)
    assert (paper.mode, paper.optimizer.learning_rate, paper.train.epochs, paper.train.patience) == (
        "finetune", 1e-6, 10, 3,
    )  # fmt: skip
    assert paper.probe.metric_of("classification") == "accuracy" and text_probing("finetune").mode == "finetune"
    assert text_probing("finetune").optimizer.learning_rate == 2e-5
    with pytest.raises(UserError, match="known: linear, finetune, paper"):
        text_probing("lineer")
    with pytest.raises(UserError) as raised:
        parse_config(["--config=configs/probe_acl_arc.py:lineer"], TextProbeConfig)
    assert "known: linear, finetune, paper" in str(raised.value) and "Traceback" not in str(raised.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda top: (top / "test.txt").unlink(), "has no test texts"),
        (lambda top: [(top / f"{s}.txt").write_text("plain words here\n" * 5) for s in ("train", "dev", "test")],
         "have no labels"),
        (lambda top: [(top / f"{s}.txt").write_text('{"text": "a b", "label": "x"}\n') for s in ("train", "dev", "test")],
         "nothing to tell apart"),
        (lambda top: (top / "dev.txt").write_text('{"text": "a", "label": "other"}\n'), "line 1: 'other' is no label"),
    ],
)  # fmt: skip
def test_corpora_that_cannot_be_probed_say_why(folder, tmp_path, change, said):
    labelled_texts.write_classes(tmp_path / "corpus")
    change(tmp_path / "corpus")
    with pytest.raises(CorpusError, match=said):
        probe_text(quick(tmp_path / "corpus"), folder / "bert", tmp_path / "probe", False)


def test_a_folder_of_another_probe_is_refused(folder, linear):
    with pytest.raises(UserError, match="holds a probe of .*bert"):
        probe_text(quick(folder / "classes"), folder / "roberta", linear[0], False)


def test_a_run_that_has_no_model_yet_is_told(folder, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps({"masking": {"strategy": "random_word"}}))
    with pytest.raises(UserError, match="has not been evaluated yet"):
        probe_text(quick(folder / "classes"), tmp_path / "run", tmp_path / "probe", False)
    shutil.copytree(folder / "bert", tmp_path / "run" / "model")
    result = probe_text(quick(folder / "classes", probe__seeds=1), tmp_path / "run", tmp_path / "probe", False)
    assert result["pretraining"]["masking"]["strategy"] == "random_word"
