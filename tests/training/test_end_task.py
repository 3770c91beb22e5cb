"""Continued pretraining with the end task: one loss of both, a classifier that is trained, and a probe that goes on with it."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_texts

from mmdiff.data.loader import stack
from mmdiff.data.text_batches import padded
from mmdiff.data.text_corpora import read_corpus
from mmdiff.data.text_tokens import TextTokenizer
from mmdiff.models.pretrained_text import read_text_model
from mmdiff.probing.text_config import text_probing
from mmdiff.probing.text_probe import probe_text
from mmdiff.training import runs
from mmdiff.training.config import ConfigError, apply_preset, validate
from mmdiff.training.metrics import read_metrics
from mmdiff.training.pretrain import run_keys
from mmdiff.training.pretrain_text import build_objective, make_examples, pretrain_text
from mmdiff.training.text_config import TextPretrainConfig, paper_text_pretraining
from mmdiff.training.train_step import make_gradient

STEPS = 40


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    tiny_texts.write_corpus(folder / "corpus", train=48)
    tiny_texts.write_model(folder / "model", layers=1, hidden_size=64)
    return folder


def config(inputs, **objective) -> TextPretrainConfig:
    made = paper_text_pretraining("random_word")
    made.data.corpus, made.model.checkpoint = str(inputs / "corpus"), str(inputs / "model")
    made.data.buckets, made.model.dtype, made.optimizer.learning_rate = 1, "float32", 1e-2
    made.objective = dataclasses.replace(made.objective, **({"end_task": 1.0, "dropout": 0.0} | objective))
    fields = {
        "steps": STEPS,
        "batch_size": 8,
        "accumulation": 1,
        "log_every": 1,
        "evaluate_every": 20,
        "save_every": 20,
    }
    made.train = dataclasses.replace(made.train, warmup_epochs=0.0, **fields)
    return made


def parts(inputs, **objective):
    made = config(inputs, **objective)
    model = read_text_model(made.model.checkpoint)
    tokenizer = TextTokenizer(model.tokenizer, 40)
    examples = make_examples(made, read_corpus(made.data.corpus), tokenizer, model, progress_bar=False)
    objective, params = build_objective(made, model, tokenizer, examples, *run_keys(0))
    batch = stack([padded(example, max(examples.lengths)) for example in examples.made["train"][:8]])
    return objective, params, jax.tree.map(jnp.asarray, batch)


def test_the_loss_is_that_of_masked_language_plus_that_of_labels_however_a_batch_is_split(inputs):
    objective, params, batch = parts(inputs, end_task=0.5)
    given = params, batch, jax.random.key(1), jnp.zeros((), jnp.int32)
    loss, metrics = jax.jit(lambda *given: objective(*given))(*given)
    language, _ = jax.jit(lambda *given: objective.language(*given))(*given)
    logits = jax.jit(lambda params, batch: objective.model.apply(
        {"params": params}, batch.tokens, batch.valid, method="classify"
    ))(params, batch)  # fmt: skip
    likely = np.asarray(jax.nn.log_softmax(logits))[np.arange(8), np.asarray(batch.label) - 1]
    np.testing.assert_allclose(loss, language - 0.5 * likely.mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["end_task_loss"], -likely.mean(), rtol=1e-5)
    grads, _ = jax.jit(make_gradient(objective, 1))(*given)
    again, split = jax.jit(make_gradient(objective, 4))(*given)
    np.testing.assert_allclose(split["loss"], loss, rtol=1e-5)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=2e-6), again, grads)


@pytest.fixture(scope="module")
def run(inputs, tmp_path_factory):
    return pretrain_text(config(inputs), tmp_path_factory.mktemp("run") / "run", progress_bar=False)


def test_the_best_parameters_are_those_with_the_best_score_on_validation(run):
    lines = {line["step"]: line for line in read_metrics(run / runs.METRICS) if line["split"] == "validation"}
    summary = json.loads((run / runs.SUMMARY).read_text())
    scores = {step: line["end_task_macro_f1"] for step, line in lines.items()}
    assert list(scores) == [20, 40]
    assert summary["best_end_task_macro_f1"] == max(scores.values()) == scores[summary["best_step"]] > 0.8
    model = read_text_model(run / runs.TEXT_MODEL)
    assert (model.head, tuple(model.labels)) == ("sequence", tiny_texts.LABELS)


def test_the_papers_probe_goes_on_with_the_classifier_and_a_model_without_one_is_refused(run, inputs, tmp_path):
    settings = text_probing("paper")
    apply_preset(settings, "paper")
    settings.data.corpus, settings.data.buckets, settings.probe.seeds = str(inputs / "corpus"), 1, 1
    settings.train.epochs, settings.train.batch_size = 1, 8
    assert (settings.mode, settings.optimizer.learning_rate, settings.optimizer.clip) == ("finetune", 1e-6, 1.0)
    result = probe_text(settings, run, tmp_path / "probe", False)
    best = json.loads((run / runs.SUMMARY).read_text())["best_end_task_macro_f1"]
    assert result["selection_scores"] == [pytest.approx(best)] and best > result["baseline"]["macro_f1"]
    with pytest.raises(
        ConfigError, match=r"needs a classifier of Background, Uses, and model has none: a run of .*end_task"
    ):
        probe_text(settings, inputs / "model", tmp_path / "other", False)


def test_labels_are_warned_of_and_a_corpus_without_them_is_refused(inputs, tmp_path, caplog):
    made = config(inputs)
    model = read_text_model(made.model.checkpoint)
    tokenizer = TextTokenizer(model.tokenizer, 40)
    make_examples(made, read_corpus(made.data.corpus), tokenizer, model, progress_bar=False)
    assert "the labels of training texts enter pretraining" in caplog.text
    (tmp_path / "plain.txt").write_text("a parser of time\nthe model of old time\n")
    with pytest.raises(ConfigError, match="needs texts with a label each and a validation split"):
        make_examples(made, read_corpus(tmp_path / "plain.txt"), tokenizer, model, progress_bar=False)
    made.objective.soft_masked_gradients, made.objective.dropout = True, 0.1
    with pytest.raises(ConfigError, match="do not go together"):
        validate(made)


def test_the_official_code_trains_the_end_task_with_clipped_gradients():
    made = paper_text_pretraining("difference")
    apply_preset(made, "official_code")
    assert (made.objective.end_task, made.optimizer.clip, made.train.evaluate_every) == (1.0, 1.0, 30)
