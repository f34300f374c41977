"""Draw a caption at the top of a picture."""
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

TEXT = (44, 50, 62)  # RGB
# Fonts of common systems by file name: the first one with all letters of a text is used.
FONTS = ("DejaVuSans.ttf", "Arial.ttf", "arial.ttf", "NotoSans-Regular.ttf", "NotoSansCJK-Regular.ttc",
         "NotoSansCJKsc-Regular.otf", "wqy-microhei.ttc", "wqy-zenhei.ttc", "DroidSansFallbackFull.ttf", "PingFang.ttc",
         "Hiragino Sans GB.ttc", "msyh.ttc", "msgothic.ttc", "malgun.ttf", "arialuni.ttf", "unifont.ttf")


class CaptionMask:
    """A caption at the top of a picture, in at most four lines; longer texts get smaller letters.

    Letters missing in all installed fonts become "?".
    """

    def __init__(self, text: str, size: tuple[int, int]) -> None:
        width, height = size
        side = min(width, height)
        text, font_name = drawable(" ".join(text.split()))
        for points in (side // 24, side // 28, side // 32):
            font = _font(font_name, max(points, 14))
            lines = _wrap(text, font, width * 0.92)
            if len(lines) <= 3:
                break
        if len(lines) > 4:
            lines = [*lines[:3], lines[3].rstrip(" .,") + "..."]
        step = round(font.size * 1.35)
        self.mask = Image.new("L", (width, step * len(lines) + round(font.size)))
        self.share = self.mask.height / height if text.strip() else 0.0
        pen = ImageDraw.Draw(self.mask)
        for row, line in enumerate(lines):
            pen.text((width / 2, font.size * 0.7 + row * step), line, font=font, fill=255, anchor="ma")

    def draw(self, picture: np.ndarray) -> None:
        """Draw the caption onto ``picture`` (H, W, 3) in BGR."""
        if self.share:
            cover = np.asarray(self.mask, float)[..., None] / 255
            top = picture[:self.mask.height]
            top[:] = np.rint(top * (1 - cover) + np.array(TEXT[::-1]) * cover)[:len(top)]


@lru_cache(maxsize=64)
def drawable(text: str) -> tuple[str, str | None]:
    """``text`` and the name of a font with all of its letters (None: Pillow's font); missing letters become "?"."""
    letters = {letter for letter in text if not letter.isspace()}
    best, missing = None, {letter for letter in letters if not _has(None, letter)}
    for name in FONTS:
        if not missing:
            break
        lacking = letters if _font(name, 16) is None else {letter for letter in letters if not _has(name, letter)}
        if len(lacking) < len(missing):
            best, missing = name, lacking
    return "".join("?" if letter in missing else letter for letter in text), best


@lru_cache(maxsize=256)
def _font(name: str | None, points: int) -> ImageFont.FreeTypeFont | None:
    try:
        return ImageFont.truetype(name, points) if name else ImageFont.load_default(points)
    except OSError:
        return None


def _has(name: str | None, letter: str) -> bool:
    """Whether a font has a letter: its glyph differs from that of an undefined code point."""
    font = _font(name, 16)
    return letter.isascii() or bytes(font.getmask(letter)) != bytes(font.getmask("\U0010fffd"))


def _wrap(text: str, font: ImageFont.FreeTypeFont, room: float) -> list[str]:
    """Break ``text`` between words into lines of at most ``room`` pixels; words that are too wide are split."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= room:
            lines[-1] = longer
            continue
        if lines[-1]:
            lines.append("")
        for letter in word:
            if font.getlength(lines[-1] + letter) > room:
                lines.append("")
            lines[-1] += letter
    return lines
