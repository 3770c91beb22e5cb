"""Which word each token is of, whatever the vocabulary."""

import numpy as np
import pytest
import tokenizers
from text_encoders import SPECIAL, train_vocabulary

from mmdiff.data.text_tokens import TextTokenizer, word_spans
from mmdiff.data.tokenizer import TokenizerError

TEXTS = [
    "the parser of the sentence don't read co-occurrence, we parse it",
    "<< gefitinib >> inhibits [[ EGFR ]]-mediated growth.",
    "naïve café 中文 word!",
]
FAMILIES = pytest.mark.parametrize("family", ["bert", "roberta"])


@pytest.fixture(scope="module")
def made():
    return {family: TextTokenizer(train_vocabulary(TEXTS, family, 320), 40) for family in SPECIAL}


def words(text):
    return [text[first:last] for first, last in word_spans(text)]


def grouped(tokenizer, text):
    """The characters of each word's tokens together, by word; tokens of one character share its place."""
    encoded = tokenizer.encode([text])[0]
    spans = word_spans(text)
    found = {}
    for word, start, end in zip(encoded.word, encoded.start, encoded.end, strict=True):
        if word:
            found.setdefault(text[slice(*spans[word - 1])], []).append((int(start), int(end)))
    return {word: text[min(a for a, _ in places) : max(b for _, b in places)] for word, places in found.items()}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The X-ray's big.", ["The", "X", "-", "ray's", "big", "."]),
        ("(Collins, 1999).", ["(", "Collins", ",", "1999", ")."]),
        ("<<X>>-[[ don’t ]]", ["<<", "X", ">>", "-", "[[", "don’t", "]]"]),
        ("([[a]])", ["(", "[[", "a", "]]", ")"]),
        ("a < b <<< c", ["a", "<", "b", "<<", "<", "c"]),
        ("foo_bar  \t\n naïve 中文 😀", ["foo", "_", "bar", "naïve", "中文", "😀"]),
        ("", []),
        (" \u00a0\n", []),
    ],
)
def test_every_character_but_white_space_is_of_one_word(text, expected):
    assert words(text) == expected
    assert "".join(words(text)) == "".join(text.split())


@FAMILIES
def test_the_tokens_of_a_word_cover_it_and_nothing_else(made, family):
    text = "  The parsers don't   read, co-occurrence!"
    found = grouped(made[family], text)
    assert list(found) == words(text)
    assert all(word == covered for word, covered in found.items())
    encoded = made[family].encode([text])[0]
    assert not encoded.cut
    numbers = encoded.word[encoded.word > 0]
    assert (np.diff(numbers) >= 0).all()
    assert set(numbers) == set(range(1, len(words(text)) + 1))


@FAMILIES
def test_a_word_of_several_tokens_is_one_word(made, family):
    encoded = made[family].encode(["unforeseen"])[0]
    assert (encoded.word[1:-1] == 1).all() or family == "bert"  # WordPiece may know a letter of it not at all
    encoded = made[family].encode(["parsersentence the"])[0]
    assert (encoded.word == 1).sum() > 1
    assert (encoded.word == 2).sum() == 1


@FAMILIES
def test_special_tokens_have_no_word_and_look_alikes_are_text(made, family):
    cls, sep, mask = (SPECIAL[family][i] for i in ((2, 3, 4) if family == "bert" else (0, 2, 4)))
    text = f"the {mask} of {sep}"
    encoded = made[family].encode([text])[0]
    assert encoded.word[0] == encoded.word[-1] == 0
    assert (encoded.start[0], encoded.end[0]) == (0, 0)
    assert made[family].mask_id not in encoded.tokens
    vocabulary = tokenizers.Tokenizer.from_str(made[family].json()).get_vocab()
    assert encoded.tokens[0] == vocabulary[cls]
    assert encoded.tokens[-1] == vocabulary[sep]
    assert (encoded.tokens == vocabulary[sep]).sum() == 1
    assert made[family].mask_id == vocabulary[mask]
    assert set(made[family].special_ids) == {vocabulary[token] for token in SPECIAL[family]}
    assert made[family].size == len(vocabulary)


