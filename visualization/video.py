"""Write motions as videos and contact sheets, with captions."""
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw, ImageFont
from scipy.interpolate import CubicSpline

from motion.skeleton import SKELETONS, Skeleton
from utils import usable_cores
from utils.files import atomic_path
from visualization.scene import SKY, Scene, follow, line_up

TEXT = (44, 50, 62)  # RGB
# File names of fonts on common systems, for characters that Pillow's font lacks.
FONTS = ("DejaVuSans.ttf", "Arial.ttf", "arial.ttf", "NotoSans-Regular.ttf", "NotoSansCJK-Regular.ttc",
         "NotoSansCJKsc-Regular.otf", "wqy-microhei.ttc", "wqy-zenhei.ttc", "DroidSansFallbackFull.ttf", "PingFang.ttc",
         "Hiragino Sans GB.ttc", "msyh.ttc", "msgothic.ttc", "malgun.ttf", "arialuni.ttf", "unifont.ttf")
MAX_COLUMNS = 4
MAX_GIF_FPS = 50  # frame delays are whole hundredths of a second, at least two

FIGURE_WIDTH, FIGURE_DETAIL = 7.0, 3  # inches, and scale of poses in figures for papers

# Codec, pixel format, and options of codec and container. mp4: widely supported and streamable. gif: 256 colours.
ENCODERS = {
    ".mp4": ("libx264", "yuv420p", {
        "qp": "23", "preset": "ultrafast", "tune": "zerolatency", "threads": "1",
        "x264-params": "deblock=0,0:subme=0:chroma-qp-offset=3",
        "colorspace": "smpte170m", "color_primaries": "smpte170m", "color_trc": "smpte170m", "color_range": "tv"},
        {"movflags": "+faststart"}),
    ".gif": ("gif", "pal8", {}, {}),
}
MOST_THREADS, AHEAD = 4, 16  # threads that draw, and frames in memory


