"""Continued pretraining on text: every method runs, runs resume bit for bit, and what is kept can be read."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_texts
from text_encoders import drawn_params

from mmdiff.cli import main
from mmdiff.data.loader import stack
from mmdiff.data.text_batches import padded
from mmdiff.data.text_corpora import CorpusError, read_corpus
from mmdiff.data.text_tokens import TextTokenizer
from mmdiff.errors import UserError
from mmdiff.masking.anchors import AnchorsConfig
from mmdiff.masking.word_strategies import find
from mmdiff.models.pretrained_text import read_text_model, write_text_model
from mmdiff.training import runs
from mmdiff.training.config import ConfigError, PretrainConfig, apply_preset, parse_config, validate
from mmdiff.training.metrics import read_metrics
from mmdiff.training.pretrain import run_keys
from mmdiff.training.pretrain_text import (
    build_objective,
    hidden_words,
    make_examples,
    pretrain_text,
    settled,
)
from mmdiff.training.text_config import TEXT_METHODS, TextPretrainConfig, paper_text_pretraining
from mmdiff.training.text_inputs import distinct, open_tokenizer


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A folder with a corpus, a model, one that classifies, and counts of words in general."""
    folder = tmp_path_factory.mktemp("inputs")
    tiny_texts.write_corpus(folder / "corpus")
    tiny_texts.write_counts(folder / "counts.txt")
    (folder / "terms.txt").write_text("\n".join(tiny_texts.PARSERS))
    tiny_texts.write_model(folder / "model", layers=1)
    plain = read_text_model(folder / "model")
    parts = ("encoder", "pooler", "classifier")
    params = drawn_params(plain.config, jax.random.key(1), parts, len(tiny_texts.LABELS), "sequence")
    tokenizer = TextTokenizer(plain.tokenizer, 40)
    write_text_model(folder / "classifier", plain.config, params, tokenizer.json(), tiny_texts.LABELS, "sequence")
    return folder


def config(inputs, method: str = "difference", **train) -> TextPretrainConfig:
    """A run that takes seconds."""
    made = paper_text_pretraining(method)
    made.data.corpus, made.model.checkpoint = str(inputs / "corpus"), str(inputs / "model")
    made.data.buckets, made.model.dtype = 1, "float32"
    made.masking.classifier = str(inputs / "classifier")
    made.masking.entities = made.masking.entities or str(inputs / "terms.txt")
    made.anchors.unigrams, made.anchors.find, made.anchors.min_count = str(inputs / "counts.txt"), 4, 2
    fields = {"steps": 4, "batch_size": 8, "accumulation": 1, "log_every": 1, "evaluate_every": 2, "save_every": 2}
    made.train = dataclasses.replace(made.train, **(fields | train))
    return made


@pytest.fixture(scope="module")
def run(inputs, tmp_path_factory):
    return pretrain_text(config(inputs), tmp_path_factory.mktemp("run") / "run", progress_bar=False)


def parts_of(made: TextPretrainConfig):
    """Objective, parameters and examples of a configuration."""
    made = settled(made)
    validate(made)
    model = read_text_model(made.model.checkpoint)
    tokenizer = open_tokenizer(made, model)
    examples = make_examples(made, read_corpus(made.data.corpus), tokenizer, model, progress_bar=False)
    init_key, step_key = run_keys(0)
    return *build_objective(made, model, tokenizer, examples, init_key, step_key), examples, step_key


