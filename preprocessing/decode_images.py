"""A folder of numbered images in, RGB frames at a steady rate out: what `SampledFrames` is for a video file."""

import io
import re
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from preprocessing.clip import IMAGES_PER_SECOND
from preprocessing.decode_video import AGAIN, MOST_PIXELS, kept_size
from preprocessing.problems import VideoError, may_pass

MOST_MISSING = 30  # images, ten seconds, beside as many as there are: more is a number that does not belong


class ImageFrames:
    """Iterates once over (time in seconds, RGB frame): image number n stands at (n - 1) / 3 s.

    Images are called 00001.jpg, or with the folder's name before it, FOLDER_001.jpg. A number that is missing or cannot
    be read is filled by the image before it (the first by the one after), so that later ones keep their time. After the
    iteration `problem` says how many. Raises VideoError where there is none, where numbers are far apart, or where one
    could not be read for a reason that may pass.

    During the iteration `original` is the file of the frame that was given last, where it is that file unchanged, and
    `shown_size` the width and height of the first image as it lies in its file.
    """

    fps = native_fps = float(IMAGES_PER_SECOND)
    drift = 0.0

    def __init__(self, folder: Path):
        self.path = Path(folder)
        self.problem: str | None = None
        self.original: Path | None = None
        self.shown_size: tuple[int, int] | None = None
        name = re.compile(rf"(?:{re.escape(self.path.name)}_)?(\d+)\.jpe?g", re.IGNORECASE)
        found = [
            (int(match[1]), path)
            for path in sorted(self.path.iterdir())
            if (match := name.fullmatch(path.name)) and path.is_file()
        ]
        self._numbered = {number: path for number, path in found if number > 0}
        self._left_out = len(found) - len(self._numbered)  # number 0, or a number that two files have
        self._count = max(self._numbered, default=0)
        if self._count > 2 * len(self._numbered) + MOST_MISSING:
            raise VideoError(
                self.path,
                f"holds {len(self._numbered)} images up to number {self._count}",
                "remove what does not belong",
            )
        self.seconds = self.declared = self._count / self.fps

    def __iter__(self) -> Iterator[tuple[float, UInt8[np.ndarray, "h w 3"]]]:
        readable = (image for number in sorted(self._numbered) if (image := self._read(number)) is not None)
        shown = next(readable, None)
        if shown is None:
            raise VideoError(self.path, "holds no numbered JPEG that can be read", "unpack its frames again")
        self.shown_size = size = shown.shape[1], shown.shape[0]
        filled = 0
        for number in range(1, self._count + 1):
            image = self._read(number)
            filled += image is None
            self.original = None
            if image is not None:
                kept = image if (image.shape[1], image.shape[0]) == size else cv2.resize(image, size)
                shown = _fitted(kept)
                self.original = self._numbered[number] if shown is image else None
            yield (number - 1) / self.fps, shown
        self.problem = self.what_is_wrong(filled)

    def what_is_wrong(self, filled: int) -> str | None:
        """In words; `filled` is how many numbers have no image that can be read."""
        told = [f"{filled} of {self._count} images are missing or cannot be read"] * bool(filled)
        told += [f"{self._left_out} images have number 0 or a number that stands twice"] * bool(self._left_out)
        return "; ".join(told) or None

    def gaps(self) -> int:
        """How many numbers before the last have no image."""
        return self._count - len(self._numbered)

    def can_read_last(self) -> bool:
        """Whether the image with the highest number is one: unpacking may have been cut off."""
        return self._read(self._count) is not None

    def _read(self, number: int) -> UInt8[np.ndarray, "h w 3"] | None:
        path = self._numbered.get(number)
        try:
            data = np.fromfile(path, np.uint8) if path else np.zeros(0, np.uint8)
            image = cv2.imdecode(data, cv2.IMREAD_COLOR) if 0 < _pixels(data) <= MOST_PIXELS else None
        except (OSError, cv2.error) as error:
            if may_pass(error):
                raise VideoError(path, f"could not be read ({error.strerror})", AGAIN, transient=True) from None
            return None
        return None if image is None else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _pixels(data: UInt8[np.ndarray, " n"]) -> int:
    """How many pixels an image's first bytes declare, 0 where it is none: OpenCV would take the memory at once."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.width * image.height
    except Image.DecompressionBombError:
        return MOST_PIXELS + 1
    except (OSError, ValueError, SyntaxError):
        return 0


def _fitted(image: np.ndarray) -> np.ndarray:
    """The image itself, or a smaller one where it is too large to be stored."""
    size = image.shape[1], image.shape[0]
    kept = kept_size(float(size[0]), size[1])
    return image if kept == size else cv2.resize(image, kept, interpolation=cv2.INTER_AREA)
