"""Write the files of a generated motion: joints, BVH, GLB and video, with and without foot locking."""
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data.dataset import LOCKED, DatasetSpec
from motion.bvh import Bvh
from motion.bvh_fit import amass_arrays, in_place, joints_to_bvh, on_cycle, rigid_joints, with_root_bone
from motion.foot import lock_feet, lock_feet_published
from utils import usable_cores
from utils.files import atomic_path, save_npy, write_text
from utils.runtime import mapping
from visualization.glb import write_glb
from visualization.html import Mark, PageMotion
from visualization.video import strip, write_video

ROWS = 40  # maximum number of motions on a contact sheet


@dataclass(frozen=True)
class Formats:
    """Output formats in addition to the joints."""

    video: bool = True
    gif: bool = False
    bvh: bool = True
    glb: bool = False
    fps: float | None = None      # frame rate of videos; None: that of the motion
    published_feet: bool = False  # published foot locking instead of ours
    in_place: bool = False        # remove travel; a root bone keeps it
    root_bone: bool = False       # add a root bone on the ground to BVH and GLB
    npz: bool = False             # rotations in AMASS format
    strip: str | None = None      # suffix of contact sheets: png, pdf or svg

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> "Formats":
        """Create formats from the options of ``options.generate.add_output``."""
        return cls(video=not options["no_video"], gif=options["gif"], bvh=not options["no_bvh"],
                   glb=options["glb"], fps=options["fps"],
                   published_feet=options["foot_locking"] == "published", in_place=options["in_place"],
                   root_bone=options["root_motion"] or options["in_place"], npz=options["npz"],
                   strip=options["strip"])


class Made(NamedTuple):
    """A generated motion, before its files are written."""

    number: int         # index of the prompt
    repeat: int
    caption: str
    joints: np.ndarray  # (T, J, 3) in metres
    parts: tuple[tuple[int, str], ...] = ()  # as in ``PageMotion``
    marks: tuple[Mark, ...] = ()             # as in ``PageMotion``
    loop: bool = False                       # the first frame follows the last
    pinned: np.ndarray | None = None         # (T, J) joints that foot locking does not move


def write_motions(folder: Path, motions: Sequence[Made], spec: DatasetSpec, formats: Formats) -> Iterator[PageMotion]:
    """Write motions in parallel on all cores, and yield the results in order."""
    with mapping(min(len(motions), usable_cores()), chunksize=1) as each:
        yield from each(partial(write_motion, folder, spec=spec, formats=formats), motions)


def write_side_by_side(folder: Path, made: Sequence[Made], written: Sequence[PageMotion], spec: DatasetSpec,
                       formats: Formats) -> list[Path]:
    """Write one video per prompt that shows its motions side by side, with locked feet."""
    paths = []
    for number, pairs in groupby(zip(made, written, strict=True), key=lambda pair: pair[0].number):
        takes = [motion for _, motion in pairs]
        paths.append(folder / "animation" / str(number) / f"sample{number}_side_by_side.mp4")
        labels = [f"{take}. {motion.caption}" for take, motion in enumerate(takes, 1)]
        write_video(paths[-1], [take.locked for take in takes], labels, spec.fps, video_fps=formats.fps)
    return paths


def write_contact_sheets(folder: Path, written: Sequence[PageMotion], formats: Formats) -> list[Path]:
    """Write contact sheets of motions with locked feet, eight poses each, if ``formats`` requests them.

    A sheet has at most ``ROWS`` motions.
    """
    paths = []
    for first in range(0, len(written) if formats.strip else 0, ROWS):
        rows = written[first:first + ROWS]
        paths.append(folder / f"contact_sheet{'' if not first else f'_{first // ROWS + 1}'}.{formats.strip}")
        strip(paths[-1], [motion.locked for motion in rows], [motion.caption for motion in rows])
    return paths


def write_motion(folder: Path, made: Made, spec: DatasetSpec, formats: Formats, name: str | None = None) -> PageMotion:
    """Write the files of one motion under ``folder``. Returns the motion for the page, with the paths of its files.

    Writes ``joints/<number>/sample<number>_repeat<repeat>_len<T>.npy`` and, under ``animation/<number>/``, files of
    the same name in the other ``formats``. Names that end in ``_ik`` mark locked feet: feet in contact are held still
    and the legs are solved again. ``pinned`` joints keep their positions, and a ``loop`` is treated as cyclic.
    The caption is written next to the joints, as ``.txt``. If ``name`` is given, all files have this name and are in
    ``folder`` itself.
    """
    number, repeat, caption, joints, parts, marks, loop, pinned = made
    stem = name or f"sample{number}_repeat{repeat}_len{len(joints)}"
    places = [folder if name else folder / kind / str(number) for kind in ("joints", "animation")]

    def lock(motion: np.ndarray) -> np.ndarray:
        if formats.published_feet:
            return rigid_joints(lock_feet_published(motion, spec.skeleton), spec.skeleton)
        around = (len(motion) - len(joints)) // 2  # repeated frames at each end of a loop
        pins = None if pinned is None else np.pad(pinned, ((around, around), (0, 0)), mode="wrap")
        return lock_feet(motion, spec.skeleton, spec.fps, pins)

    locked = on_cycle(joints, spec.skeleton, round(spec.fps), lock) if loop and len(joints) > 1 else lock(joints)
    plain, locked = np.asarray(joints, np.float32), np.asarray(locked, np.float32)
    (files, bvh), (locked_files, locked_bvh) = (
        _write(folder, places, f"{stem}{suffix}", motion, caption, spec, formats)
        for suffix, motion in (("", plain), (LOCKED, locked)))
    write_text(places[0] / f"{stem}.txt", f"{caption}\n")
    if formats.in_place:
        plain, locked = in_place(plain), in_place(locked)
    return PageMotion(stem, caption, plain, locked, files, locked_files, bvh, locked_bvh, parts, marks)


def _write(folder: Path, places: Sequence[Path], stem: str, joints: np.ndarray, caption: str, spec: DatasetSpec,
           formats: Formats) -> tuple[tuple[str, ...], Bvh | None]:
    """Write joints to the first folder in ``places`` and all other formats to the second.

    Returns the paths relative to ``folder``, and the BVH if it was requested without a root bone (else None).
    """
    written = [places[0] / f"{stem}.npy"]
    shown = in_place(joints) if formats.in_place else joints
    save_npy(written[0], shown)
    animation = places[1] / stem
    bvh = joints_to_bvh(joints, spec.skeleton, spec.fps) if formats.bvh or formats.glb or formats.npz else None
    if formats.npz:
        written.append(animation.with_suffix(".npz"))
        source = joints_to_bvh(shown, spec.skeleton, spec.fps) if formats.in_place else bvh
        with atomic_path(written[-1]) as temporary:
            np.savez_compressed(temporary, **amass_arrays(source, shown, spec.skeleton))
    if formats.root_bone and bvh is not None:
        bvh = with_root_bone(bvh, joints, spec.skeleton)
    if formats.bvh:
        written.append(animation.with_suffix(".bvh"))
        write_text(written[-1], bvh.text())
    if formats.glb:
        written.append(animation.with_suffix(".glb"))
        write_glb(written[-1], bvh, spec.skeleton, stem)
    for suffix, wanted in ((".mp4", formats.video), (".gif", formats.gif)):
        if wanted:
            written.append(animation.with_suffix(suffix))
            write_video(written[-1], [shown], [caption], spec.fps, video_fps=formats.fps)
    offered = bvh if formats.bvh and not formats.root_bone else None  # the page does not support root bones
    return tuple(path.relative_to(folder).as_posix() for path in written), offered