@pytest.mark.parametrize("method", TEXT_METHODS)
def test_every_method_has_a_loss_and_hides_what_it_says(inputs, method):
    made = config(inputs, method)
    made.anchors.min_similarity = (
        0.999 if made.anchors.compare == "nearest" else 0.0
    )  # a random model takes all words for alike
    objective, params, examples, key = parts_of(made)
    longest = max(examples.lengths)
    batch = stack([padded(example, longest) for example in examples.made["train"][:8]])
    loss, metrics = jax.jit(lambda *arguments: objective(*arguments))(params, batch, key, np.int32(0))
    assert float(loss) == pytest.approx(float(metrics["loss"]), rel=1e-6) and np.isfinite(float(loss))
    # A random model knows nothing: each token of the vocabulary is as likely.
    vocabulary = len(params["mlm_head"]["bias"])
    assert float(metrics["masked_loss"]) == pytest.approx(np.log(vocabulary), rel=0.15)
    if not find(made.masking.strategy).any_number:
        assert 0.15 < float(metrics["hidden_share"]) <= 0.25
    found = hidden_words(objective, examples, key)
    assert found["texts"] == len(examples.made["train"]) and len(found["samples"]) == 8
    share = {
        word: found["hidden"].get(word, 0) / found["occurs"].get(word, 1) for word in ("the", "a", *tiny_texts.PARSERS)
    }
    domain = np.mean([share[word] for word in tiny_texts.PARSERS])
    if method.startswith(("difference", "salient", "mslm", "entity")) and method != "difference_centroid":
        assert domain > np.mean([share["the"], share["a"]])


def test_the_anchors_are_the_domains_words(run):
    anchors = json.loads((run / runs.ANCHORS).read_text())
    assert set(anchors["words"]) <= set(tiny_texts.PARSERS) and len(anchors["words"]) == 4
    assert anchors["labels"][anchors["words"][0]] == 1.0


def test_a_run_says_what_it_did(run):
    lines = read_metrics(run / runs.METRICS)
    assert [line["step"] for line in lines if line["split"] == "train"] == [1, 2, 3, 4]
    assert [line["step"] for line in lines if line["split"] == "validation"] == [2, 4]
    assert {"loss", "masked_loss", "accuracy", "hidden_share", "hidden_similarity", "mfu"} <= set(lines[0])
    # Steps of one shape: each line counts the FLOPs of its own.
    flops = [line["mfu"] * line["seconds_per_step"] for line in lines if line["split"] == "train"]
    assert flops == pytest.approx([flops[0]] * 4)
    summary = json.loads((run / runs.SUMMARY).read_text())
    assert summary["kind"] == "text" and summary["dataset"] == "corpus" and summary["step"] == 4
    sample = json.loads((run / runs.HIDDEN_WORDS).read_text())["samples"][0]
    assert any(hidden for _, _, hidden, _ in sample["words"])
    assert sample["name"] == "train.txt:1" and sample["label"] in tiny_texts.LABELS


def test_the_model_that_is_kept_is_a_folder_as_it_came(run, inputs):
    before, after = read_text_model(inputs / "model"), read_text_model(run / runs.TEXT_MODEL)
    assert set(after.params) == set(before.params) == {"encoder", "pooler", "mlm_head"}
    assert after.tokenizer.to_str() == before.tokenizer.to_str()
    jax.tree.map(np.testing.assert_array_equal, after.params["pooler"], before.params["pooler"])
    encoders = jax.device_get((after.params["encoder"], before.params["encoder"]))
    moved = jax.tree.map(lambda x, y: float(np.abs(x - y).max()), *encoders)
    assert max(jax.tree.leaves(moved)) > 1e-5


