"""Detectors of a user: any importable class with `boxes`."""

import os
import time

import numpy as np

from preprocessing.detect_people import LabelledBox


class BrightSquare:
    """One person where the picture is bright."""

    def boxes(self, frames):
        return [self._frame(frame) for frame in frames]

    def _frame(self, frame):
        ys, xs = np.nonzero(frame.mean(-1) > 200)
        if not len(ys):
            return []
        return [LabelledBox(*map(float, (ys.min(), xs.min(), ys.max() + 1, xs.max() + 1)), "person", "body", 0.9)]


class Misplaced(BrightSquare):
    """Boxes that leave the frame, partly and wholly, and one without area."""

    def _frame(self, frame):
        height = float(frame.shape[0])
        return [
            LabelledBox(-10.0, -10.0, 20.0, 20.0, "person", "body", 1.0),
            LabelledBox(height + 1, 0.0, height + 20, 20.0, "person", "body", 1.0),
            LabelledBox(5.0, 5.0, 5.0, 30.0, "person", "body", 1.0),
            LabelledBox(5.0, float("nan"), 25.0, 30.0, "person", "body", 1.0),
        ]


class Wrong(BrightSquare):
    """Gives something else where nobody is in the picture: `first` for the first frame."""

    first = ()

    def boxes(self, frames):
        found = super().boxes(frames)
        return found if any(found) else [list(self.first), *found[1:]]


class WrongNothing(Wrong):
    def boxes(self, frames):
        found = super().boxes(frames)
        return found if any(found) else None


class WrongNumber(Wrong):
    def boxes(self, frames):
        return [boxes for boxes in super().boxes(frames) if boxes]


def _box(**changes) -> LabelledBox:
    box = LabelledBox(0.0, 0.0, 20.0, 20.0, "person", "body", 1.0)
    for name, value in changes.items():
        object.__setattr__(box, name, value)  # The tests check types where a box is made; a user's program does not.
    return box


class WrongKind(Wrong):
    first = ((0.0, 0.0, 20.0, 20.0),)


class WrongEdge(Wrong):
    first = (_box(y0="0"),)


class WrongPart(Wrong):
    first = (_box(part="hand"),)


class WrongLabel(Wrong):
    first = (_box(label=7),)


class WrongSource(Wrong):
    first = (_box(source="guessed"),)


class WrongPerson(Wrong):
    """A person who is not even hashable, which nothing checks."""

    first = (_box(person=[]),)


class Failing(BrightSquare):
    """Falls over pictures without anybody."""

    def _frame(self, frame):
        return [super()._frame(frame)[0]]


class Unbuilt(BrightSquare):
    """Lacks something that it needs."""

    def __init__(self):
        raise ImportError("no module named weights")


class Deadly(BrightSquare):
    """Takes its process with it where nobody is in the picture."""

    def _frame(self, frame):
        return super()._frame(frame) or os._exit(9)


class Endless(BrightSquare):
    """Never comes back where nobody is in the picture."""

    def _frame(self, frame):
        found = super()._frame(frame)
        while not found:
            time.sleep(0.1)
        return found


class Counted(Deadly):
    """Leaves a file in the folder PROCESSES for each process that builds it."""

    def __init__(self):
        open(os.path.join(os.environ["PROCESSES"], str(os.getpid())), "w").close()
