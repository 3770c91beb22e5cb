"""Frames and MTCNN's three networks in, the faces that facenet-pytorch finds in them out, in about half its time.

The cascade of MTCNN (Zhang et al. 2016, arXiv 1604.02878), step for step as facenet-pytorch's `detect_face` has it, and
with its functions wherever they cost little. Two things cost most there. It shrinks the picture for every network by
`adaptive_avg_pool2d`, and every candidate apart: here all means are differences of one integral image, and exact. And
PyTorch's max pooling is slow on one thread where the channels do not lie together: here they do, or it is a maximum of
slices.
"""

import cv2
import numpy as np
import torch
from facenet_pytorch import MTCNN
from facenet_pytorch.models.utils.detect_face import batched_nms_numpy, bbreg, generateBoundingBox, pad, rerec
from jaxtyping import Float, Float32, Int, UInt8
from torch import Tensor, nn
from torchvision.ops import batched_nms

FIELD = 12  # pixels a side of what the first network looks at
CANDIDATES = 32  # that go through a network at once: twice as fast on a CPU as all of them, which leave its cache


class FaceCascade:
    """The networks of an MTCNN, and how they are asked."""

    def __init__(self, mtcnn: MTCNN):
        """Takes over the networks of `mtcnn`, its thresholds, its smallest face and its device."""
        self._mtcnn = mtcnn
        mtcnn.pnet.pool1 = _HalvingPool()
        for network in (mtcnn.rnet, mtcnn.onet):
            network.to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def __call__(self, frames: list[UInt8[np.ndarray, "h w 3"]]) -> list[Float32[np.ndarray, "_ 5"]]:
        """For each frame its faces, the largest first: x0 y0 x1 y1 in pixels, which may leave the frame, and score."""
        network, means = self._mtcnn, _Means(frames)
        boxes, image = self._propose(means)
        boxes, image, shift = self._ask(network.rnet, 24, network.thresholds[1], boxes, image, means)
        kept = batched_nms(boxes[:, :4], boxes[:, 4], image, 0.7)
        boxes, image = rerec(bbreg(boxes[kept], shift[kept])), image[kept]
        boxes, image, shift = self._ask(network.onet, 48, network.thresholds[2], boxes, image, means)
        boxes = bbreg(boxes, shift)
        kept = batched_nms_numpy(boxes[:, :4], boxes[:, 4], image, 0.7, "Min")
        boxes, image = boxes[kept].cpu().numpy(), image[kept].cpu().numpy()
        largest = np.argsort((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))[::-1]
        return [boxes[[i for i in largest if image[i] == index]] for index in range(len(frames))]

    def _propose(self, means: "_Means") -> tuple[Float[Tensor, "n 5"], Int[Tensor, " n"]]:
        """Squares where a face may be, with a score, and the frame of each: the first network over a pyramid."""
        network = self._mtcnn
        boxes, image = [torch.zeros(0, 9, device=network.device)], [torch.zeros(0, dtype=int, device=network.device)]
        scale = FIELD / network.min_face_size
        while min(means.height, means.width) * scale >= FIELD:
            height, width = int(means.height * scale + 1), int(means.width * scale + 1)
            shift, scores = network.pnet(_tensor(means.whole(height, width), network.device).contiguous())
            found, index = generateBoundingBox(shift, scores[:, 1], scale, network.thresholds[0])
            kept = batched_nms(found[:, :4], found[:, 4], index, 0.5)
            boxes.append(found[kept])
            image.append(index[kept])
            scale *= network.factor
        boxes, image = torch.cat(boxes), torch.cat(image)
        kept = batched_nms(boxes[:, :4], boxes[:, 4], image, 0.7)
        boxes, image = boxes[kept], image[kept]
        sides = (boxes[:, 2:4] - boxes[:, :2]).repeat(1, 2)
        return rerec(torch.cat([boxes[:, :4] + boxes[:, 5:] * sides, boxes[:, 4:5]], dim=1)), image

    def _ask(self, network: nn.Module, side: int, threshold: float, boxes: Tensor, image: Tensor, means: "_Means"):
        """The boxes that a network takes for faces, with its scores, their frames, and how it would move them."""
        device = self._mtcnn.device
        y0, y1, x0, x1 = pad(boxes, means.width, means.height)
        inside = (y0 <= y1) & (x0 <= x1)  # pixels count from 1
        corners = np.stack([image.cpu().numpy(), y0 - 1, y1, x0 - 1, x1])[:, inside]
        boxes, image = boxes[inside], image[inside]
        shifts, scores = [boxes[:0, :4]], [boxes[:0, 4]]
        for first in range(0, len(boxes), CANDIDATES):
            pixels = means(*corners[:, first : first + CANDIDATES], side)
            shift, *_, score = network(_tensor(pixels, device).contiguous(memory_format=torch.channels_last))
            shifts.append(shift)
            scores.append(score[:, 1])
        shift, score = torch.cat(shifts), torch.cat(scores)
        kept = score > threshold
        return torch.cat([boxes[kept, :4], score[kept, None]], dim=1), image[kept], shift[kept]


