"""Edit a motion: regenerate parts of it from a text, extend it, or change it to meet constraints."""
from pathlib import Path

from options.generate import flag_entries, parse_edit_options
from utils import InputError, script
from utils.files import run_lock


@script
def main() -> None:
    opt = parse_edit_options()  # before torch is imported, which takes seconds
    from data.constraints import read_constraints
    from data.dataset import MAX_TOKENS, UNIT_LENGTH, dataset_spec
    from data.directions import check_placed, constrained
    from data.motion_files import read_clip
    from data.placed_constraints import Stretch
    from data.text import make_prompt, shortened
    from models.motion_edit import MotionEditor, TimelinePart
    from models.text_to_motion import speed_up
    from storage.checkpoint import model_names
    from storage.generation import load_text_to_motion
    from utils.runtime import seed_everything, select_device
    from visualization.html import marks_of, write_page
    from visualization.outputs import Formats, Made, write_contact_sheets, write_motion

    seed_everything(opt.seed)
    device = select_device(opt.gpu_id)
    spec = dataset_spec(opt.dataset_name)
    text = (Path(opt.source_motion).stem if opt.text_prompt is None
            else make_prompt(opt.text_prompt, None, "--text_prompt").text)
    entries = flag_entries(opt)
    if opt.constraints is not None:
        written = read_constraints(opt.constraints, spec, 1)
        entries += [*written.whole, *written.by_prompt[0]]
    source = read_clip(Path(opt.source_motion), spec, opt.up)
    ends = [chosen.tokens(len(source) // UNIT_LENGTH)[1] for chosen in opt.mask_edit_section or ()]
    length = UNIT_LENGTH * max([len(source) // UNIT_LENGTH, *ends])
    check_placed([(entries, Stretch(0, length, spec.fps))], spec)
    pipeline, files = load_text_to_motion(opt.name, None, spec, opt.checkpoints_dir, device, opt.which_epoch,
                                          opt.res_name)
    speed_up(pipeline.networks, cpu_linear=opt.cpu_linear)
    print(f"models: {model_names(files)}")
    editor, sampling = MotionEditor(pipeline, MAX_TOKENS), pipeline.sampling.changed(vars(opt))
    folder, shown = Path(opt.output_dir) / opt.ext, []
    formats = Formats.from_options(vars(opt))
    try:
        parts = [TimelinePart(*chosen.tokens(len(source) // pipeline.unit), text)
                 for chosen in opt.mask_edit_section or ()]
        with run_lock(folder, "--ext"):
            for repeat in range(opt.repeat_times):
                edited = editor.edit_features(source, parts, opt.seed + repeat, sampling) if parts else source
                made = constrained(editor, edited, entries, spec, opt.control_steps)
                for line in made.report():
                    print(f"{shortened(text)!r}: {line}")
                joints, marks = made.joints, marks_of(made.constraints, made.joints)
                motion = Made(0, repeat, text, joints, marks=marks, pinned=made.pinned)
                shown.append(write_motion(folder, motion, spec, formats))
                print(f"{shortened(text)!r}: {len(joints) / spec.fps:.1f} s of motion -> "
                      f"{folder / shown[-1].locked_files[-1]}")
            for sheet in write_contact_sheets(folder, shown, formats):
                print(f"contact sheet: {sheet}")
            if not opt.no_html:
                write_page(folder / "index.html", shown, spec.skeleton, spec.fps, opt.ext)
                print(f"page: {folder / 'index.html'}")
            print(f"wrote {len(shown)} motion{'s' * (len(shown) > 1)} to {folder}")
    except ValueError as error:
        raise InputError(f"{opt.source_motion}: {error}") from error


if __name__ == "__main__":
    main()
