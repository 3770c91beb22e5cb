"""Words of texts against anchors: found, compared once, kept by a run; and the published lists."""

import json

import numpy as np
import pytest
from text_encoders import train_vocabulary, write_masked_model, write_text_encoder

from mmdiff.data.corpus import count_words
from mmdiff.data.text_corpora import read_corpus
from mmdiff.data.text_examples import standing_types
from mmdiff.data.text_tokens import TextTokenizer
from mmdiff.masking.anchors import AnchorError, AnchorsConfig, WordAnchors, open_word_anchors, word_anchors_config
from mmdiff.masking.published_anchors import PUBLISHED_ANCHORS
from mmdiff.masking.read_alike import share_read_alike
from mmdiff.masking.text_vectors import load_text_encoder
from mmdiff.masking.tf_icf import TfIcfError, read_unigrams
from mmdiff.models.pretrained_text import read_text_model
from mmdiff.reports.hidden_words import STOP_WORDS

TEXTS = ["<< Penny >> has a big dog", "the dog's [[ laptop ]] is big", "Dog , zzyzx and zzyzx and zzyzx"]
WORDS = ["<<", "Penny", ">>", "has", "a", "big", "dog", "dog's", "laptop", "Dog", ",", "man", "zzyzx"]


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory):
    return str(write_text_encoder(tmp_path_factory.mktemp("encoders") / "tiny"))


@pytest.fixture
def unigrams(tmp_path):
    path = tmp_path / "unigrams.txt"
    path.write_text("a\t500\nis\t300\nthe\t100\nbig\t50\nhas\t40\nand\t40\npenny\t10\nlaptop\t10\ndog\t10\n")
    return str(path)


def opened(kept=None, encoder=None, words=WORDS, **fields):
    config = word_anchors_config(**{"min_count": 1} | fields)
    config.validate()
    return open_word_anchors(config, TEXTS, words, kept, encoder, progress_bar=False)


def test_text_starts_from_twenty_found_anchors_without_person():
    config = word_anchors_config()
    config.validate()
    assert (config.words, config.find, config.unigrams) == ((), 20, "")
    assert AnchorsConfig().words == ("person",) and not AnchorsConfig().listed


def test_anchors_are_found_in_the_texts_without_markers_or_words_that_are_not_listed(unigrams):
    anchors = opened(unigrams=unigrams, find=3)
    assert [(word.word, word.count, word.general_count) for word in anchors.found] == [
        ("dog", 3, 10),
        ("laptop", 1, 10),
        ("penny", 1, 10),
    ]
    assert opened(unigrams=unigrams, find=1, listed=False, floor=1).words == ("zzyzx",)
    with pytest.raises(TfIcfError, match="lower min_count, or take words that are not listed"):
        opened(unigrams=unigrams, min_count=9)


def test_common_words_among_anchors_are_warned_of_in_the_log_and_in_what_a_run_keeps(unigrams, tmp_path, caplog):
    few = opened(unigrams=unigrams, find=3)
    assert few.warning == few.to_json()["warning"] == ""
    every = opened(unigrams=unigrams, find=9)
    assert every.warning.startswith("4 of 7 anchors are common words, less than 5 times as common here as in general (")
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [every.warning]
    (tmp_path / "anchors.json").write_text(json.dumps(every.to_json()))
    assert opened(tmp_path / "anchors.json", find=9).warning == every.to_json()["warning"] == every.warning


def test_given_anchors_come_before_those_found(unigrams):
    assert opened(unigrams=unigrams, words=WORDS, find=1).words == ("dog",)
    config = word_anchors_config(words=("Dog",), find=1, min_count=1, unigrams=unigrams)
    assert open_word_anchors(config, TEXTS, [], progress_bar=False).words == ("Dog", "laptop")


def test_without_an_encoder_only_an_anchor_counts_in_any_case_and_with_a_possessive(unigrams):
    anchors = opened(unigrams=unigrams, find=1)
    words = ("dog", "Dog", "dog's", "DOG’s", "dogs", "laptop")
    assert [anchors.similarity(word) for word in words] == [1, 1, 1, 1, 0, 0]


