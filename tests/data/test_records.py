"""Records survive the disk, and say what is wrong with them."""

import numpy as np
import pytest
import tensorflow_datasets as tfds
import tiny

from mmdiff.data import records


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    train = [tiny.record(0), tiny.record(1, boxes=False), tiny.record(2, similarity=True)]
    train[0].questions.append(records.Question("two", "é?", ["ja", "nein"], -1, 1.0, 2.0, 0))
    train[1].questions = []
    return tiny.write_dataset(tmp_path_factory.mktemp("records"), train, [])


def same(a, b) -> bool:
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    if hasattr(a, "__dataclass_fields__"):
        return all(same(getattr(a, name), getattr(b, name)) for name in a.__dataclass_fields__)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == pytest.approx(b) if isinstance(a, float) else a == b


def test_a_record_comes_back_as_it_was_written(folder):
    found = {r.id: r for r in map(records.decode, records.read_split(folder, "train"))}
    first, second = tiny.record(0), tiny.record(1, boxes=False)
    first.questions.append(records.Question("two", "é?", ["ja", "nein"], -1, 1.0, 2.0, 0))
    second.questions = []
    assert same(found["clip0"], first) and same(found["clip1"], second)
    assert same(found["clip2"], tiny.record(2, similarity=True)) and found["clip0"].similarity is None


def test_the_records_say_what_labels_they_hold_and_who_scored_them(folder):
    said = records.metadata(folder)
    assert said["labels"] == {"person": {"body": 4, "face": 4}}
    assert said["similarity"] == {"model": "tiny", "anchors": ["person"]}


def test_records_of_nobody_hold_no_label_which_is_not_the_same_as_unknown(tmp_path):
    found = records.metadata(tiny.write_dataset(tmp_path, [tiny.record(0, boxes=False)], []))
    assert found["labels"] == {} and found["similarity"] is None


class Earlier(tiny.TinyFolder, skip_registration=True):
    """One record, as it was written before records could hold a similarity."""

    def _info(self):
        fields = {name: field for name, field in records.features().items() if name != "similarity"}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(fields))

    def _split_generators(self, dl_manager):
        written = records.encode(tiny.record(0))
        del written["similarity"]
        return {"train": iter([("clip0", written)])}


def test_records_of_an_earlier_version_have_no_similarity_and_labels_that_nobody_counted(tmp_path):
    Earlier({}, data_dir=str(tmp_path), file_format="array_record").download_and_prepare()
    (found,) = map(records.decode, records.read_split(tmp_path, "train"))
    assert same(found, tiny.record(0))
    assert records.metadata(tmp_path)["labels"] is None and records.metadata(tmp_path)["similarity"] is None


def test_a_missing_split_or_folder_is_explained(folder, tmp_path):
    with pytest.raises(records.RecordError, match="no split 'validation'; it has train"):
        records.read_split(folder, "validation")
    with pytest.raises(records.RecordError, match="no records.*mmdiff preprocess"):
        records.read_split(tmp_path, "train")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.boxes.box.__setitem__((0, 3), 1.2), "a box leaves its frame"),
        (lambda r: r.boxes.box.__setitem__((0, 0), 0.95), "a box has no area"),
        (lambda r: r.boxes.box.__setitem__((0, 0), r.boxes.box[0, 2]), "a box has no area"),
        (lambda r: r.boxes.box.__setitem__((0, 1), r.boxes.box[0, 3]), "a box has no area"),
        (lambda r: r.boxes.box.__setitem__((0, 0), np.nan), "a box leaves its frame"),
        (lambda r: setattr(r, "similarity", r.similarity[:1]), r"similarity is \(1, 18, 32\) and must be \(2, 18, 32"),
        (lambda r: setattr(r, "similarity", r.similarity.swapaxes(1, 2)), "similarity is"),
        (lambda r: r.similarity.__setitem__((0, 0, 0), -1.1), "no cosine"),
        (lambda r: r.similarity.__setitem__((0, 0, 0), np.nan), "no cosine"),
        (lambda r: r.boxes.frame.__setitem__(0, 9), "a frame that is not there"),
        (lambda r: r.boxes.part.__setitem__(0, "hand"), "none of"),
        (lambda r: r.segments.frame.__setitem__(0, -1), "a frame that is not there"),
        (lambda r: r.windows.__setitem__((0, 1), 5), "a window leaves the segments"),
        (lambda r: setattr(r.questions[0], "label", 3), "label out of range"),
        (lambda r: setattr(r.questions[0], "answers", ["one"]), "fewer than two answers"),
        (lambda r: r.frames.clear(), "needs a frame"),
    ],
)
def test_what_is_wrong_with_a_record_is_said(change, message):
    broken = tiny.record(0, similarity=True)
    change(broken)
    with pytest.raises(records.RecordError, match=message):
        records.encode(broken)
