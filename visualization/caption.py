"""A sentence at the top of a picture."""
from PIL import Image, ImageDraw, ImageFont

from visualization.canvas import Canvas, brightness

TEXT = (44, 50, 62)


class Caption:
    """A sentence at the top of a picture, in at most four lines; letters are smaller the longer it is."""

    def __init__(self, text: str, size: tuple[int, int]):
        width, height = size
        side = min(width, height)
        for points in (side // 24, side // 28, side // 32):
            font = ImageFont.load_default(max(points, 14))
            lines = _wrap(text, font, width * 0.92)
            if len(lines) <= 3:
                break
        if len(lines) > 4:
            lines = [*lines[:3], lines[3].rstrip(" .,") + " …"]
        step = round(font.size * 1.35)
        self.mask = Image.new("L", (width, step * len(lines) + round(font.size)))
        self.share = self.mask.height / height if text.strip() else 0.0
        pen = ImageDraw.Draw(self.mask)
        for row, line in enumerate(lines):
            pen.text((width / 2, font.size * 0.7 + row * step), line, font=font, fill=255, anchor="ma")

    def draw(self, picture: Canvas) -> None:
        """Write it onto ``picture``."""
        if self.share:
            picture.shade(brightness(TEXT), (0, 0), self.mask)


def _wrap(text: str, font: ImageFont.FreeTypeFont, room: float) -> list[str]:
    """Break ``text`` between words into lines no wider than ``room`` pixels; a word wider than that is broken."""
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