def _tensor(pixels: Float32[np.ndarray, "n h w c"], device: torch.device) -> Float[Tensor, "n 3 h w"]:
    return torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2)[:, :3]


class _HalvingPool(nn.Module):
    """nn.MaxPool2d(2, 2, ceil_mode=True)."""

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c i j"]:
        odd = (0, x.shape[3] % 2, 0, x.shape[2] % 2)
        if any(odd):  # A padding of nothing would copy.
            x = nn.functional.pad(x, odd, value=-torch.inf)
        x = torch.maximum(x[:, :, ::2], x[:, :, 1::2])
        return torch.maximum(x[..., ::2], x[..., 1::2])


class _Means:
    """Mean colours of rectangles of frames, by integral images (Crow 1984)."""

    def __init__(self, frames: list[UInt8[np.ndarray, "h w 3"]]):
        self.height, self.width = frames[0].shape[:2]
        # A fourth colour that nobody looks at: 16 bytes are taken at once, 12 are not. Differences may overflow.
        self._sums = np.empty((len(frames), self.height + 1, self.width + 1, 4), np.int32)
        for frame, sums in zip(frames, self._sums, strict=True):
            cv2.integral(cv2.cvtColor(frame, cv2.COLOR_RGB2RGBA), sums)

    def whole(self, height: int, width: int) -> Float32[np.ndarray, "n h w 4"]:
        """All frames, resized, from -1 (black) to 1."""
        start, end = np.zeros(1, int), np.array([self.height, self.width])
        (top, bottom), (left, right) = _cells(start, end[:1], height), _cells(start, end[1:], width)
        rows = self._sums.take(bottom[0], axis=1)
        rows -= self._sums.take(top[0], axis=1)
        total = rows.take(right[0], axis=2)
        total -= rows.take(left[0], axis=2)
        return _scaled(total, (bottom - top)[:, :, None] * (right - left)[:, None])

    def __call__(
        self,
        image: Int[np.ndarray, " n"],
        y0: Int[np.ndarray, " n"],
        y1: Int[np.ndarray, " n"],
        x0: Int[np.ndarray, " n"],
        x1: Int[np.ndarray, " n"],
        side: int,
    ) -> Float32[np.ndarray, "n s s 4"]:
        """Rectangles of frames, each resized to a square, from -1 to 1."""
        (top, bottom), (left, right) = _cells(y0, y1, side), _cells(x0, x1, side)
        first = image[:, None] * (self.height + 1)
        above, below = ((first + y)[:, :, None] * (self.width + 1) for y in (top, bottom))
        left, right = left[:, None], right[:, None]
        sums = self._sums.reshape(-1, 4)
        total = sums.take(below + right, axis=0)
        total -= sums.take(above + right, axis=0)
        total -= sums.take(below + left, axis=0)
        total += sums.take(above + left, axis=0)
        return _scaled(total, (bottom - top)[:, :, None] * (right - left))


def _scaled(total: Int[np.ndarray, "n h w 4"], area: Int[np.ndarray, "#n h w"]) -> Float32[np.ndarray, "n h w 4"]:
    """Mean colours as the networks want them."""
    means = np.multiply(total, (1 / 128 / area).astype(np.float32)[..., None], dtype=np.float32, casting="same_kind")
    means -= np.float32(127.5 / 128)
    return means


def _cells(start: Int[np.ndarray, " n"], end: Int[np.ndarray, " n"], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the `count` cells of each range begin and end, as adaptive_avg_pool2d has them: they may overlap."""
    start, length, index = start[:, None], (end - start)[:, None], np.arange(count)
    return start + index * length // count, start - (-(index + 1) * length // count)
