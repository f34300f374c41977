"""Generate, edit, caption and search motions for the app.

Methods validate their input. They raise an ``InputError`` with a one-line message for the user if it is invalid.
"""
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from data.dataset import MAX_MOTION_LENGTH, MAX_TOKENS, UNIT_LENGTH
from data.directions import constrained
from data.motion_files import parts_of, read_clip, read_motion
from data.text import clean_caption, remarks
from evaluation.retrieval import motion_vectors
from evaluation.search import Gallery, encode_motions, nearest, open_gallery
from models.config import Writing
from models.control.optimise import STEPS
from models.motion_edit import MotionEditor
from models.text_to_motion import Sample, Sampling
from motion.foot import lock_feet
from serving.asks import LIMITS, Ask, checked_count, checked_formats, checked_text, parse_parts, read_upload
from serving.history import Take, manifest, motion_picture
from serving.models import BUNDLED_CAPTIONER, Models
from serving.rooms import Rooms
from serving.timeline import Outcome, constraints_of, make_directed, make_timeline
from storage.generation import BUNDLED_LAMP, LoadedLaMP
from utils import InputError
from utils.files import save_npy, write_text
from utils.runtime import report_step
from visualization.html import PageMotion, write_page
from visualization.outputs import Formats, Made, write_motion

PAGE, SOURCE, TAKE = "index.html", "source.npy", "take.json"
ZIPPED = 8                       # maximum number of motions in an archive
NUCLEUS = 0.9                    # top-p of sampled captions


@dataclass(frozen=True)
class Shown:
    """A page with existing motions."""

    room: Path
    said: str
    rows: tuple[tuple[str, str], ...] = ()  # a table of times and captions


@dataclass(frozen=True)
class FoundMotion:
    """A search result: ``file`` in the gallery, or ``take`` in the history."""

    prompt: str
    score: float
    seconds: float
    picture: str
    file: str | None = None
    take: str | None = None


@dataclass(frozen=True)
class SourceMotion:
    """Input motion for editing, captioning or search, with features (T, d)."""

    name: str
    features: np.ndarray
    record: dict | None  # as ``Ask.source``; None: from an upload or the gallery
    remarks: tuple[str, ...] = ()

    @property
    def clips(self) -> list[np.ndarray]:
        """The motion, split into parts if it is long."""
        return [self.features[part.start:part.end] for part in parts_of([self.features])]


