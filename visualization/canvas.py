"""A picture the way films hold it, so that no frame has to be converted: brightness, and colour at half the size."""
import math
from functools import cache

import numpy as np
from PIL import Image, ImageDraw

SUPERSAMPLE = 2
Rgb = tuple[int, int, int]
Box = tuple[int, int, int, int]

# ITU-R BT.601, 8 bit, limited range: Y 16 to 235, Cb and Cr 16 to 240 around 128.
_TO_YCC = np.array([[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]]) / 255
_ZERO = np.array([16.0, 128.0, 128.0])
_FULL_Y = [round((value - 16) * 255 / 219) for value in range(256)]
_FULL_C = [round((value - 128) * 255 / 224) + 128 for value in range(256)]


def ycc(rgb: np.ndarray | Rgb) -> np.ndarray:
    """Y, Cb and Cr (..., 3) of colours (..., 3) from 0 to 255."""
    return np.asarray(rgb, float) @ _TO_YCC.T + _ZERO


@cache
def whole_ycc(rgb: Rgb) -> tuple[int, int, int]:
    """Y, Cb and Cr of a colour, as a film holds them."""
    return tuple(np.rint(ycc(rgb)).astype(int).tolist())


def brightness(rgb: Rgb) -> int:
    """Y of a colour."""
    return whole_ycc(rgb)[0]


class Canvas:
    """A picture of even sides: ``y`` (H, W), ``cb`` and ``cr`` (H / 2, W / 2), all in one array ``planes``.

    That array (1.5 H W,) is the picture as ffmpeg's ``yuv420p``. Raises ``ValueError`` for odd sides.
    """

    def __init__(self, size: tuple[int, int], planes: np.ndarray | None = None):
        width, height = size
        if width % 2 or height % 2:
            raise ValueError(f"a picture of {width} x {height}: films have even sides only")
        self.size = size
        self.planes = np.empty(width * height * 3 // 2, np.uint8) if planes is None else planes
        y, *colours = np.split(self.planes, [width * height, width * height * 5 // 4])
        self.y = y.reshape(height, width)
        self.cb, self.cr = (plane.reshape(height // 2, width // 2) for plane in colours)

    @classmethod
    def of_colour(cls, size: tuple[int, int], rgb: Rgb) -> "Canvas":
        """One colour all over."""
        canvas = cls(size)
        canvas.y[:], canvas.cb[:], canvas.cr[:] = whole_ycc(rgb)
        return canvas

    def copy(self) -> "Canvas":
        """Another picture of the same content."""
        return Canvas(self.size, self.planes.copy())

    def shade(self, value: int, corner: tuple[int, int], mask: Image.Image) -> None:
        """Bring the brightness towards ``value`` where ``mask`` is set; colours stay."""
        shared(self.y).paste(value, corner, mask)

    def paint(self, rgb: Rgb, corner: tuple[int, int], mask: Image.Image) -> None:
        """Lay a colour over what is there; ``corner`` has even coordinates."""
        y, cb, cr = whole_ycc(rgb)
        half, small = (corner[0] // 2, corner[1] // 2), mask.reduce(2)
        shared(self.y).paste(y, corner, mask)
        shared(self.cb).paste(cb, half, small)
        shared(self.cr).paste(cr, half, small)

    def paste(self, other: "Canvas", corner: tuple[int, int]) -> None:
        """Lay another picture over this one; ``corner`` has even coordinates."""
        for mine, its, (x, y) in ((self.y, other.y, corner), (self.cb, other.cb, (corner[0] // 2, corner[1] // 2)),
                                  (self.cr, other.cr, (corner[0] // 2, corner[1] // 2))):
            mine[y:y + its.shape[0], x:x + its.shape[1]] = its

    def rgb(self) -> Image.Image:
        """The picture in red, green and blue."""
        y, cb, cr = (Image.fromarray(plane) for plane in (self.y, self.cb, self.cr))
        colours = [plane.resize(self.size, Image.Resampling.BILINEAR).point(_FULL_C) for plane in (cb, cr)]
        return Image.merge("YCbCr", (y.point(_FULL_Y), *colours)).convert("RGB")


class Layer:
    """A part of a canvas that is drawn on ``SUPERSAMPLE`` times as large, then laid back over where it came from."""

    def __init__(self, canvas: Canvas, box: Box):
        """``box`` has even coordinates."""
        left, top, right, bottom = box
        half = slice(top // 2, bottom // 2), slice(left // 2, right // 2)
        self.whole = canvas.y[top:bottom, left:right]
        self.halves = canvas.cb[half], canvas.cr[half]
        self.bright = _doubled(self.whole, np.uint16)
        # Both colours of a place are in one number, with room between them to be added up: Pillow takes the lower for
        # red and the upper for blue.
        cb, cr = self.halves
        self.colours = _doubled(cb + cr.astype("<u4") * 0x10000, np.dtype("<u8"))
        self.pens = ImageDraw.Draw(shared(self.bright)), ImageDraw.Draw(shared(self.colours))

    def put_back(self) -> None:
        """Lay what has been drawn over the canvas."""
        pairs = self.bright.view(np.uint16)
        pairs = (pairs & 0xFF) + (pairs >> 8)
        self.whole[:] = (pairs[::2] + pairs[1::2] + 2) >> 2
        pairs = (self.colours[::2] + self.colours[1::2]).view("<u8")
        sums = (((pairs & 0xFFFFFFFF) + (pairs >> 32)).astype("<u4") + 0x20002) >> 2
        self.halves[0][:] = sums & 0xFF
        self.halves[1][:] = sums >> 16


def shared(plane: np.ndarray) -> Image.Image:
    """A plane of bytes, or of four in a number, as an image in the same memory: what is drawn on it is in ``plane``."""
    mode = "L" if plane.itemsize == 1 else "RGBA"
    image = Image.frombuffer(mode, plane.shape[::-1], plane, "raw", mode, 0, 1)
    image.readonly = 0
    return image


def even_box(points: np.ndarray, margin: float, size: tuple[int, int]) -> Box | None:
    """The part of a picture of ``size`` around ``points`` (N, 2), on even coordinates; None where there is none."""
    low = [max(math.floor((side - margin) / 2) * 2, 0) for side in points.min(0).tolist()]
    high = [min(math.ceil((side + margin) / 2) * 2, most)
            for side, most in zip(points.max(0).tolist(), size, strict=True)]
    return (*low, *high) if low[0] < high[0] and low[1] < high[1] else None


def _doubled(plane: np.ndarray, wider: np.dtype | type) -> np.ndarray:
    """(H, W) -> (2 H, 2 W) by repetition; ``wider`` holds two of its numbers."""
    pairs = plane.astype(wider)
    pairs |= pairs << 8 * plane.itemsize
    return np.repeat(pairs, 2, 0).view(plane.dtype)
