"""Generate motions from text, one per prompt or one long motion, and write joints, BVH, videos and a page."""
from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

from options.generate import flag_entries, is_directed, parse_generate_options
from utils import script
from utils.files import run_lock

if TYPE_CHECKING:
    from data.dataset import DatasetSpec
    from data.text import Prompt
    from models.text_to_motion import TextToMotion
    from visualization.outputs import Made


@script
def main() -> None:
    opt = parse_generate_options()  # before torch is imported, which takes seconds
    from data.dataset import MAX_MOTION_LENGTH, dataset_spec
    from data.text import make_prompt, read_prompts, report
    from models.text_to_motion import speed_up
    from storage.checkpoint import model_names
    from storage.generation import load_text_to_motion
    from utils.runtime import seed_everything, select_device

    seed_everything(opt.seed)
    device = select_device(opt.gpu_id)
    spec = dataset_spec(opt.dataset_name)
    frames = None if opt.seconds is None else round(opt.seconds * spec.fps)
    is_long = opt.timeline or (frames or 0) > MAX_MOTION_LENGTH
    if opt.text_path is not None:
        prompts = read_prompts(opt.text_path)
    else:
        prompts = [make_prompt(opt.text_prompt, opt.motion_length if is_long else frames or opt.motion_length,
                               "--text_prompt")]
    needs_lengths = any(prompt.m_len is None for prompt in prompts) and (opt.timeline or not is_long)
    if is_directed(opt):
        from data.directions import check_directions
        check_directions(prompts, frames if is_long else None, spec, opt, flag_entries(opt))
    folder = Path(opt.output_dir) / opt.ext

    pipeline, files = load_text_to_motion(
        opt.name, opt.len_name if needs_lengths else None, spec, opt.checkpoints_dir, device, opt.which_epoch,
        opt.res_name)
    speed_up(pipeline.networks, opt.precision, opt.compile, opt.cpu_linear)
    print(f"models: {model_names(files)}")
    report([prompt.text for prompt in prompts], pipeline.text, opt.strict)
    print("motion tokens: base layer", f"and {pipeline.layers - 1} residual layers" if pipeline.layers > 1 else "only")
    with run_lock(folder, "--ext"):
        start = time.perf_counter()
        if is_directed(opt):
            motions = directed(pipeline, prompts, frames if is_long else None, spec, opt)
        else:
            motions = long_motions(pipeline, prompts, frames, opt) if is_long else short_motions(pipeline, prompts, opt)
        count = f"{len(motions)} motion{'s' * (len(motions) > 1)}"
        print(f"generated {count} in {time.perf_counter() - start:.1f} s on {device}")
        write(folder, motions, spec, opt)
    print(f"wrote {count} to {folder}")


def short_motions(pipeline: TextToMotion, prompts: Sequence[Prompt], opt: argparse.Namespace) -> list[Made]:
    """Generate one motion for each repeat of each prompt."""
    from models.text_to_motion import Sample
    from utils.runtime import prompt_seed
    from visualization.outputs import Made

    in_file = opt.text_path is not None
    jobs = [(number, repeat, prompt.text,
             Sample(prompt.text, prompt_seed(opt.seed + repeat, pipeline.clean(prompt.text), in_file), prompt.m_len))
            for number, prompt in enumerate(prompts) for repeat in range(opt.repeat_times)]
    motions = pipeline.generate([sample for *_, sample in jobs], pipeline.sampling.changed(vars(opt)))
    return [Made(number, repeat, text, joints)
            for (number, repeat, text, _), joints in zip(jobs, motions, strict=True)]


def long_motions(pipeline: TextToMotion, prompts: Sequence[Prompt], frames: int | None,
                 opt: argparse.Namespace) -> list[Made]:
    """Generate one long motion from all prompts for each repeat.

    ``frames`` is the length given by ``--seconds`` for a single prompt, or None for a timeline.
    """
    from data.dataset import MAX_TOKENS
    from models.motion_edit import MotionEditor
    from models.text_to_motion import Sample
    from visualization.outputs import Made

    editor, sampling = MotionEditor(pipeline, MAX_TOKENS), pipeline.sampling.changed(vars(opt))
    if frames is not None:
        lengths = [frames // pipeline.unit]
    else:
        lengths = pipeline.token_lengths([Sample(prompt.text, opt.seed, prompt.m_len) for prompt in prompts], sampling)
    parts = [(prompt.text, length) for prompt, length in zip(prompts, lengths, strict=True)]
    caption = ", then ".join(prompt.text for prompt in prompts)
    starts = (pipeline.unit * start for start in accumulate(lengths[:-1], initial=0))
    marks = tuple(zip(starts, [prompt.text for prompt in prompts], strict=True)) if len(prompts) > 1 else ()
    return [Made(0, repeat, caption, pipeline.decode(editor.generate(parts, opt.seed + repeat, sampling)), marks)
            for repeat in range(opt.repeat_times)]


def directed(pipeline: TextToMotion, prompts: Sequence[Prompt], frames: int | None, spec: DatasetSpec,
             opt: argparse.Namespace) -> list[Made]:
    """Generate motions with constraints, upper-body prompts, loops or best-of-N sampling."""
    from tqdm import tqdm

    from data.directions import directed_motions
    from data.text import shortened
    from visualization.html import marks_of
    from visualization.outputs import Made

    motions = []
    made = directed_motions(pipeline, prompts, frames, spec, opt, flag_entries(opt))
    for job, motion in tqdm(made, desc="motions", disable=opt.quiet or None, leave=False):
        for line in motion.report():
            tqdm.write(f"{shortened(job.caption)!r}: {line}")
        motions.append(Made(job.number, job.repeat, job.caption, motion.joints, job.parts,
                            marks_of(motion.constraints, motion.joints), opt.loop, motion.pinned))
    return motions


def write(folder: Path, motions: Sequence[Made], spec: DatasetSpec, opt: argparse.Namespace) -> None:
    """Write all motions in the requested formats, with the contact sheet, side-by-side videos and page if requested."""
    from tqdm import tqdm

    from data.text import shortened
    from visualization.html import write_page
    from visualization.outputs import Formats, write_contact_sheets, write_motions, write_side_by_side

    formats = Formats.from_options(vars(opt))
    shown, written = [], write_motions(folder, motions, spec, formats)
    for motion in tqdm(written, desc="writing", total=len(motions), disable=opt.quiet or None, leave=False):
        shown.append(motion)
        seconds = len(motion.plain) / spec.fps
        tqdm.write(f"{shortened(motion.caption)!r}: {seconds:.1f} s of motion -> {folder / motion.locked_files[-1]}")
    videos = write_side_by_side(folder, motions, shown, spec, formats) if opt.side_by_side else []
    for path in [*videos, *write_contact_sheets(folder, shown, formats)]:
        print(f"all motions: {path}")
    if not opt.no_html:
        write_page(folder / "index.html", shown, spec.skeleton, spec.fps, opt.ext)
        print(f"page: {folder / 'index.html'}")


if __name__ == "__main__":
    main()
