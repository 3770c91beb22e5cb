from preprocessing.derive_bodies import with_bodies
from preprocessing.detect_people import LabelledBox
from preprocessing.suppress import suppress


def box(x0, x1, score, label="person", part="body", **more) -> LabelledBox:
    return LabelledBox(0.0, x0, 10.0, x1, label, part, score, **more)


def test_of_two_boxes_around_one_thing_the_surer_stays():
    less, surer, apart = box(0.0, 10.0, 0.4), box(1.0, 11.0, 0.9), box(50.0, 60.0, 0.1)
    assert suppress([less, surer, apart], 0.6) == [surer, apart]  # 9 of 11 columns shared


def test_the_threshold_is_an_intersection_over_union():
    boxes = [box(0.0, 10.0, 0.4), box(2.0, 12.0, 0.9)]  # 8 of 12 columns shared
    assert suppress(boxes, 0.66) == boxes[1:] and suppress(boxes, 0.67) == boxes


def test_one_keeps_even_what_is_twice_there():
    boxes = [box(0.0, 10.0, 0.4), box(0.0, 10.0, 0.4)]
    assert suppress(boxes, 1.0) == boxes and len(suppress(boxes, 0.99)) == 1


def test_other_parts_and_labels_do_not_compete():
    boxes = [box(0.0, 10.0, 0.9), box(0.0, 10.0, 0.5, part="face"), box(0.0, 10.0, 0.5, "dog", "object")]
    boxes.append(box(0.0, 10.0, 0.4, "cat", "object"))
    assert suppress(boxes, 0.1) == boxes


def test_boxes_of_score_0_and_beyond_the_frame_take_part():
    boxes = [box(-9.5, 0.5, 0.0), box(-9.5, 0.5, 0.0), box(20.0, 30.0, 0.0)]
    assert suppress(boxes, 0.5) == [boxes[0], boxes[2]]


def test_only_what_was_detected_competes():
    drawn = [box(0.0, 10.0, 1.0, source="annotated"), box(0.0, 10.0, 1.0, source="annotated")]
    assert suppress([*drawn, box(0.0, 10.0, 0.5)], 0.5) == [*drawn, box(0.0, 10.0, 0.5)]


def test_a_derived_body_goes_with_its_face_and_no_other_does():
    faces = [box(0.0, 10.0, 0.8, part="face"), box(0.5, 10.0, 0.9, part="face"), box(40.0, 50.0, 0.7, part="face")]
    people = with_bodies(faces, 100, 100)  # the derived bodies of all three overlap, the faces of two
    assert suppress(people, 0.6) == people[2:]


def test_a_person_of_whom_one_detected_box_is_left_keeps_what_was_derived():
    face = box(0.0, 10.0, 0.8, part="face", person=3)
    body, rival = box(0.0, 20.0, 0.5, person=3), box(0.0, 20.0, 0.9, person=4)
    derived = box(0.0, 30.0, 0.8, source="derived", person=3)
    assert suppress([face, body, rival, derived], 0.6) == [face, rival, derived]


def test_nothing_stays_nothing():
    assert suppress([], 0.5) == []
