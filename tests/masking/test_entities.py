"""Terms of a domain in texts: from tags, lists, anchors and taggers."""

import logging

import jax
import numpy as np
import pytest
from text_encoders import write_masked_model

from mmdiff.data.text_corpora import Text, entity_spans, iob2, read_corpus
from mmdiff.data.text_tasks import first_tokens
from mmdiff.data.text_tokens import TextTokenizer, word_spans
from mmdiff.masking.anchors import WordAnchors
from mmdiff.masking.entities import EntityError, Tagger, Terms, open_entities, read_terms
from mmdiff.models.pretrained import CheckpointError
from mmdiff.models.pretrained_text import read_text_model
from mmdiff.models.text_encoder import TextModel

TEXTS = [
    "Lithium carbonate causes << tremor >> in lithium users .",
    "The EGF-receptor , an EGF receptor , binds lithium",
    "Parkinson's disease and fever",
    "no term is here",
]


def text(said):
    return Text("train.txt:1", said, None, None, None)


def found(finder, said):
    return [said[start:end] for start, end in finder(text(said))]


@pytest.fixture
def corpus(tmp_path):
    (tmp_path / "train.txt").write_text("\n".join(TEXTS) + "\n")
    return read_corpus(tmp_path / "train.txt")


@pytest.fixture
def tagged_corpus(tmp_path):
    rows = "Lithium\tB-Chemical\ncarbonate\tI-Chemical\ncauses\tO\ntremor\tB-Disease\nfever\tB-Disease\n\nnone\tO\n"
    (tmp_path / "train.tsv").write_text(rows)
    return read_corpus(tmp_path / "train.tsv")


def test_the_tags_of_a_corpus_are_its_entities(tagged_corpus):
    for source in ("conll", ""):
        finder = open_entities(source, tagged_corpus)
        said = tagged_corpus.splits["train"]
        assert [said[0].text[start:end] for start, end in finder(said[0])] == ["Lithium carbonate", "tremor", "fever"]
        assert finder(said[1]) == []


def test_terms_are_found_in_any_case_longest_first_and_never_inside_each_other():
    finder = Terms(
        ["lithium", "lithium carbonate", "carbonate causes", "egf receptor", "EGF-receptor", "Parkinson disease"]
    )
    assert found(finder, TEXTS[0]) == ["Lithium carbonate", "lithium"]
    assert found(finder, TEXTS[1]) == ["EGF-receptor", "EGF receptor", "lithium"]
    assert found(finder, TEXTS[2]) == ["Parkinson's disease"]
    assert found(finder, "lithiums EGF  receptor") == ["EGF  receptor"]
    assert found(finder, "") == found(finder, TEXTS[3]) == []


def test_a_term_that_breaks_off_gives_back_what_it_had_and_what_follows():
    finder = Terms(["a b c d", "a b", "b c", "c"])
    assert found(finder, "a b c e") == ["a b", "c"]
    assert found(finder, "x b c d") == ["b c"]


def test_anchors_are_terms(corpus):
    finder = open_entities("anchors", corpus, WordAnchors(["lithium", "fever"]))
    assert found(finder, TEXTS[0]) == ["Lithium", "lithium"]


def test_a_file_holds_a_term_on_each_line_and_what_is_odd_in_it_is_told(tmp_path, corpus, caplog):
    caplog.set_level(logging.WARNING)
    path = tmp_path / "terms.txt"
    path.write_bytes("\ufefflithium\r\n\nEGF receptor\nLithium\n  \negf  receptor\nfever\n".encode())
    assert read_terms(path) == ["lithium", "EGF receptor", "fever"]
    assert "terms.txt: 2 lines are empty, and are left out (line 2, 5)" in caplog.text
    assert (
        "terms.txt: 2 lines hold a term that an earlier line has, and are left out (line 4 as 1, 6 as 3)" in caplog.text
    )
    assert found(open_entities(str(path), corpus), TEXTS[1]) == ["EGF receptor", "lithium"]


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "terms.txt holds no term"), (b"one\nf\xe9ver\n", "terms.txt, line 2: byte 2 is 0xe9, which is not UTF-8")],
)
def test_a_list_that_cannot_be_read_is_named_with_the_line(tmp_path, content, message):
    (tmp_path / "terms.txt").write_bytes(content)
    with pytest.raises(EntityError, match=message):
        read_terms(tmp_path / "terms.txt")