@FAMILIES
@pytest.mark.parametrize("text", ["<< gefitinib >> of [[ EGFR ]]", "<<gefitinib>> of [[EGFR]]-word"])
def test_a_token_that_touches_a_marker_has_no_word(made, family, text):
    encoded = made[family].encode([text])[0]
    for word, start, end in zip(encoded.word, encoded.start, encoded.end, strict=True):
        touches = any(c in "<>[]" for c in text[start:end])
        assert not (word and touches)
    assert "gefitinib" in grouped(made[family], text)
    assert not {"<<", ">>", "[[", "]]"} & set(grouped(made[family], text))


def test_characters_of_several_tokens_and_accents_keep_their_places(made):
    text = "中文 naïve 😀café"
    found = grouped(made["roberta"], text)
    assert found == {"中文": "中文", "naïve": "naïve", "😀": "😀", "café": "café"}
    lower = grouped(made["bert"], "NAÏVE Café")
    assert lower == {"NAÏVE": "NAÏVE", "Café": "Café"}


def test_an_unknown_token_has_no_word(made):
    encoded = made["bert"].encode(["word 😀 the"])[0]
    assert encoded.word.tolist() == [0, 1, 0, 3, 0]


@FAMILIES
def test_a_long_text_is_cut_and_says_so(made, family):
    short, long, none = made[family].encode(["the", "the " * 100, ""])
    assert (short.cut, long.cut, none.cut) == (False, True, False)
    assert len(long.tokens) == 40
    assert (len(none.tokens), none.word.tolist()) == (2, [0, 0])
    assert long.word.tolist() == [0, *range(1, 39), 0]
    assert made[family].encode([]) == []


@FAMILIES
def test_its_json_neither_cuts_nor_pads_and_the_given_tokenizer_is_unchanged(family):
    given = train_vocabulary(TEXTS, family, 320)
    given.enable_truncation(8)
    before = given.to_str()
    tokenizer = TextTokenizer(given, 40)
    assert given.to_str() == before
    again = tokenizers.Tokenizer.from_str(tokenizer.json())
    assert len(again.encode("the" + " the" * 99).ids) == 102
    assert [text.tokens.tolist() for text in TextTokenizer(again, 40).encode(TEXTS)] == [
        text.tokens.tolist() for text in tokenizer.encode(TEXTS)
    ]


def test_a_vocabulary_without_a_mask_token_or_a_window_without_room_is_refused():
    bare = tokenizers.Tokenizer(tokenizers.models.WordLevel({"the": 0, "<unk>": 1}, "<unk>"))
    with pytest.raises(TokenizerError, match=r"no \[MASK\] and no <mask>"):
        TextTokenizer(bare, 10)
    with pytest.raises(TokenizerError, match="a window of 2 tokens leaves no room beside the 2 special ones"):
        TextTokenizer(train_vocabulary(TEXTS), 2)


def test_by_spaces_a_word_is_what_stands_between_white_space():
    text = "The [[X-ray]]'s alpha-2 subunit, see (B)."
    spans = word_spans(text, "spaces")
    assert [text[first:last] for first, last in spans] == [
        "The", "[[", "X-ray", "]]", "'s", "alpha-2", "subunit,", "see", "(B).",
    ]  # fmt: skip


def test_punctuation_is_masked_only_where_it_may_be():
    said = ["The X-ray , of (B) ."]
    for punctuation, rule, hidden in (
        (True, "letters", 10), (False, "letters", 5), (True, "spaces", 6), (False, "spaces", 4),
    ):  # fmt: skip
        tokenizer = TextTokenizer(train_vocabulary(said), 40, rule, punctuation)
        (found,) = tokenizer.encode(said)
        assert len(set(found.word[found.word > 0].tolist())) == hidden, (punctuation, rule)
