"""A picture the way films hold it, so that no frame has to be converted: brightness, and colour at half the size."""
from dataclasses import dataclass

import numpy as np
from PIL import Image

SUPERSAMPLE = 2
Rgb = tuple[int, int, int]

# ITU-R BT.601, 8 bit, limited range: Y 16 to 235, Cb and Cr 16 to 240 around 128.
_TO_YCC = np.array([[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]]) / 255
_ZERO = np.array([16.0, 128.0, 128.0])
_FULL_Y = [round((value - 16) * 255 / 219) for value in range(256)]
_FULL_C = [round((value - 128) * 255 / 224) + 128 for value in range(256)]


def ycc(rgb: np.ndarray | Rgb) -> np.ndarray:
    """Y, Cb and Cr (..., 3) of colours (..., 3) from 0 to 255."""
    return np.asarray(rgb, float) @ _TO_YCC.T + _ZERO


def brightness(rgb: Rgb) -> int:
    """Y of a colour."""
    return round(float(ycc(rgb)[0]))


@dataclass(frozen=True)
class Canvas:
    """A picture of even sides: ``y`` of W x H pixels, ``cb`` and ``cr`` of half as many each way."""

    y: Image.Image
    cb: Image.Image
    cr: Image.Image

    @classmethod
    def of_colour(cls, size: tuple[int, int], rgb: Rgb) -> "Canvas":
        """One colour all over. Raises ``ValueError`` for odd sides."""
        if size[0] % 2 or size[1] % 2:
            raise ValueError(f"a picture of {size[0]} x {size[1]}: films have even sides only")
        y, cb, cr = np.rint(ycc(rgb)).astype(int).tolist()
        half = size[0] // 2, size[1] // 2
        return cls(Image.new("L", size, y), Image.new("L", half, cb), Image.new("L", half, cr))

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.y.size

    def copy(self) -> "Canvas":
        """Another picture of the same content."""
        return Canvas(self.y.copy(), self.cb.copy(), self.cr.copy())

    def shade(self, value: int, corner: tuple[int, int], mask: Image.Image) -> None:
        """Bring the brightness towards ``value`` where ``mask`` is set; colours stay."""
        self.y.paste(value, corner, mask)

    def paint(self, rgb: Rgb, corner: tuple[int, int], mask: Image.Image) -> None:
        """Lay a colour over what is there; ``corner`` has even coordinates."""
        y, cb, cr = np.rint(ycc(rgb)).astype(int).tolist()
        half, small = (corner[0] // 2, corner[1] // 2), mask.reduce(2)
        self.y.paste(y, corner, mask)
        self.cb.paste(cb, half, small)
        self.cr.paste(cr, half, small)

    def enlarged(self, box: tuple[int, int, int, int]) -> Image.Image:
        """What lies in a ``box`` of even coordinates, ``SUPERSAMPLE`` times as large, to be drawn on.

        Its three bands are Y, Cb and Cr, though Pillow takes them for red, green and blue.
        """
        size = box[2] - box[0], box[3] - box[1]
        half = tuple(side // 2 for side in box)
        colours = [part.crop(half).resize(size, Image.Resampling.NEAREST) for part in (self.cb, self.cr)]
        cut = Image.merge("RGB", (self.y.crop(box), *colours))
        return cut.resize((SUPERSAMPLE * size[0], SUPERSAMPLE * size[1]), Image.Resampling.NEAREST)

    def put_back(self, drawn: Image.Image, corner: tuple[int, int]) -> None:
        """Lay what ``enlarged`` gave and has been drawn on where it came from."""
        y, cb, cr = drawn.reduce(SUPERSAMPLE).split()
        half = corner[0] // 2, corner[1] // 2
        self.y.paste(y, corner)
        self.cb.paste(cb.reduce(2), half)
        self.cr.paste(cr.reduce(2), half)

    def paste(self, other: "Canvas", corner: tuple[int, int]) -> None:
        """Lay another picture over this one; ``corner`` has even coordinates."""
        half = corner[0] // 2, corner[1] // 2
        for mine, its, at in ((self.y, other.y, corner), (self.cb, other.cb, half), (self.cr, other.cr, half)):
            mine.paste(its, at)

    def planes(self) -> bytes:
        """The picture as ffmpeg's ``yuv420p``."""
        return b"".join(part.tobytes() for part in (self.y, self.cb, self.cr))

    def rgb(self) -> Image.Image:
        """The picture in red, green and blue."""
        colours = [part.resize(self.size, Image.Resampling.BILINEAR).point(_FULL_C) for part in (self.cb, self.cr)]
        return Image.merge("YCbCr", (self.y.point(_FULL_Y), *colours)).convert("RGB")


def even_box(points: np.ndarray, margin: float, size: tuple[int, int]) -> tuple[int, int, int, int] | None:
    """The part of a picture of ``size`` around ``points`` (..., 2), on even coordinates; None where there is none."""
    flat, sides = points.reshape(-1, 2), np.array(size)
    low = np.clip(np.floor((flat.min(0) - margin) / 2) * 2, 0, sides).astype(int)
    high = np.clip(np.ceil((flat.max(0) + margin) / 2) * 2, 0, sides).astype(int)
    return (*low.tolist(), *high.tolist()) if (low < high).all() else None