class Workshop:
    """Interface to the models of the app. Results are written to ``rooms``."""

    def __init__(self, models: Models, rooms: Rooms, sampling: Sampling) -> None:
        self.models, self.rooms, self.sampling = models, rooms, sampling
        self.spec, self.pipeline = models.spec, models.pipeline
        self.editor = MotionEditor(models.pipeline, MAX_TOKENS)

    def make(self, ask: Ask, count: float = 1, formats: Sequence[str] = ("bvh",), source: SourceMotion | None = None,
             model: str | None = None) -> list[Take]:
        """Generate ``count`` motions with consecutive seeds and write their files and pages.

        ``source`` is the motion to edit, by default the source in ``ask``. ``model`` is the fingerprint of the models
        that originally generated the motion; a note is added if the current models differ.
        """
        count = checked_count(count, LIMITS.samples, "the number of samples")
        formats = checked_formats(formats)
        asks = [replace(ask, seed=checked_count(ask.seed + number, LIMITS.seed, "the seed", low=0))
                for number in range(count)]
        said = remarks([ask.prompt] * bool(ask.prompt) + [block.text for block in (*ask.blocks, *ask.upper)],
                       self.pipeline.text)
        if model not in (None, self.models.fingerprint):
            said.append("This was generated with other models, so the motion differs")
        if ask.blocks:
            made = [make_timeline(self.editor, one, self.spec, self._sampling(one)) for one in asks]
        elif ask.sections:
            source = source or self.source_of(ask.source)
            made = self._edited(asks, source)
            said += source.remarks
        else:
            made = self._generated(asks)
        takes = []
        for one, result in zip(asks, made, strict=True):
            takes.append(self._written(one, result, formats, source, said))
            report_step("files of motions", len(takes), count)
        return takes

    def _generated(self, asks: Sequence[Ask]) -> list[Outcome]:
        ask, sampling = asks[0], self._sampling(asks[0])
        frames = None if ask.seconds is None else max(round(ask.seconds * self.spec.fps), UNIT_LENGTH)
        if ask.constraints:
            return [self._directed(one, frames) for one in asks]
        if frames is None or frames <= MAX_MOTION_LENGTH:
            motions = self.pipeline.generate([Sample(ask.prompt, one.seed, frames) for one in asks], sampling)
        else:
            parts = [(ask.prompt, frames // self.pipeline.unit)]
            motions = [self.pipeline.decode(self.editor.generate(parts, one.seed, sampling)) for one in asks]
        return list(map(Outcome, motions))

    def _directed(self, ask: Ask, frames: int | None) -> Outcome:
        sampling, unit = self._sampling(ask), self.pipeline.unit
        if frames is None:
            frames = unit * self.pipeline.token_lengths([Sample(ask.prompt, ask.seed)], sampling)[0]
        return make_directed(self.editor, ask, frames // unit * unit, self.spec, sampling)

    def _edited(self, asks: Sequence[Ask], source: SourceMotion) -> list[Outcome]:
        ask, unit = asks[0], self.pipeline.unit
        try:
            parts = parse_parts(ask.sections, len(source.features), unit, ask.prompt, self.spec.fps)
            edited = [self.editor.edit_features(source.features, parts, one.seed, self._sampling(one)) for one in asks]
            entries = constraints_of(ask, self.spec)
            made = [constrained(self.editor, features, entries, self.spec, STEPS) for features in edited]
        except (ValueError, InputError) as error:
            raise InputError(f"{source.name}: {str(error).replace('--mask_edit_section', 'part')}") from error
        remade = tuple((unit * part.start, unit * part.stop - 1) for part in parts)
        return [Outcome.of(one, remade=remade) for one in made]

    def _sampling(self, ask: Ask) -> Sampling:
        return replace(self.sampling, cond_scale=ask.guidance)

    def source_of(self, source: Mapping[str, Any] | None) -> SourceMotion:
        """Load the motion of ``Ask.source``. Motions that were not uploaded are regenerated."""
        if source is None:
            raise InputError("upload a motion, or choose a generated one")
        if "upload" not in source:
            return self.source(None, self.make(Ask.read(source), formats=())[0])
        path = self.rooms.find(source["room"], SOURCE)
        if path is None:
            raise InputError(f"{source['upload']} has expired; upload it again")
        return SourceMotion(source["upload"], np.load(path), dict(source))

    def stored(self, source: SourceMotion) -> SourceMotion:
        """Store a motion from an upload or the gallery in a new folder, so that a request can refer to it.

        Motions with a ``record`` are returned unchanged.
        """
        if source.record is not None:
            return source
        room = self.rooms.new()
        save_npy(room / SOURCE, source.features)
        return replace(source, record={"upload": source.name, "room": room.name})

    def source(self, upload: str | None, take: Take | None) -> SourceMotion:
        """Load an uploaded motion, or a generated one, which is regenerated if its files have expired."""
        if take is None:
            name, features, said = read_upload(upload, self.spec)
            return SourceMotion(name, features, None, tuple(f"{name}: {line}" for line in said))
        path = self.rooms.find(take.id, f"{take.ask.stem}.npy")
        if path is None:
            again = self.make(take.ask, formats=())[0]
            path = self.rooms.find(again.id, f"{take.ask.stem}.npy")
        return SourceMotion(take.ask.title, read_motion(path, self.spec, trusted=True), take.ask.record())

    def refreshed(self, take: Take) -> Take:
        """Return a motion of the history. If its files have expired, it is regenerated and has a new id."""
        if self.rooms.find(take.id, PAGE) is not None:
            return take
        again = self.make(take.ask, formats=take.formats)[0]
        return replace(again, kept=take.kept)

    def open_file(self, name: str) -> tuple[SourceMotion, Shown]:
        """Load a motion from the gallery and write a page that plays it."""
        gallery = self.models.gallery
        paths = {path.relative_to(gallery).as_posix(): path for path in self._open_gallery().files} if gallery else {}
        if name not in paths:
            raise InputError("this motion is no longer in the gallery")
        features = read_clip(paths[name], self.spec, say=lambda _: None)
        caption = _prompt_beside(paths[name]) or name
        room = self._room([self._shown(caption, features)], caption)
        return SourceMotion(caption, features, None), Shown(room, f"“{caption}”: {len(features) / self.spec.fps:.1f} s")

    def caption(self, source: SourceMotion, count: float, drawn: bool, seed: float) -> Shown:
        """Caption a motion, in parts if it is long. The page shows the best caption of each part; the table has all."""
        captioner = self.models.captioner
        if captioner is None:
            raise InputError(f"there is no captioning model: neither --m2t_name nor the bundled {BUNDLED_CAPTIONER}")
        count = checked_count(count, LIMITS.captions, "the number of captions")
        seed = checked_count(seed, LIMITS.seed, "the seed", low=0)
        clips = source.clips
        captions = captioner.write(clips, Writing(count, top_p=NUCLEUS if drawn else 1.0, seed=seed))
        ends = np.cumsum([len(clip) for clip in clips]) / self.spec.fps
        whens = [f"{end - len(clip) / self.spec.fps:.1f} – {end:.1f} s" for clip, end in zip(clips, ends, strict=True)]
        shown = [self._shown(texts[0], clip) for clip, texts in zip(clips, captions, strict=True)]
        rows = tuple((when, text) for when, texts in zip(whens, captions, strict=True) for text in texts)
        said = sentences(f"{source.name}: {captions[0][0]}", source.remarks)
        return Shown(self._room(shown, source.name), said, rows)

    def search(self, text: str, source: SourceMotion | None, takes: Sequence[Take] | None,
               top_k: float) -> tuple[str, list[FoundMotion]]:
        """Find the motions closest to ``source`` or, if it is None, to ``text``, in ``takes`` or in the gallery."""
        lamp = self.models.lamp
        if lamp is None:
            raise InputError(f"no model to search with: neither --lamp_name nor the bundled {BUNDLED_LAMP}")
        top_k = checked_count(top_k, LIMITS.found, "the number of motions")
        words = [checked_text(text, LIMITS.letters, "the text")] if source is None else []
        if words:
            query = lamp.text_features([clean_caption(words[0])]).cpu().numpy()
        else:
            query = motion_vectors([lamp.normalisation.apply(clip) for clip in source.clips], lamp.motion_features)
        there, gallery = self._searched(lamp, takes)
        hits = []
        for hit in nearest(query, gallery.vectors, top_k, [part.motion for part in gallery.parts]):
            part = gallery.parts[hit.row]
            path = gallery.files[part.motion]
            clip = read_clip(path, self.spec, say=lambda _: None, trusted=takes is not None)[part.start:part.end]
            picture = motion_picture(self.pipeline.joints(clip), self.spec.skeleton)
            if takes is None:
                take, file = None, path.relative_to(self.models.gallery).as_posix()
                prompt = _prompt_beside(path) or file
            else:
                take, file, prompt = there[path].id, None, there[path].ask.title
            hits.append(FoundMotion(prompt, hit.score, len(clip) / self.spec.fps, picture, file, take))
        said = f"{len(hits)} of {len(gallery.files)} motions, the nearest first"
        return sentences(said, remarks(words, lamp.text_encoder("query"))), hits

    def _searched(self, lamp: LoadedLaMP, takes: Sequence[Take] | None) -> tuple[dict[Path, Take], Gallery]:
        """Return the takes, keyed by path, and the encoded motions to search."""
        if takes is None:
            return {}, self._open_gallery()
        paths = {self.rooms.find(take.id, f"{take.ask.stem}.npy"): take for take in takes}
        paths.pop(None, None)
        if not paths:
            raise InputError("nothing has been generated yet")
        return paths, encode_motions(list(paths), lamp, self.spec, trusted=True)

    def _open_gallery(self) -> Gallery:
        models = self.models
        if models.gallery is None:  # with a gallery, there is always a LaMP model
            raise InputError("there is no gallery (--gallery); search the generated motions")
        return open_gallery(models.gallery, models.lamp, self.spec, models.cache)

    def _written(self, ask: Ask, made: Outcome, formats: Sequence[str], source: SourceMotion | None,
                 said: Sequence[str]) -> Take:
        """Write the files and the page of a motion to a new folder."""
        room, beside = self.rooms.new(), ()
        if source is not None:
            save_npy(room / SOURCE, source.features)
            record = source.record or {"upload": source.name, "room": room.name}
            ask, beside = replace(ask, source=record), (self._shown(f"before: {source.name}", source.features),)
        wanted = Formats(video="mp4" in formats, bvh="bvh" in formats, glb="glb" in formats)
        motion = Made(0, 0, ask.title, made.joints, made.parts, made.marks, pinned=made.pinned)
        shown = write_motion(room, motion, self.spec, wanted, ask.stem)
        write_page(room / PAGE, [replace(shown, remade=made.remade), *beside], self.spec.skeleton, self.spec.fps,
                   ask.title)
        take = Take(room.name, ask, len(made.joints), self.spec.fps,
                    datetime.now(UTC).isoformat(timespec="seconds"),
                    motion_picture(made.joints, self.spec.skeleton), (*shown.plain_files, *shown.locked_files),
                    (*said, *made.remarks))
        write_text(room / TAKE, take.text())
        return take

    def archive(self, ids: Sequence[str]) -> tuple[str, bytes]:
        """Create a .zip with the files of up to ``ZIPPED`` motions, and a ``motions.json`` to reproduce them.

        Returns its name and content. Raises ``InputError`` if the files have expired.
        """
        paths = [self.rooms.find(identity, TAKE) for identity in ids[:ZIPPED]]
        if None in paths or not paths:
            raise InputError("these files have expired; open the motion from the history to generate them again")
        takes = [Take.read(json.loads(path.read_text(encoding="utf-8"))) for path in paths]
        return f"{takes[0].ask.stem if len(takes) == 1 else 'motions'}.zip", self._zipped(takes)

    def _zipped(self, takes: Sequence[Take]) -> bytes:
        content, names = io.BytesIO(), {}
        with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
            for take in takes:
                stem = take.ask.stem
                while stem in names.values():
                    stem += "+"
                names[take.id] = stem
                pairs = [(file, file.replace(take.ask.stem, stem)) for file in take.files]
                for file, name in (*pairs, (PAGE, f"{stem}.html"), (SOURCE, f"{stem}_source.npy")):
                    path = self.rooms.find(take.id, file)
                    if path is not None:
                        archive.write(path, name)
            archive.writestr("motions.json", manifest(takes, names, self.models, self.sampling))
        return content.getvalue()

    def _shown(self, caption: str, features: np.ndarray) -> PageMotion:
        """Convert features (T, d) to a motion for a page without downloads."""
        joints = self.pipeline.joints(features)
        name = "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in caption)[:60]
        return PageMotion(name, caption, joints, lock_feet(joints, self.spec.skeleton, self.spec.fps))

    def _room(self, shown: Sequence[PageMotion], title: str) -> Path:
        """Write a page to a new folder."""
        room = self.rooms.new()
        write_page(room / PAGE, shown, self.spec.skeleton, self.spec.fps, title)
        return room


def sentences(said: str, more: Sequence[str]) -> str:
    """Join a message and remarks into one string."""
    return ". ".join([said, *more])


def _prompt_beside(path: Path) -> str:
    """Return the first caption in the .txt file next to a motion, or an empty string."""
    text = path.with_suffix(".txt")
    lines = text.read_text(encoding="utf-8", errors="replace").splitlines() if text.is_file() else []
    return lines[0].partition("#")[0].strip()[:300] if lines else ""