def test_a_source_that_does_not_go_with_the_corpus_is_named(corpus, tmp_path):
    for source in ("conll", ""):  # anchors never stand in for entities unasked
        with pytest.raises(
            EntityError, match="train has no tags: give masking.entities, a list of terms or the folder"
        ):
            open_entities(source, corpus, WordAnchors(["fever"]))
    with pytest.raises(EntityError, match="'anchors' needs anchors"):
        open_entities("anchors", corpus)
    with pytest.raises(EntityError, match="'nowhere' is neither 'conll' nor 'anchors', and there is no such file"):
        open_entities("nowhere", corpus)
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        open_entities(str(tmp_path), corpus)


LABELS = ("O", "B-Chemical", "I-Chemical", "B-Disease", "I-Disease")


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_a_tagger_tags_a_word_as_its_first_token(tmp_path, corpus, family):
    parts = ("encoder", "classifier")
    folder = write_masked_model(
        tmp_path / family, TEXTS, family, parts=parts, labels=LABELS, head="token", hidden_size=8
    )
    finder = open_entities(str(folder), corpus, progress_bar=False)
    model = read_text_model(folder)
    tokenizer = TextTokenizer(model.tokenizer, model.config.longest)
    tokenized = tokenizer.encode(TEXTS)
    length = max(len(tokens.tokens) for tokens in tokenized)
    valid = np.arange(length) < np.array([[len(tokens.tokens)] for tokens in tokenized])
    rows = np.stack([np.pad(tokens.tokens, (0, length - len(tokens.tokens))) for tokens in tokenized])
    module = TextModel(model.config, len(LABELS), "token")
    classify = jax.jit(lambda *arrays: module.apply({"params": model.params}, *arrays, method="classify_tokens"))
    several = 0
    for said, tokens, logits in zip(TEXTS, tokenized, np.asarray(classify(rows, valid)), strict=True):
        spans = word_spans(said)
        tags = [LABELS[int(logits[token].argmax())] for token in first_tokens(tuple(spans), tokens)]
        expected = [(spans[first][0], spans[last - 1][1]) for first, last, _ in entity_spans(iob2(tags))]
        assert finder(text(said)) == expected
        several += len(expected)
    assert several
    assert finder(text("lithium causes fever")) == Tagger(model, ["lithium causes fever"], False)(
        text("lithium causes fever")
    )


def retold(model, labels, head="token"):
    return model._replace(labels=labels, head=head)


def test_a_tagger_may_name_only_types_but_must_have_tags(tmp_path):
    folder = write_masked_model(
        tmp_path / "tagger", TEXTS, parts=("encoder", "classifier"), labels=("O", "B-X"), head="token"
    )
    model = read_text_model(folder)
    # The second label always wins.
    out = model.params["classifier"]["out_proj"]
    out["bias"] = np.array([-1e3, 1e3], np.float32)
    assert found(Tagger(retold(model, ("O", "B-X"))), "a b c") == ["a", "b", "c"]
    assert found(Tagger(retold(model, ("O", "Chemical"))), "a b c") == ["a b c"]
    with pytest.raises(EntityError, match="the labels of tagger, LABEL_0, LABEL_1, are no tags"):
        Tagger(retold(model, ("LABEL_0", "LABEL_1")))
    with pytest.raises(EntityError, match="the model tagger does not tag tokens"):
        Tagger(retold(model, (), None))


def test_words_behind_a_taggers_window_are_no_entities(tmp_path):
    parts = ("encoder", "classifier")
    folder = write_masked_model(
        tmp_path / "tagger", ["a b c"], parts=parts, labels=("O", "B-X"), head="token", positions=8
    )
    model = read_text_model(folder)
    model.params["classifier"]["out_proj"]["bias"] = np.array([-1e3, 1e3], np.float32)
    assert len(found(Tagger(model), "a b c " * 9)) == 6  # beside the two special tokens


def test_real_terms_are_found_again_by_their_list(shared_data, tmp_path):
    corpus = read_corpus(shared_data / "ner/NCBI-disease-IOB")
    tagged = open_entities("conll", corpus)
    train = corpus.splits["train"][:500]
    terms = {said.text[start:end] for said in train for start, end in tagged(said)}
    (tmp_path / "diseases.txt").write_text("\n".join(sorted(terms)), encoding="utf-8")
    finder = open_entities(str(tmp_path / "diseases.txt"), corpus)
    told, gold = [{(said.name, span) for said in train for span in finds(said)} for finds in (finder, tagged)]
    assert len(told & gold) / len(gold) > 0.95
