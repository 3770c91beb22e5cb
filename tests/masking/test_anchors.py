from mmdiff.masking.anchors import label_weight


def test_the_anchor_person_means_every_part_of_a_person_whatever_it_is_called():
    assert label_weight("Sheldon", "body", ("person",)) == label_weight("Penny", "face", ("Person",)) == 1
    assert label_weight("laptop", "object", ("person",)) == 0


def test_any_label_can_be_an_anchor():
    assert label_weight("sheldon", "body", ("Sheldon",)) == label_weight("Laptop", "object", ("laptop",)) == 1
    assert label_weight("Penny", "body", ("Sheldon", "laptop")) == 0
