"""A folder of numbered images in, RGB frames at a steady rate out: what `SampledFrames` is for a video file."""

import re
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from preprocessing.clip import IMAGES_PER_SECOND
from preprocessing.decode_video import kept_size
from preprocessing.problems import VideoError

NAME = re.compile(r"(?:.*_)?(\d+)\.jpe?g", re.IGNORECASE)  # 00001.jpg, or -b-8xt2PeE_001.jpg


class ImageFrames:
    """Iterates once over (time in seconds, RGB frame): image number n stands at (n - 1) / 3 s.

    A number that is missing or cannot be read is filled by the image before it (the first by the one after), so that
    later ones keep their time. After the iteration `problem` says how many. Raises VideoError where there is none.
    """

    fps = float(IMAGES_PER_SECOND)

    def __init__(self, folder: Path):
        self.path = Path(folder)
        self.problem: str | None = None
        numbered = {int(match[1]): path for path in self.path.iterdir() if (match := NAME.fullmatch(path.name))}
        self._numbered = {number: path for number, path in numbered.items() if number > 0}
        self._count = max(self._numbered, default=0)
        self.seconds = self.declared = self._count / self.fps

    def __iter__(self) -> Iterator[tuple[float, UInt8[np.ndarray, "h w 3"]]]:
        readable = (image for number in sorted(self._numbered) if (image := self._read(number)) is not None)
        shown = next(readable, None)
        if shown is None:
            raise VideoError(self.path, "holds no numbered JPEG that can be read", "unpack its frames again")
        size, filled = (shown.shape[1], shown.shape[0]), 0
        for number in range(1, self._count + 1):
            image = self._read(number)
            filled += image is None
            if image is not None:
                shown = image if (image.shape[1], image.shape[0]) == size else cv2.resize(image, size)
            yield (number - 1) / self.fps, shown
        if filled:
            self.problem = f"{filled} of {self._count} images are missing or cannot be read"

    def gaps(self) -> int:
        """How many numbers before the last have no image."""
        return self._count - len(self._numbered)

    def last(self) -> Path:
        """The image with the highest number."""
        return self._numbered[self._count]

    def jpeg(self, index: int) -> bytes | None:
        """The file of the picture with this index, from 0, as it is; None where it has to be made smaller or filled."""
        path = self._numbered.get(index + 1)
        image = cv2.imread(str(path)) if path else None
        return path.read_bytes() if image is not None and _fitted(image) is image else None

    def _read(self, number: int) -> UInt8[np.ndarray, "h w 3"] | None:
        path = self._numbered.get(number)
        image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR) if path and path.stat().st_size else None
        if image is None:
            return None
        return cv2.cvtColor(_fitted(image), cv2.COLOR_BGR2RGB)


def _fitted(image: np.ndarray) -> np.ndarray:
    """The image itself, or a smaller one where it is too large to be stored."""
    size = image.shape[1], image.shape[0]
    kept = kept_size(float(size[0]), size[1])
    return image if kept == size else cv2.resize(image, kept, interpolation=cv2.INTER_AREA)
