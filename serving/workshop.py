"""The work behind the tabs: from a request to a page that plays the result. Independent of the browser.

Every method checks its input and raises ``InputError`` with one line that can be shown.
"""
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from data.motion_files import parts_of, read_clip
from data.specs import MAX_MOTION_LENGTH, MAX_TOKENS, UNIT_LENGTH
from data.text import clean_caption, remarks
from evaluation.retrieval import motion_vectors
from evaluation.search import Gallery, encode_motions, nearest, open_gallery
from models.config import Writing
from models.motion_edit import MotionEditor
from models.text_to_motion import Sample, Sampling
from motion.foot_locking import lock_feet
from serving.inputs import Kept, Limits, checked_count, checked_number, checked_text, parse_parts, read_source
from serving.models import BUNDLED_CAPTIONER, Models
from serving.rooms import Rooms
from storage.load_lamp import BUNDLED_LAMP, LoadedLaMP
from utils.errors import InputError
from utils.files import atomic_path
from visualization.html import PageMotion, write_page
from visualization.outputs import Formats, write_motion

PAGE, ARCHIVE = "index.html", "motions.zip"
FORMATS = ("bvh", "mp4", "glb")  # beside .npy
NUCLEUS = 0.9                    # top-p of sampled captions


@dataclass(frozen=True)
class Result:
    """What a visitor sees: a folder with a page, a sentence above it, and motions for further requests."""

    room: Path
    said: str
    kept: tuple[Kept, ...] = ()
    rows: tuple[tuple[str, str], ...] = ()  # a table of times and captions

    @property
    def has_archive(self) -> bool:
        """Whether there is an archive of all files."""
        return (self.room / ARCHIVE).is_file()