def test_a_resumed_run_equals_the_unbroken_one(run, inputs, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(run, again)
    shutil.rmtree(again / "checkpoints" / "4")
    shutil.rmtree(again / runs.TEXT_MODEL)
    for name in (runs.SUMMARY, runs.HIDDEN_WORDS):
        (again / name).unlink()
    pretrain_text(config(inputs), again, progress_bar=False)
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (again / runs.TEXT_MODEL / name).read_bytes() == (run / runs.TEXT_MODEL / name).read_bytes()
    assert (again / runs.HIDDEN_WORDS).read_bytes() == (run / runs.HIDDEN_WORDS).read_bytes()


def test_other_texts_are_another_run(run, inputs, tmp_path):
    corpus = tmp_path / "corpus"
    shutil.copytree(inputs / "corpus", corpus)
    (corpus / "dev.txt").write_text('{"text": "Another parser .", "label": "Uses"}\n')
    made = config(inputs)
    made.data.corpus = str(corpus)
    with pytest.raises(runs.RunError, match="no longer holds what the run in"):
        pretrain_text(made, run, progress_bar=False)


def test_another_classifier_is_another_run(inputs, tmp_path, monkeypatch):
    made = config(inputs, "selective")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        # Stopped before its first step, the folder is the run's.
        patch.setattr("mmdiff.training.pretrain_text.open_position", _interrupt)
        pretrain_text(made, tmp_path / "run", progress_bar=False)
    labels = tiny_texts.LABELS[::-1]
    plain = read_text_model(inputs / "classifier")
    write_text_model(tmp_path / "other", plain.config, plain.params, plain.tokenizer.to_str(), labels, "sequence")
    made.masking.classifier = str(tmp_path / "other")
    with pytest.raises(runs.RunError, match="other no longer holds what the run in"):
        pretrain_text(made, tmp_path / "run", progress_bar=False)


def _interrupt(*_):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"dev.txt": "the model\n"}, "holds no texts to train on, only validation"),
        ({"train.txt": "the model\n", "dev.txt": "<< >>\n"}, "none of the 1 validation texts"),
        ({"train.txt": "<< >>\n[[ ]]\n"}, "none of the 2 train texts"),
    ],
)
def test_texts_that_nothing_can_be_learned_from_are_refused(inputs, tmp_path, files, said):
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    made = config(inputs, "random_word")
    made.data.corpus = str(tmp_path)
    with pytest.raises(CorpusError, match=said):
        pretrain_text(made, tmp_path / "run", progress_bar=False)


def test_texts_of_several_lengths_train_in_one_run(inputs, tmp_path):
    made = config(inputs)
    made.data.buckets = 2
    folder = pretrain_text(made, tmp_path / "run", progress_bar=False)
    lines = [line for line in read_metrics(folder / runs.METRICS) if line["split"] == "train"]
    assert len(lines) == 4 and all(np.isfinite(line["loss"]) for line in lines)
    assert (
        len({round(line["mfu"] * line["seconds_per_step"], 12) for line in lines}) == 2
    )  # FLOPs of a step of each length


def test_texts_that_differ_in_markers_alone_are_one(tmp_path):
    lines = ["the << parser >> of [[ time ]]", "the [[ parser ]] of << time >>", "the parser of work"]
    (tmp_path / "texts.txt").write_text("\n".join(lines))
    texts = read_corpus(tmp_path / "texts.txt").splits["train"]
    assert [text.text for text in distinct(texts)] == [lines[0], lines[2]]


def test_the_official_code_differs_where_it_does(inputs):
    made = config(inputs)
    apply_preset(made, "official_code")
    with pytest.raises(ConfigError, match="the authors compare words by bert-base-uncased"):
        settled(made)
    with pytest.raises(ConfigError, match="is what the authors' code does for difference, random_token, random_word"):
        settled(dataclasses.replace(made, masking=dataclasses.replace(made.masking, strategy="span")))
    made.anchors.text_encoder = made.model.checkpoint
    assert (made.masking.punctuation, made.masking.words) == ("hidden", "spaces")
    assert (made.masking.ratio, made.masking.weights, made.anchors.pool) == (0.15, "rank", "pooler")
    objective, _, examples, key = parts_of(made)
    batch = stack([padded(example, max(examples.lengths)) for example in examples.made["train"]])
    hide = objective.language.hide  # beside the end task
    hidden = np.asarray(jax.jit(lambda *arguments: hide(*arguments)[0].hidden)(batch, key, jnp.int32(0)))
    np.testing.assert_array_equal(hidden.sum(axis=1), np.maximum((0.15 * (batch.word > 0).sum(axis=1)).astype(int), 1))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--config.data.corpus=nowhere"], "no texts at nowhere"),
        (["--config.model.checkpoint=nowhere"], "no folder of a text encoder at nowhere"),
        (["--config.masking.strategy=difrence"], "masking.strategy='difrence' is unknown"),
        (["--config.masking.ratio=1.5"], "masking.ratio=1.5"),
        (["--config.data.corpus="], "data.corpus is missing"),
        (["--config.anchors.min_count=1000"], "lower min_count"),
        (["--config.train.batch_size=9"], "that 8 devices cannot share"),
    ],
)
def test_a_mistake_gets_a_sentence(inputs, tmp_path, capsys, words, said):
    file = tmp_path / "config.py"
    file.write_text(
        "from mmdiff.training.text_config import paper_text_pretraining as get\n"
        "def get_config(method='difference'):\n"
        "    made = get(method)\n"
        f"    made.data.corpus, made.model.checkpoint = {str(inputs / 'corpus')!r}, {str(inputs / 'model')!r}\n"
        f"    made.anchors.unigrams, made.anchors.min_count = {str(inputs / 'counts.txt')!r}, 2\n"
        "    made.train.batch_size, made.train.accumulation = 8, 1\n"
        "    return made\n"
    )
    code = main(["pretrain", f"--config={file}", "--workdir", str(tmp_path / "run"), *words])
    assert code == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run" / runs.CONFIG).exists()  # mended, the same command may have the folder


