"""Files of texts: what is read, what is told about, and real corpora to the last entity."""

import json
import logging

import pytest

from mmdiff.data.text_corpora import CorpusError, entity_spans, iob2, read_corpus


def write(folder, **files):
    for name, content in files.items():
        path = folder / name.replace("_", ".")
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


LABELLED = lines(
    {"text": "a good parser", "label": "Uses", "metadata": {}}, {"text": "we extend it", "label": "Extends"}
)
TAGGED = "Lithium\tB-Chemical\ncauses\tO\nfever\tB-Disease\n.\tO\n\nNone\tO\n"


def test_json_lines_are_labelled_texts_with_the_line_they_stand_on(tmp_path):
    corpus = read_corpus(write(tmp_path, train_txt=LABELLED, dev_jsonl=lines({"text": "x y", "label": "Uses"})))
    assert (corpus.name, corpus.kind, corpus.labels) == (tmp_path.name, "classification", ("Extends", "Uses"))
    first = corpus.splits["train"][0]
    assert (first.name, first.text, first.label) == ("train.txt:1", "a good parser", "Uses")
    assert first.spans is None and first.tags is None
    assert [text.name for text in corpus.splits["validation"]] == ["dev.jsonl:1"]
    assert set(corpus.splits) == {"train", "validation"}


def test_json_lines_without_labels_are_plain_texts(tmp_path):
    corpus = read_corpus(write(tmp_path, train_jsonl=lines({"text": "one two"}, {"text": "three four"})))
    assert (corpus.kind, corpus.labels) == ("plain", ())


def test_plain_lines_are_texts_to_train_on_and_one_file_is_enough(tmp_path):
    write(tmp_path, notes_txt="one two\r\nthree four\u2028five\n")
    corpus = read_corpus(tmp_path / "notes.txt")
    assert (corpus.name, corpus.kind) == ("notes", "plain")
    # A line separator inside a text does not end its line.
    assert [text.text for text in corpus.splits["train"]] == ["one two", "three four\u2028five"]


def test_the_digest_is_of_what_the_files_hold_and_which_split_they_are(tmp_path):
    def digest(**files):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        return read_corpus(write(folder, **files)).digest

    first = digest(train_txt="one two\n", dev_txt="three four\n")
    assert first == digest(train_txt="one two\n", validation_txt="three four\n")
    assert first != digest(train_txt="one two\n", test_txt="three four\n")
    assert first != digest(train_txt="one two!\n", dev_txt="three four\n")


def test_conll_words_are_joined_by_spaces_and_keep_their_places_and_tags(tmp_path):
    corpus = read_corpus(write(tmp_path, train_tsv=TAGGED))
    text, other = corpus.splits["train"]
    assert (corpus.kind, corpus.labels) == ("entities", ("Chemical", "Disease"))
    assert (text.name, text.text, other.name) == ("train.tsv:1", "Lithium causes fever .", "train.tsv:6")
    assert [text.text[start:end] for start, end in text.spans] == ["Lithium", "causes", "fever", "."]
    assert text.tags == ("B-Chemical", "O", "B-Disease", "O")


@pytest.mark.parametrize(
    "content",
    [
        "-DOCSTART- (123)\n\nLithium NN O B-X\ncauses VB O O\n\n-DOCSTART- -X- O O\nfever NN O B-X\n",
        "-DOCSTART-\tO\n\nLithium\tB-X\ncauses\tO\n\n\n\nfever\tB-X",
        "Lithium B-X\r\ncauses O\r\n\r\nfever B-X\r\n",
        "\ufeffLithium\t\tB-X \ncauses\tO\t\n \t\nfever   \tB-X\n",
    ],
)
def test_columns_may_be_two_or_four_of_spaces_or_tabs_among_documents(tmp_path, content):
    texts = read_corpus(write(tmp_path, train_txt=content)).splits["train"]
    assert [(text.text.split(), text.tags) for text in texts] == [
        (["Lithium", "causes"], ("B-X", "O")),
        (["fever"], ("B-X",)),
    ]