def write_video(path: str | Path, motions: Sequence[ArrayLike], captions: Sequence[str] = (), fps: float = 20.0,
                size: int = 720, video_fps: float | None = None) -> None:
    """Write ``motions``, each (T, 22, 3) or (T, 21, 3) in metres with the floor at y = 0, side by side as one video.

    The suffix of ``path`` selects ``.mp4`` or ``.gif``. Each motion is drawn with its caption in a ``size`` x ``size``
    square, at most four per row. Shorter motions hold their last pose. ``fps`` is the frame rate of the motions,
    ``video_fps`` that of the video (default: the same); poses are interpolated, so the duration stays the same. GIFs
    have at most 50 fps, since players slow faster ones down.

    Raises ``ValueError`` for an unsupported suffix or shape, an empty list of motions, coordinates that are not finite,
    or a number of captions that is neither 0 nor the number of motions. Raises ``OSError`` if encoding fails.
    """
    path = Path(path)
    if path.suffix.lower() not in ENCODERS:
        raise ValueError(f"{path}: videos must be {' or '.join(ENCODERS)}")
    size += size % 2  # yuv420p needs even sizes
    rate = video_fps or fps
    if path.suffix.lower() == ".gif":
        rate = min(rate, MAX_GIF_FPS)
    scenes = [follow_scene(_at_rate(joints, fps, rate), skeleton, rate, (size, size), caption)
              for joints, skeleton, caption in _checked(motions, captions)]
    columns = min(len(scenes), MAX_COLUMNS)
    sides = size * columns, size * -(-len(scenes) // columns)
    with atomic_path(path) as temporary:
        try:
            _encode(temporary, path.suffix.lower(), sides, Fraction(rate).limit_denominator(),
                    _pictures(scenes, sides, size))
        except av.FFmpegError as error:
            raise OSError(f"ffmpeg: {error}") from error


def _encode(path: Path, suffix: str, sides: tuple[int, int], rate: Fraction, pictures: Iterator[np.ndarray]) -> None:
    """Encode ``pictures``, which are in yuv420p, as a video of size ``sides`` (width, height), in pixels."""
    codec, pixels, options, container = ENCODERS[suffix]
    with av.open(str(path), "w", format=suffix[1:], options=container) as file:
        stream = file.add_stream(codec, rate, options=options, width=sides[0], height=sides[1], pix_fmt=pixels)
        frames = (av.VideoFrame.from_numpy_buffer(picture, "yuv420p") for picture in pictures)
        for frame in _with_palette(pictures, sides, rate) if suffix == ".gif" else frames:
            file.mux(stream.encode(frame))
        file.mux(stream.encode())


def _with_palette(pictures: Iterator[np.ndarray], sides: tuple[int, int], rate: Fraction) -> Iterator[av.VideoFrame]:
    """Convert pictures to frames with one palette of 256 colours, chosen for the whole video."""
    graph = av.filter.Graph()
    source = graph.add_buffer(width=sides[0], height=sides[1], format=av.VideoFormat("yuv420p"), time_base=1 / rate)
    copies, palette = graph.add("split"), graph.add("palettegen", "stats_mode=diff")
    paint, result = graph.add("paletteuse", "dither=bayer:bayer_scale=4"), graph.add("buffersink")
    graph.link_nodes(source, copies, paint, result)
    copies.link_to(palette, 1)
    palette.link_to(paint, 0, 1)
    graph.configure()
    for number, picture in enumerate(pictures):
        frame = av.VideoFrame.from_ndarray(picture, "yuv420p")  # a copy, as all frames are needed at once
        frame.pts, frame.time_base = number, 1 / rate
        graph.push(frame)
    graph.push(None)
    with suppress(av.EOFError):
        yield from iter(graph.pull, None)


def strip(path: str | Path, motions: Sequence[ArrayLike], captions: Sequence[str] = (), poses: int = 8,
          height: int = 300) -> None:
    """Write a contact sheet with a row for each motion: ``poses`` of its frames, evenly spaced from first to last.

    The suffix selects a picture (.png, .webp) or a figure for papers (.pdf, .svg), in which captions are text and poses
    have more pixels. ``motions``, ``captions`` and errors are as in ``write_video``.
    """
    checked, rows, figure = _checked(motions, captions), [], Path(path).suffix in (".pdf", ".svg")
    scale = FIGURE_DETAIL if figure else 1
    for joints, skeleton, caption in checked:
        frames, size = np.linspace(0, len(joints) - 1, poses), (round(height * 0.45 * poses) * scale, height * scale)
        rows.append(draw_poses(joints[frames.round().astype(int)], skeleton, size, "" if figure else caption))
    if figure:
        _write_figure(path, rows, [caption for _, _, caption in checked])
        return
    sheet = Image.new("RGB", (rows[0].width, sum(row.height for row in rows)))
    for row, picture in enumerate(rows):
        sheet.paste(picture, (0, row * height))
    with atomic_path(path) as temporary:
        sheet.save(temporary, format=Path(path).suffix[1:])


def _write_figure(path: str | Path, rows: Sequence[Image.Image], captions: Sequence[str]) -> None:
    """Write rows of poses with their captions as titles."""
    from matplotlib import rc_context  # loaded for papers only, as it takes half a second
    from matplotlib.figure import Figure

    height = FIGURE_WIDTH * rows[0].height / rows[0].width + 0.3  # inches, with one line of text
    figure = Figure((FIGURE_WIDTH, height * len(rows)), layout="constrained")
    for axes, row, caption in zip(figure.subplots(len(rows), squeeze=False)[:, 0], rows, captions, strict=True):
        text, font = drawable(caption)
        axes.imshow(row, interpolation="none")  # keep all pixels
        axes.set_title(text, fontsize=9, wrap=True, parse_math=False, font=font and Path(_font(font, 16).path))
        axes.axis("off")
    with atomic_path(path) as temporary, rc_context({"svg.fonttype": "none", "pdf.fonttype": 42}):
        figure.savefig(temporary)


def _at_rate(joints: np.ndarray, fps: float, rate: float) -> np.ndarray:
    """Resample joints (T, J, 3) from ``fps`` to ``rate`` with the same duration, by smooth interpolation."""
    if rate == fps or len(joints) == 1:
        return joints
    frames = np.arange(max(round(len(joints) / fps * rate), 1)) * fps / rate
    return CubicSpline(np.arange(len(joints)), joints)(frames.clip(max=len(joints) - 1))


def _pictures(scenes: list[Scene], sides: tuple[int, int], size: int) -> Iterator[np.ndarray]:
    """Draw frames in several threads and yield them as yuv420p.

    Memory is reused, because first writes to a new array are slow. A frame is therefore valid only until the next one
    is requested.
    """
    columns, made = sides[0] // size, np.empty((AHEAD, sides[1] * 3 // 2, sides[0]), np.uint8)

    def draw(frame: int) -> np.ndarray:
        pictures = [scene.draw(min(frame, scene.frames - 1)) for scene in scenes]
        sheet = pictures[0]
        if len(pictures) > 1:
            sheet = np.full((sides[1], sides[0], 3), SKY[::-1], np.uint8)
            for place, picture in enumerate(pictures):
                top, left = place // columns * size, place % columns * size
                sheet[top:top + size, left:left + size] = picture
        return cv2.cvtColor(sheet, cv2.COLOR_BGR2YUV_I420, made[frame % AHEAD])

    with ThreadPoolExecutor(min(usable_cores(), MOST_THREADS)) as pool:
        started = deque()
        for frame in range(max(scene.frames for scene in scenes)):
            started.append(pool.submit(draw, frame))
            if len(started) == AHEAD:
                yield started.popleft().result()
        while started:
            yield started.popleft().result()


def _checked(motions: Sequence[ArrayLike],
             captions: Sequence[str]) -> list[tuple[np.ndarray, Skeleton, str]]:
    by_joints = {len(skeleton): skeleton for skeleton in SKELETONS.values()}
    captions = list(captions) or [""] * len(motions)
    if len(captions) != len(motions) or not motions:
        raise ValueError(f"{len(motions)} motions with {len(captions)} captions")
    checked = []
    for motion, caption in zip(motions, captions, strict=True):
        joints = np.asarray(motion, np.float64)
        if joints.ndim != 3 or len(joints) == 0 or joints.shape[1] not in by_joints or joints.shape[2] != 3:
            counts = " or ".join(str(count) for count in sorted(by_joints))
            raise ValueError(f"joints of shape {joints.shape}, expected (frames, {counts}, 3)")
        if not np.isfinite(joints).all():
            raise ValueError("joints that are not finite cannot be drawn")
        checked.append((joints, by_joints[joints.shape[1]], caption))
    return checked


def follow_scene(joints: np.ndarray, skeleton: Skeleton, fps: float, size: tuple[int, int], caption: str = "") -> Scene:
    """Create a scene with one motion (T, J, 3) and a camera that follows it."""
    text = CaptionMask(caption, size)
    scene = Scene(joints, skeleton, follow(joints, fps, size, text.share))
    text.draw(scene.background)
    return scene


def draw_poses(poses: np.ndarray, skeleton: Skeleton, size: tuple[int, int], caption: str = "") -> Image.Image:
    """Draw poses (P, J, 3) in metres side by side in one RGB picture of ``size`` (width, height)."""
    text = CaptionMask(caption, size)
    scene = Scene(poses, skeleton, line_up(poses, size, text.share))
    text.draw(scene.background)
    picture = scene.floor(len(poses) // 2)
    for draw in (scene.cast_shadow, scene.body):
        for pose in range(len(poses)):
            draw(pose, picture)
    return Image.fromarray(np.ascontiguousarray(picture[..., ::-1]))


class CaptionMask:
    """Caption at the top of a picture, in at most four lines. Long captions use a smaller font.

    A caption that still needs more lines ends in "...". Characters that the chosen font lacks are replaced by "?".
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
    """Choose the font that lacks the fewest characters of ``text``: Pillow's font or one of ``FONTS``.

    Returns the text, with the characters that the font lacks replaced by "?", and the font name (None: Pillow's font).
    """
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
    """Return whether a font has a letter: it is ASCII, or its glyph differs from that of an undefined code point."""
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