class Workshop:
    """Generates, edits, captions and searches motions with ``models``, and writes results to ``rooms``."""

    def __init__(self, models: Models, rooms: Rooms, sampling: Sampling, limits: Limits) -> None:
        self.models, self.rooms, self.sampling, self.limits = models, rooms, sampling, limits
        self.spec, self.pipeline = models.spec, models.pipeline
        self.editor = MotionEditor(models.pipeline, MAX_TOKENS)

    def generate(self, prompt: str, seconds: float | None, seed: float, guidance: float, count: float,
                 formats: Sequence[str], known: Sequence[Kept] = ()) -> Result:
        """Generate ``count`` motions of a prompt; ``seconds`` None: the model chooses the length."""
        text = checked_text(prompt, self.limits.letters, "the prompt")
        seeds, sampling = self._draws(seed, guidance, count)
        frames = None
        if seconds is not None:
            least = UNIT_LENGTH / self.spec.fps
            frames = round(checked_number(seconds, least, self.limits.seconds, "the length in seconds") * self.spec.fps)
        if frames is None or frames <= MAX_MOTION_LENGTH:
            motions = self.pipeline.generate([Sample(text, one, frames) for one in seeds], sampling)
        else:
            motions = [self.pipeline.decode(self.editor.generate([(text, frames // self.pipeline.unit)], one, sampling))
                       for one in seeds]
        return self._written(motions, text, formats, known)

    def edit(self, upload: str | None, chosen: str | None, known: Sequence[Kept], sections: str, prompt: str,
             seed: float, guidance: float, count: float, formats: Sequence[str]) -> Result:
        """Regenerate parts of a motion ``count`` times; the page also shows the original."""
        text = checked_text(prompt, self.limits.letters, "the prompt")
        seeds, sampling = self._draws(seed, guidance, count)
        name, source = read_source(upload, chosen, known, self.spec, self.limits)
        try:
            parts = parse_parts(sections, len(source), self.pipeline.unit, text, self.spec.fps, self.limits)
            motions = [self.pipeline.joints(self.editor.edit_features(source, parts, one, sampling)) for one in seeds]
        except (ValueError, InputError) as error:
            raise InputError(f"{name}: {str(error).replace('--mask_edit_section', 'part')}") from error
        return self._written(motions, text, formats, known, [self._shown(f"before: {name}", source)])

    def caption(self, upload: str | None, chosen: str | None, known: Sequence[Kept], count: float,
                drawn: bool, seed: float) -> Result:
        """Caption a motion, a long one in parts; the page plays each part with its best caption."""
        captioner = self.models.m2t
        if captioner is None:
            raise InputError(f"there is no captioning model: neither --m2t_name nor the bundled {BUNDLED_CAPTIONER}")
        count = checked_count(count, self.limits.captions, "the number of captions")
        seed = checked_count(seed, self.limits.seed, "the seed", low=0)
        name, features = read_source(upload, chosen, known, self.spec, self.limits)
        clips = [features[part.start:part.end] for part in parts_of([features])]
        captions = captioner.write(clips, Writing(count, top_p=NUCLEUS if drawn else 1.0, seed=seed))
        ends = np.cumsum([len(clip) for clip in clips]) / self.spec.fps
        whens = [f"{end - len(clip) / self.spec.fps:.1f} – {end:.1f} s" for clip, end in zip(clips, ends, strict=True)]
        shown = [self._shown(texts[0], clip) for clip, texts in zip(clips, captions, strict=True)]
        rows = tuple((when, text) for when, texts in zip(whens, captions, strict=True) for text in texts)
        return Result(self._room(shown, name), f"{name}: {captions[0][0]}", rows=rows)

    def search(self, text: str, upload: str | None, chosen: str | None, known: Sequence[Kept], made_here: bool,
               top_k: float) -> Result:
        """Find the motions nearest to a text or, without one, to a motion: in the gallery, or among those made here."""
        lamp = self.models.lamp
        if lamp is None:
            raise InputError(f"no model to search with: neither --lamp_name nor the bundled {BUNDLED_LAMP}")
        top_k = checked_count(top_k, self.limits.found, "the number of motions")
        if (text or "").strip():
            asked = checked_text(text, self.limits.letters, "the text")
            words, query = [asked], lamp.text_features([clean_caption(asked)]).cpu().numpy()
        else:
            words, (asked, source) = [], read_source(upload, chosen, known, self.spec, self.limits)
            clips = [source[part.start:part.end] for part in parts_of([source])]
            query = motion_vectors([lamp.normalisation.apply(clip) for clip in clips], lamp.motion_features)
        gallery, names = self._gallery(lamp, known, made_here)
        hits = nearest(query, gallery.vectors, top_k, [part.motion for part in gallery.parts])
        shown = []
        for hit in hits:
            part = gallery.parts[hit.row]
            clip = read_clip(gallery.files[part.motion], self.spec, say=lambda _: None, trusted=made_here)
            clip = clip[part.start:part.end]
            shown.append(self._shown(f"{hit.score:.2f}  {names[part.motion]}", clip))
        said = f"{len(hits)} of {len(gallery.files)} motions, the nearest first"
        return Result(self._room(shown, asked), _sentences(said, remarks(words, lamp.text_encoder("query"))))

    def _gallery(self, lamp: LoadedLaMP, known: Sequence[Kept], made_here: bool) -> tuple[Gallery, list[str]]:
        """The motions to search in, and their names."""
        if not made_here:
            if self.models.gallery is None:
                raise InputError("no gallery was named (--gallery); search among what was made here")
            gallery = open_gallery(self.models.gallery, lamp, self.spec, self.models.cache)
            return gallery, [path.relative_to(self.models.gallery).as_posix() for path in gallery.files]
        there = {one.path: one.label for one in known if one.path.is_file()}
        if not there:
            raise InputError("nothing was made here yet")
        gallery = encode_motions(list(there), lamp, self.spec, trusted=True)
        return gallery, list(there.values())

    def _draws(self, seed: float, guidance: float, count: float) -> tuple[list[int], Sampling]:
        """Seeds and sampling settings of the samples."""
        count = checked_count(count, self.limits.samples, "the number of samples")
        first = checked_count(seed, self.limits.seed, "the seed", low=0)
        scale = checked_number(guidance, 0.0, self.limits.guidance, "guidance")
        return [first + number for number in range(count)], replace(self.sampling, cond_scale=float(scale))

    def _written(self, motions: Sequence[np.ndarray], text: str, formats: Sequence[str], known: Sequence[Kept],
                 beside: Sequence[PageMotion] = ()) -> Result:
        """Write generated motions, a page with them and the motions ``beside``, and an archive."""
        wanted = Formats(video="mp4" in formats, bvh="bvh" in formats, glb="glb" in formats)
        room = self.rooms.new()
        shown = [write_motion(room, 0, take, joints, text, self.spec, wanted) for take, joints in enumerate(motions)]
        write_page(room / PAGE, [*shown, *beside], self.spec.skeleton, self.spec.fps, text)
        with atomic_path(room / ARCHIVE) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in (PAGE, *(file for one in shown for file in (*one.plain_files, *one.locked_files))):
                archive.write(room / file, file)
        kept = tuple(Kept(f"{len(known) + take + 1}: {text}", room / one.plain_files[0])
                     for take, one in enumerate(shown))
        lengths = ", ".join(f"{len(joints) / self.spec.fps:.1f} s" for joints in motions)
        return Result(room, _sentences(f"“{text}”: {lengths}", remarks([text], self.pipeline.text)), kept)

    def _shown(self, caption: str, features: np.ndarray) -> PageMotion:
        """A motion from features (T, d) for a page, without files."""
        joints = self.pipeline.joints(features)
        name = "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in caption)[:60]
        return PageMotion(name, caption, joints, lock_feet(joints, self.spec.skeleton, self.spec.fps))

    def _room(self, shown: Sequence[PageMotion], title: str) -> Path:
        """A folder with a page only."""
        room = self.rooms.new()
        write_page(room / PAGE, shown, self.spec.skeleton, self.spec.fps, title)
        return room


def _sentences(said: str, more: Sequence[str]) -> str:
    """What is shown above a page, with remarks on the prompt."""
    return ". ".join([said, *more])