def test_texts_of_a_conll_file_name_their_document_where_the_file_marks_documents(tmp_path):
    (tmp_path / "train.txt").write_text("-DOCSTART- O\n\na O\n\nb O\n\n-DOCSTART- O\n\nc O\n")
    assert [text.document for text in read_corpus(tmp_path).splits["train"]] == ["train.txt:1"] * 2 + ["train.txt:7"]
    (tmp_path / "train.txt").write_text("a O\n\nb O\n")
    assert [text.document for text in read_corpus(tmp_path).splits["train"]] == ["", ""]


def test_a_word_of_a_tabbed_file_may_hold_a_space_that_is_no_column(tmp_path):
    text = read_corpus(write(tmp_path, train_tsv="1 1/2\tB-X\nof\xa0it\tO\n")).splits["train"][0]
    assert [text.text[start:end] for start, end in text.spans] == ["1 1/2", "of\xa0it"]


@pytest.mark.parametrize(
    ("scheme", "tags"),
    [
        ("IOB2", "B-A I-A B-A O B-B"),
        ("IOB1", "I-A I-A B-A O I-B"),
        ("IOBES", "B-A E-A S-A O S-B"),
        ("BILOU", "B-A L-A U-A O U-B"),
        ("BMES", "B-A M-A S-A O S-B"),
        ("the copy of BC5CDR, where one word alone is I", "B-A I-A B-A O I-B"),
    ],
)
def test_every_scheme_becomes_iob2(scheme, tags):
    assert iob2(tags.split()) == ("B-A", "I-A", "B-A", "O", "B-B")


def test_an_inside_tag_of_another_type_or_after_an_end_opens_an_entity():
    assert iob2(["B-A", "I-B", "E-B", "I-B"]) == ("B-A", "B-B", "I-B", "B-B")
    assert iob2(["B", "I", "O"]) == ("B-Entity", "I-Entity", "O")
    with pytest.raises(ValueError, match="'X-A' is no tag"):
        iob2(["X-A"])


def test_entities_are_decoded_strictly():
    tags = ["I-A", "B-A", "I-A", "I-B", "B-B", "B-B", "O", "I-B", "B-A"]
    assert entity_spans(tags) == [(1, 3, "A"), (4, 5, "B"), (5, 6, "B"), (8, 9, "A")]
    assert entity_spans([]) == []


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"train_txt": b""}, "train.txt is empty"),
        ({"train_txt": b"\n \n"}, "train.txt is empty"),
        ({"train_txt": b"one\ntw\xff o\n"}, "train.txt, line 2: byte 3 is 0xff, which is not UTF-8"),
        ({"train_txt": LABELLED + '{"text": "cut'}, "train.txt, line 3: .* is not JSON"),
        ({"train_jsonl": "no object\n"}, "train.jsonl, line 1: 'no object' is not JSON"),
        ({"train_txt": LABELLED + '["a"]\n'}, 'train.txt, line 3: it has no "text"'),
        ({"train_txt": LABELLED + '{"text": 7, "label": "Uses"}'}, 'line 3: it has no "text"'),
        ({"train_txt": LABELLED + '{"text": " ", "label": "Uses"}'}, "line 3: its text is empty: take the line out"),
        ({"train_txt": LABELLED + '{"text": "a b"}'}, 'line 3: it has no "label", and other lines have one'),
        ({"train_txt": LABELLED + '{"text": "a b", "label": [1]}'}, r"line 3: its label is \[1\]"),
        ({"train_txt": LABELLED + '{"text": "\\ud800", "label": "Uses"}'}, "line 3: it holds half of a surrogate pair"),
        (
            {"train_txt": LABELLED, "dev_txt": lines({"text": "x y", "label": "Uses"}, {"text": "x", "label": "Use"})},
            "dev.txt, line 2: 'Use' is no label of train.txt, which has Extends, Uses",
        ),
        ({"train_tsv": TAGGED, "test_tsv": "x\tO\ny\tB-Gene\n"}, "test.tsv, line 1: 'Gene' is no label of train.tsv"),
        ({"train_tsv": TAGGED + "alone\n"}, "train.tsv, line 7: 'alone' is one column: each word needs"),
        ({"train_tsv": TAGGED + "a\tb\tO\n"}, "train.tsv, line 7: .* has 3 columns, and the lines before it have 2"),
        ({"train_tsv": "alone\n"}, "train.tsv, line 1: 'alone' is one column"),
        ({"train_tsv": TAGGED + "\tO\n"}, "train.tsv, line 7: 'O' is one column"),
        ({"train_tsv": TAGGED + "x\tDisease\n"}, "train.tsv, line 7: 'Disease' is no tag: tags are O, or B, I"),
        (
            {"train_tsv": TAGGED, "dev_txt": LABELLED},
            "not of one kind: train.tsv holds tagged words; dev.txt holds labelled",
        ),
        ({"train_txt": LABELLED, "train_jsonl": LABELLED}, "holds train.txt and train.jsonl, both of train"),
        ({"train_txt": LABELLED, "dev_txt": LABELLED, "val_txt": LABELLED}, "dev.txt and val.txt, both of validation"),
        ({"notes_txt": LABELLED}, "holds no texts: its files must be called train, dev, .* and end in .txt"),
    ],
)
def test_what_is_wrong_is_said_with_file_and_line(tmp_path, files, message):
    with pytest.raises(CorpusError, match=message):
        read_corpus(write(tmp_path, **files))


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(CorpusError, match="no texts at .*none"):
        read_corpus(tmp_path / "none")


