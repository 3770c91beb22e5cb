"""Boxes of one frame in, the same without those that enclose what a surer one encloses out."""

import cv2

from preprocessing.detect_people import LabelledBox


def suppress(boxes: list[LabelledBox], nms: float) -> list[LabelledBox]:
    """Greedy non-maximum suppression among the detected boxes of each part and label, in the order they came.

    Of two whose intersection over union is above `nms` (0..1; 1 keeps all) the less sure one goes, and with it the
    boxes that were derived from it: those of the same `person`. Boxes of any other source stay.
    """
    detected = [i for i, box in enumerate(boxes) if box.source == "detected"]
    if nms >= 1 or len(detected) < 2:
        return boxes
    kinds = {kind: number for number, kind in enumerate({(box.part, box.label): None for box in boxes})}
    kept = cv2.dnn.NMSBoxesBatched(
        [(box.x0, box.y0, box.x1 - box.x0, box.y1 - box.y0) for box in (boxes[i] for i in detected)],
        [1 + boxes[i].score for i in detected],  # A score of 0 would never be kept.
        [kinds[boxes[i].part, boxes[i].label] for i in detected],
        score_threshold=0.0,
        nms_threshold=nms,
    )
    gone = set(detected) - {detected[i] for i in kept}
    alone = {boxes[i].person for i in gone} - {boxes[i].person for i in set(detected) - gone} - {None}
    return [
        box for i, box in enumerate(boxes) if i not in gone and not (box.source == "derived" and box.person in alone)
    ]
