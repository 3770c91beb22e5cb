"""Boxes of one kind, picture by picture, in, for each the name of the track that it belongs to out: ByteTrack.

Zhang et al. 2022, section 3, as the package `trackers` has it: boxes are held against where a Kalman filter expects each
track; sure boxes continue tracks or begin them; those that are less sure may continue what is left of the tracks.
"""

from collections.abc import Iterator

import numpy as np
import supervision
from trackers import ByteTrackTracker
from trackers.utils.iou import BIoU

from preprocessing.detect_people import LabelledBox

# At a few pictures a second people move by their own width: boxes are compared at twice their size (BIoU: Yang et al.
# 2023). Beside 1.0 to 4.0 and 0.05 to 0.3 these two lose and mix up fewest people on our real clips, also at every
# second or third picture and with three of ten boxes taken out.
GROWTH = 2.0
SMALLEST_OVERLAP = 0.2  # intersection over union of the grown boxes


class ByteTrack:
    """Follows the boxes of one part and label through one shot."""

    def __init__(self, names: Iterator[int], sure: float, missed: int):
        """`names` names new tracks; `sure` is the score from which a box begins one; a track may miss `missed` pictures."""
        self._names, self._sure = names, sure
        self._tracker = ByteTrackTracker(
            lost_track_buffer=missed,
            frame_rate=30.0,  # the rate in whose pictures the buffer is counted, so that it counts ours
            track_activation_threshold=1.0,
            high_conf_det_threshold=1.0,
            minimum_consecutive_frames=0,  # a track that was seen once may be waited for as long as any
            minimum_iou_threshold=SMALLEST_OVERLAP,
            iou=BIoU(buffer_ratio=(GROWTH - 1) / 2),
        )

    @property
    def ended(self) -> bool:
        """Whether no track is waited for any more."""
        return not self._tracker.tracks

    def __call__(self, boxes: list[LabelledBox]) -> list[int | None]:
        """For each box of the next picture the name of its track; None for one that is not sure and continues none."""
        names: list[int | None] = [None] * len(boxes)
        corners = np.array([(box.x0, box.y0, box.x1, box.y1) for box in boxes], float).reshape(-1, 4)
        sure = [box.score >= self._sure for box in boxes]
        # ByteTrack asks of a score only whether it is high: 1 or 0 say so without rounding.
        found = self._tracker.update(
            supervision.Detections(corners, confidence=np.array(sure, float), data={"row": np.arange(len(boxes))})
        )
        begun = []
        for row, name in zip(found.data.get("row", ()), found.tracker_id, strict=True):
            if name >= 0:
                names[row] = int(name)
            elif sure[row]:
                begun.append(row)
        # The package names a track when it is seen again; named at once, its first box belongs to it too. New tracks
        # stand in the order of their boxes.
        unnamed = [track for track in self._tracker.tracks if track.tracker_id < 0]
        for row, track in zip(begun, unnamed, strict=True):
            names[row] = track.tracker_id = next(self._names)
        return names
