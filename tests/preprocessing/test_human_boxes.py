from preprocessing.detect_people import LabelledBox
from preprocessing.human_boxes import boxes_at, tracks_by_label


def box(label: str, x0: float, **changes) -> LabelledBox:
    values = {"y0": 0.1, "x0": x0, "y1": 0.9, "x1": x0 + 0.2, "label": label, "part": "body", "score": 1.0}
    return LabelledBox(**values | {"source": "annotated"} | changes)


DRAWN = {0: [box("Raj", 0.0), box("Penny", 0.5)], 6: [box("Raj", 0.6), box("Amy", 0.1)], 30: [box("Raj", 0.3)]}


def test_a_drawn_picture_has_its_boxes_as_they_were_drawn():
    assert boxes_at(6, DRAWN) == DRAWN[6]


def test_between_two_drawings_a_person_moves_and_whoever_comes_or_goes_is_in_the_nearer_half():
    early, late = boxes_at(2, DRAWN), boxes_at(5, DRAWN)
    assert [b.label for b in early] == ["Raj", "Penny"] and [b.label for b in late] == ["Raj", "Amy"]
    assert abs(early[0].x0 - 0.2) < 1e-9 and abs(late[0].x0 - 0.5) < 1e-9
    assert {b.source for b in early + late} == {"filled"}


def test_a_box_is_carried_for_a_second_and_no_further():
    assert [b.label for b in boxes_at(9, DRAWN)] == ["Raj", "Amy"] and boxes_at(27, DRAWN)[0].x0 == 0.3
    assert boxes_at(10, DRAWN) == boxes_at(26, DRAWN) == boxes_at(40, DRAWN) == [] == boxes_at(3, {})


def test_two_boxes_of_one_label_are_not_mixed_up():
    drawn = {0: [box("people", 0.0), box("people", 0.5)], 6: [box("people", 0.1), box("people", 0.6)]}
    assert [b.x0 for b in boxes_at(1, drawn)] == [0.0, 0.5] and [b.x0 for b in boxes_at(4, drawn)] == [0.1, 0.6]


def test_a_name_is_a_track_in_any_case():
    assert tracks_by_label([[box("Raj", 0.0)], [box("Penny", 0.1), box("raj", 0.2)]]) == [[0], [1, 0]]