def test_empty_lines_and_lone_words_are_told_of(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    corpus = read_corpus(write(tmp_path, train_txt="one two\n\n \nword\nthree four\n"))
    assert [text.name for text in corpus.splits["train"]] == ["train.txt:1", "train.txt:4", "train.txt:5"]
    assert "train.txt: 2 lines without a text, which are left out (line 2, 3)" in caplog.text
    assert "train.txt: 1 lines of one word (line 4)" in caplog.text


def test_well_formed_files_are_told_nothing_of(tmp_path, caplog):
    read_corpus(write(tmp_path, train_txt=LABELLED))
    assert caplog.text == ""


def test_a_plain_text_that_ends_like_a_tag_stays_plain(tmp_path):
    corpus = read_corpus(write(tmp_path, train_txt="we gave vitamin B-12\nand then nothing else\nat all O\n"))
    assert corpus.kind == "plain"


@pytest.mark.parametrize(
    ("name", "labels", "texts", "entities"),
    [
        ("BC5CDR-chem-IOB", ("Chemical",), (4_560, 4_581, 4_797), (5_203, 5_347, 5_385)),
        ("NCBI-disease-IOB", ("Disease",), (5_424, 923, 940), (5_134, 787, 960)),
        ("BC2GM-IOB", ("GENE",), (12_574, 2_519, 5_038), (15_197, 3_061, 6_325)),
        ("bc5cdr-scibert", ("Entity",), (3_942, 3_949, 4_139), (9_270, 9_455, 9_662)),
    ],
)
def test_real_entities_are_all_found(shared_data, name, labels, texts, entities):
    corpus = read_corpus(shared_data / "ner" / name)
    assert (corpus.kind, corpus.labels) == ("entities", labels)
    splits = [corpus.splits[split] for split in ("train", "validation", "test")]
    assert tuple(map(len, splits)) == texts
    assert tuple(sum(len(entity_spans(text.tags)) for text in split) for split in splits) == entities


@pytest.mark.parametrize(
    ("name", "classes", "texts", "first_class"),
    [
        ("chemprot", 13, (4_169, 2_427, 3_469), {"INHIBITOR": (1_642, 812, 1_255)}),
        ("citation_intent", 6, (1_688, 114, 139), {"Background": (867, 59, 71)}),
        ("sci-cite", 3, (7_320, 916, 1_861), {}),
    ],
)
def test_real_labels_are_all_read(shared_data, name, classes, texts, first_class):
    corpus = read_corpus(shared_data / "text_classification" / name)
    assert (corpus.kind, len(corpus.labels)) == ("classification", classes)
    splits = [corpus.splits[split] for split in ("train", "validation", "test")]
    assert tuple(map(len, splits)) == texts
    for label, counts in first_class.items():
        assert tuple(sum(text.label == label for text in split) for split in splits) == counts