def test_the_projects_configurations_are_those_of_the_paper():
    for name in ("acl_arc", "chemprot"):
        made = parse_config([f"--config=configs/{name}.py:mst"], PretrainConfig, TextPretrainConfig)
        assert (made.masking.strategy, made.masking.ratio, made.anchors.find) == ("mst", 0.25, 20)
        assert (made.optimizer.learning_rate, made.train.epochs, made.train.patience) == (1e-4, 150, 20)
        assert made.train.evaluate_every == 30  # updates


def test_anchors_of_text_are_found_unless_given():
    assert TextPretrainConfig().anchors == dataclasses.replace(AnchorsConfig(), words=(), find=20, listed=True)
    with pytest.raises(UserError, match="leaves no anchors"):
        made = TextPretrainConfig()
        made.data.corpus = made.model.checkpoint = "somewhere"
        made.anchors.find = 0
        validate(made)


def test_texts_without_an_entity_are_left_out_where_nothing_else_is_hidden(inputs, caplog):
    made = config(inputs, "salient_span")
    (terms := inputs / "few.txt").write_text("treebank\n")
    made.masking.entities = str(terms)
    having = ["treebank" in text for text, _ in tiny_texts.texts(24)]
    objective, _, examples, key = parts_of(made)
    assert len(examples.made["train"]) == len(examples.texts["train"]) == sum(having) < 24
    assert f"{24 - sum(having)} of 24 train texts hold no term, and are left out" in caplog.text
    hidden = hidden_words(objective, examples, key)["hidden"]
    assert {word for word, count in hidden.items() if count} == {"treebank"} and hidden["treebank"] == sum(having)
    terms.write_text("laptop\n")
    with pytest.raises(CorpusError, match="no train text holds a term of masking.entities="):
        parts_of(made)


def test_a_corpus_without_tags_needs_entities_of_its_own(inputs):
    made = config(inputs, "entity")
    made.masking.entities = ""
    with pytest.raises(UserError, match="corpus has no tags: give masking.entities"):
        parts_of(made)


@pytest.mark.parametrize("strategy", ["random_token", "random_word", "difference", "span"])
@pytest.mark.parametrize("punctuation", ["kept", "hidden"])
def test_punctuation_is_the_same_for_every_method(inputs, strategy, punctuation):
    made = config(inputs, strategy)
    made.masking.punctuation, made.masking.ratio, made.masking.static = punctuation, 0.5, True
    objective, _, examples, key = parts_of(made)
    batch = stack([padded(example, max(examples.lengths)) for example in examples.made["train"]])
    hide = jax.jit(lambda *arguments: objective.hide(*arguments)[0].hidden)
    full_stop = np.asarray(batch.tokens) == read_text_model(made.model.checkpoint).tokenizer.token_to_id(".")
    hidden = np.asarray(hide(batch, key, jnp.int32(0))) & full_stop
    assert full_stop.sum() == 24 and hidden.any() == (punctuation == "hidden")
