"""What each token tells of its text's label: by hand, by both rules, for another vocabulary, and kept."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from text_encoders import applied, train_vocabulary, write_masked_model

from mmdiff.data.text_corpora import Text, read_corpus
from mmdiff.data.text_examples import Annotations, text_examples
from mmdiff.data.text_tokens import TextTokenizer
from mmdiff.masking import selective
from mmdiff.masking.selective import SelectiveError, important_words, token_importance
from mmdiff.models.pretrained_text import read_text_model
from mmdiff.models.text_encoder import TextModel

SAID = ["<< Lithium >> causes tremor", "we extend the parser of Collins", "parsing", "the the unheard-of ☃ the"]
LABELS = ("Background", "Uses", "Extends")
LONGEST, PROGRAMS = 40, {}
TEXTS = [Text(f"train.txt:{i}", said, LABELS[i % 3], None, None) for i, said in enumerate(SAID)]


@pytest.fixture(scope="module", params=["bert", "roberta"])
def classifier(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("classifiers") / request.param
    parts = ("encoder", "pooler", "classifier") if request.param == "bert" else ("encoder", "classifier")
    read = read_text_model(
        write_masked_model(folder, SAID[:3], request.param, parts=parts, labels=LABELS, head="sequence", seed=3)
    )
    # So large that texts and labels are told apart.
    grown = jax.tree.map(lambda x: np.asarray(x) * (12 if x.ndim == 2 else 1), read.params)
    return read._replace(params=grown)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MMDIFF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def tokenized(classifier):
    return TextTokenizer(classifier.tokenizer, classifier.config.longest).encode(SAID)


def told(classifier, tokens):
    """The probabilities of the labels, of one row."""
    if classifier.digest not in PROGRAMS:
        module = TextModel(classifier.config, len(LABELS), "sequence")
        PROGRAMS[classifier.digest] = jax.jit(
            lambda tokens, valid: jax.nn.softmax(
                module.apply({"params": classifier.params}, tokens, valid, method="classify")[0]
            )
        )
    row = np.zeros((1, LONGEST), np.int32)
    row[0, : len(tokens)] = tokens
    return np.asarray(PROGRAMS[classifier.digest](row, np.arange(LONGEST)[None] < len(tokens)))


def test_by_prefixes_a_token_has_what_is_still_to_be_told_behind_it(classifier):
    found = tokenized(classifier)
    importance = token_importance(classifier, TEXTS, found, "prefix", progress_bar=False)
    some = 0
    for i, (text, x) in enumerate(zip(found, importance, strict=True)):
        assert x.shape == text.tokens.shape and x.dtype == np.float32
        whole, label = told(classifier, text.tokens), i % 3
        for place in range(len(text.tokens)):
            prefix = [*text.tokens[: place + 1], text.tokens[-1]]
            expected = max(whole[label] - told(classifier, prefix)[label], 0) if text.word[place] else 0
            assert x[place] == pytest.approx(expected, abs=1e-5)
            some += expected > 1e-3
    assert some > 3


def test_special_tokens_and_markers_have_none(classifier):
    found = tokenized(classifier)
    for x, text in zip(token_importance(classifier, TEXTS, found, progress_bar=False), found, strict=True):
        assert not x[text.word == 0].any()


def test_the_original_rule_forgets_what_it_marks_and_skips_texts_that_are_told_wrong(classifier, caplog):
    caplog.set_level(logging.WARNING)
    found, threshold = tokenized(classifier), 0.2
    importance = token_importance(classifier, TEXTS, found, "buffer", threshold, progress_bar=False)
    wrong = 0
    for i, (text, x) in enumerate(zip(found, importance, strict=True)):
        whole, label, buffer = told(classifier, text.tokens), i % 3, []
        expected = np.zeros(len(text.tokens))
        wrong += whole.argmax() != label
        for place in range(1, len(text.tokens) - 1):
            tried = [text.tokens[0], *buffer, text.tokens[place], text.tokens[-1]]
            if whole.argmax() != label:
                break
            if whole[label] - told(classifier, tried)[label] < threshold:
                expected[place] = 1
            else:
                buffer.append(text.tokens[place])
        np.testing.assert_array_equal(x, np.where(text.word > 0, expected, 0))
    assert 0 < wrong < len(SAID)
    assert f"the classifier is wrong about {wrong} of 4 sentences" in caplog.text


def test_each_sentence_of_a_text_is_marked_by_itself(classifier):
    parts = ["we extend the parser of Collins.", "Lithium causes tremor"]
    texts = [Text(f"train.txt:{i}", said, "Uses", None, None) for i, said in enumerate((" ".join(parts), *parts))]
    found = TextTokenizer(classifier.tokenizer, classifier.config.longest).encode([text.text for text in texts])
    both, *alone = token_importance(
        classifier, texts, found, "buffer", 2.0, progress_bar=False
    )  # all that is told right
    inner = [marks[1:-1] for marks, text in zip(alone, texts[1:], strict=True)]
    if found[0].tokens[1:-1].tolist() == np.concatenate([x.tokens[1:-1] for x in found[1:]]).tolist():
        np.testing.assert_array_equal(both[1:-1], np.concatenate(inner))
    assert both.any() == any(x.any() for x in alone)


def test_the_second_model_marks_texts_without_labels(tmp_path, classifier):
    """A model that was finetuned on the marks of the first; its words have the probability that they are important."""
    parts, labels = ("encoder", "classifier"), ("O", "B-IMPORTANT", "I-IMPORTANT")
    folder = write_masked_model(tmp_path / "tagger", SAID[:3], "bert", parts=parts, labels=labels, head="token")
    tagger = read_text_model(folder)
    texts = [text._replace(label=None) for text in TEXTS]
    found = TextTokenizer(tagger.tokenizer, 64).encode(SAID)
    importance = token_importance(tagger, texts, found, progress_bar=False)
    module, params = TextModel(tagger.config, 3, "token"), jax.tree.map(jnp.asarray, tagger.params)
    for text, x in zip(found, importance, strict=True):
        given = jnp.asarray(text.tokens)[None], jnp.ones((1, len(x)), bool)
        logits = applied(module, params, "classify_tokens", *given)
        expected = 1 - np.asarray(jax.nn.softmax(logits))[0, :, 0]
        for place in np.flatnonzero(text.word):
            first = np.flatnonzero(text.word == text.word[place])[0]
            assert x[place] == pytest.approx(expected[first], abs=1e-5)
        assert not x[text.word == 0].any() and x.any()


def test_marks_are_a_corpus_of_tagged_words(tmp_path):
    texts = TEXTS[:2]
    found = TextTokenizer(train_vocabulary(SAID), 64).encode(SAID[:2])
    examples = [
        example._replace(importance=np.isin(example.word, marked).astype(np.float32))
        for example, marked in zip(text_examples(texts, found, Annotations()), ([2, 4, 5], [4]), strict=True)
    ]
    (tmp_path / "train.tsv").write_text(important_words(texts, examples))
    (first, second) = read_corpus(tmp_path).splits["train"]
    assert first.tags == ("O", "B-IMPORTANT", "O", "B-IMPORTANT", "I-IMPORTANT")
    assert second.tags == ("O", "O", "O", "B-IMPORTANT", "O", "O")
    # Of words behind the window nothing is known.
    short = examples[0]._replace(word=np.where(examples[0].word > 2, 0, examples[0].word))
    assert important_words(texts[:1], [short]) == "<<\tO\nLithium\tB-IMPORTANT\n\n"


def test_padding_and_other_texts_change_nothing(classifier, cache):
    found = tokenized(classifier)
    together = token_importance(classifier, TEXTS, found, progress_bar=False)
    for i in range(len(TEXTS)):
        alone = token_importance(classifier, TEXTS[i : i + 1], found[i : i + 1], progress_bar=False)[0]
        np.testing.assert_allclose(alone, together[i], atol=1e-5)


def test_another_vocabulary_gets_what_its_characters_have(classifier):
    other = TextTokenizer(train_vocabulary(SAID, "roberta", size=45), 64).encode(SAID)  # nearly every byte a token
    own = tokenized(classifier)
    mine = token_importance(classifier, TEXTS, own, progress_bar=False)
    theirs = token_importance(classifier, TEXTS, other, progress_bar=False)
    for a, x, b, y in zip(own, mine, other, theirs, strict=True):
        assert len(b.tokens) > len(a.tokens)
        for i in range(len(b.tokens)):
            shared = (a.start < b.end[i]) & (a.end > b.start[i])
            # What the classifier's vocabulary lacks has an importance, but no word there.
            if a.word[shared].all():
                assert y[i] == (x[shared].max(initial=0) if b.word[i] else 0)
    assert any(y.any() for y in theirs)


def test_what_was_found_is_kept_and_a_damaged_file_is_made_anew(classifier, cache, monkeypatch, caplog):
    found = tokenized(classifier)
    first = token_importance(classifier, TEXTS, found, progress_bar=False)
    (kept,) = (cache / "token_importance").iterdir()
    with monkeypatch.context() as patched:
        patched.setattr(selective, "_by_buffer", lambda *_: pytest.fail("computed again"))
        again = token_importance(classifier, TEXTS, found, progress_bar=False)
        for one, other in zip(first, again, strict=True):
            np.testing.assert_array_equal(one, other)
    kept.write_bytes(kept.read_bytes()[:-4])
    for one, other in zip(first, token_importance(classifier, TEXTS, found, progress_bar=False), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    assert "is damaged: it is made anew" in caplog.text
    # Other labels are another question.
    relabelled = [text._replace(label="Uses") for text in TEXTS]
    token_importance(classifier, relabelled, found, progress_bar=False)
    assert len(list((cache / "token_importance").iterdir())) == 2


def test_a_classifier_that_does_not_go_with_the_texts_is_named(classifier):
    found = tokenized(classifier)
    with pytest.raises(
        SelectiveError, match="train.txt:0 has the label 'Use', and the classifier .* knows Background, Uses"
    ):
        token_importance(classifier, [TEXTS[0]._replace(label="Use")], found[:1], progress_bar=False)
    with pytest.raises(SelectiveError, match="train.txt:0 has no label"):
        token_importance(classifier, [TEXTS[0]._replace(label=None)], found[:1], progress_bar=False)
    with pytest.raises(SelectiveError, match="none of its labels is O"):
        token_importance(classifier._replace(head="token"), TEXTS, found, progress_bar=False)
    with pytest.raises(ValueError, match="no rule of importance is called 'suffix'; known: buffer, prefix"):
        token_importance(classifier, TEXTS, found, "suffix", progress_bar=False)