def test_a_word_has_the_cosine_of_the_nearest_anchor_or_of_their_mean(unigrams, encoder_folder):
    encoder = load_text_encoder(encoder_folder)
    dog, laptop, man = encoder.embed([" dog", " laptop", " man"])
    nearest = opened(unigrams=unigrams, find=2, encoder=encoder)
    assert nearest.words == ("dog", "laptop")
    assert nearest.similarity("Laptop") == 1
    assert nearest.similarity("man") == pytest.approx(max(man @ dog, man @ laptop, 0), abs=1e-5)
    mean = (dog + laptop) / np.linalg.norm(dog + laptop)
    centroid = opened(unigrams=unigrams, find=2, encoder=encoder, compare="centroid", text_encoder=encoder_folder)
    assert centroid.similarity("dog") == pytest.approx(dog @ mean, abs=1e-5)


def test_each_word_is_embedded_once_as_it_stands(encoder_folder):
    inner, asked = load_text_encoder(encoder_folder), []

    class Counting:
        name, digest, pool = inner.name, inner.digest, inner.pool

        def embed(self, texts):
            asked.extend(texts)
            return inner.embed(texts)

    anchors = WordAnchors(["dog"], encoder=Counting)
    anchors.learn(WORDS)
    assert asked == [" dog", *(f" {word}" for word in WORDS)]
    anchors.learn(["dog", "+ dog"])
    assert asked[14:] == [" dog", "dog"]  # the anchor again, and the word behind another


def test_what_a_run_kept_is_opened_without_searching_or_an_encoder(unigrams, encoder_folder, tmp_path):
    encoder = load_text_encoder(encoder_folder)
    first = opened(unigrams=unigrams, find=2, encoder=encoder)
    kept = tmp_path / "anchors.json"
    kept.write_text(json.dumps(first.to_json()))
    again = opened(kept, unigrams="gone", find=2, encoder=encoder)
    assert again.to_json() == first.to_json()
    assert again.similarity("Man") == pytest.approx(first.similarity("man"), abs=1e-5)
    # A word that was not there then is compared by the same encoder.
    assert opened(kept, encoder, words=["person"]).similarity("person") == pytest.approx(
        float(max(encoder.embed([" person"])[0] @ encoder.embed([" dog", " laptop"]).T)), abs=1e-5
    )


def test_what_a_run_kept_is_not_used_with_another_encoder(unigrams, encoder_folder, tmp_path):
    kept = tmp_path / "anchors.json"
    kept.write_text(json.dumps(opened(unigrams=unigrams, encoder=load_text_encoder(encoder_folder)).to_json()))
    other = load_text_encoder(str(write_text_encoder(tmp_path / "other", seed=1)))
    with pytest.raises(AnchorError, match="no longer holds the text encoder tiny"):
        opened(kept, other, words=["person"])
    with pytest.raises(AnchorError, match="was made with the text encoder tiny: give its folder"):
        opened(kept)


def anchors_of(shared_data, name, **fields):
    """The anchors found in a real corpus, and how many of them the authors published."""
    texts = [text.text for text in read_corpus(shared_data / "text_classification" / name).splits["train"]]
    config = word_anchors_config(**fields)
    found = {word.word for word in open_word_anchors(config, texts, [], progress_bar=False).found}
    return found, len(found & set(PUBLISHED_ANCHORS[name]))


def test_most_of_the_published_anchors_are_found(shared_data):
    norvig = str(shared_data / "unigrams/count_1w.txt.gz")
    assert anchors_of(shared_data, "citation_intent", unigrams=norvig)[1] == 15
    assert anchors_of(shared_data, "chemprot", unigrams=norvig)[1] == 14
    # Of wordfreq's counts.
    assert [anchors_of(shared_data, name)[1] for name in ("citation_intent", "chemprot")] == [14, 12]


def test_without_a_shortlist_no_least_count_suits_both_corpora(shared_data):
    ratio = {"unigrams": str(shared_data / "unigrams/count_1w.txt.gz"), "shortlist": 0, "min_count": 30}
    found, published = anchors_of(shared_data, "citation_intent", **ratio)
    assert len(found) == 20 and published == 15
    assert {"charniak", "coreference", "treebank", "och", "roth"} <= found
    # With a floor, names that general English lacks come first; of longer words alone it suffices.
    assert anchors_of(shared_data, "citation_intent", **ratio, listed=False)[1] == 13
    assert anchors_of(shared_data, "citation_intent", **ratio, listed=False, min_length=4)[1] == 14
    # ChemProt's list is of commoner words than 30 times.
    assert anchors_of(shared_data, "chemprot", **ratio)[1] == 2
    often = ratio | {"min_count": 100}
    assert [anchors_of(shared_data, name, **often)[1] for name in ("citation_intent", "chemprot")] == [2, 14]


def test_anchors_of_a_few_hundred_texts_are_words_of_their_domain(shared_data):
    texts = [text.text for text in read_corpus(shared_data / "text_classification/sci-cite").splits["train"][:300]]

    def find(**fields):
        config = word_anchors_config(unigrams=str(shared_data / "unigrams/count_1w.txt.gz"), **fields)
        return open_word_anchors(config, texts, [], progress_bar=False)

    anchors = find()
    assert {"mitochondrial", "dataset", "inhibition", "kinase", "insulin", "tumors"} <= set(anchors.words)
    assert not STOP_WORDS & set(anchors.words) and anchors.warning == ""
    assert min(word.tf_icf for word in anchors.found) > 25
    grammar = find(shortlist=0, min_count=30)
    assert len(grammar.words) == 14 and set(grammar.words) <= STOP_WORDS
    assert grammar.warning.startswith("14 of 14 anchors are common words, ")
    assert "(been, were, which, was, has, ...)" in grammar.warning


def test_no_published_anchor_is_a_word_that_general_english_lacks(shared_data):
    general = read_unigrams(shared_data / "unigrams/count_1w.txt.gz")
    unlisted = 0
    for name, words in PUBLISHED_ANCHORS.items():
        assert len(words) == 20 and all(word in general for word in words)
        texts = read_corpus(shared_data / "text_classification" / name).splits["train"]
        counts = count_words(text.text for text in texts)
        unlisted += sum(count >= 30 and word.isalpha() and word not in general for word, count in counts.items())
    assert unlisted == 18


def test_the_published_lists_are_those_of_the_paper_tables(shared_data):
    stored = json.loads((shared_data.parent / "paper_tables.json").read_text())["official_seed_words_K20"]
    assert {name: list(words) for name, words in PUBLISHED_ANCHORS.items()} == {
        name: stored[name] for name in PUBLISHED_ANCHORS
    }


def test_every_word_of_a_corpus_that_may_be_masked_is_learnt_from_its_types(unigrams, encoder_folder, tmp_path):
    (tmp_path / "train.txt").write_text("\n".join([*TEXTS, "(big dog)"]))
    texts = read_corpus(tmp_path / "train.txt").splits["train"]
    vocabulary = [text.text for text in texts]
    for punctuation, others in ((False, set()), (True, {"(", ",", "+ )"})):
        tokenizer = TextTokenizer(train_vocabulary(vocabulary), 40, punctuation=punctuation)
        types = standing_types(texts, tokenizer.encode(vocabulary))
        anchors = opened(unigrams=unigrams, find=1, words=types)
        assert set(anchors.to_json()["labels"]) == others | {
            "Penny", "has", "a", "big", "dog", "the", "dog's", "laptop", "is", "Dog", "zzyzx", "and", "+ big",
        }  # fmt: skip


@pytest.mark.parametrize("family", ["bert", "roberta"])
@pytest.mark.parametrize("name", ["citation_intent", "chemprot"])
def test_words_are_compared_by_the_tokens_that_their_texts_have(shared_data, tmp_path, name, family):
    """All but the first of a text, before which there is no space; byte pairs would differ for most words alone."""
    texts = read_corpus(shared_data / "text_classification" / name).splits["train"][:300]
    folder = write_masked_model(tmp_path / "model", [text.text for text in texts], family, layers=1)
    tokenizer = TextTokenizer(read_text_model(folder).tokenizer, 512)
    encoder, tokenized = load_text_encoder(folder), tokenizer.encode([text.text for text in texts])
    share, count = share_read_alike(encoder, texts, tokenized)
    assert count > 8000
    # BERT's vocabularies drop control characters, and so join what stands around them: 17 of 13,175 words.
    assert share == 1.0 if family == "roberta" or name == "chemprot" else share > 0.998
    if family == "roberta":
        types = [word for word in standing_types(texts, tokenized) if not word.startswith("+ ") and word.isalpha()]
        alone = [encoder.ids([word]) == encoder.ids([f" {word}"]) for word in types]
        assert np.mean(alone) < 0.1  # what they are without the space
