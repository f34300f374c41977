"""Caption motion files. Long motions are captioned in parts."""
import json
from pathlib import Path

from options.evaluate import parse_caption_options
from utils import script
from utils.files import run_lock


@script
def main() -> None:
    opt = parse_caption_options()  # before torch is imported, which takes seconds
    from data.dataset import dataset_spec
    from data.motion_files import motion_files, parts_of, prompt_of, read_clips
    from data.text import shortened
    from models.text_to_motion import speed_up
    from storage.checkpoint import model_names
    from storage.evaluation import load_captioner
    from utils.files import write_text
    from utils.runtime import seed_everything, select_device

    seed_everything(opt.seed)
    device = select_device(opt.gpu_id)
    spec = dataset_spec(opt.dataset_name)
    clips = read_clips(motion_files(opt.motion), spec, opt.up)
    files, motions = list(clips), list(clips.values())
    captioner = load_captioner(opt.name, spec, opt.checkpoints_dir, device, opt.which_epoch)
    speed_up([captioner.model], cpu_linear=opt.cpu_linear)
    print(f"models: {model_names([captioner.source.file, captioner.lamp.source.file])}")

    parts = parts_of(motions)
    writing = captioner.writing.changed(vars(opt))
    out = Path(opt.output_dir) / opt.ext / "captions.json"
    with run_lock(out.parent, "--ext"):
        rows = [motions[part.motion][part.start:part.end] for part in parts]
        captions = captioner.write(rows, writing, quiet=opt.quiet)

        found: dict[str, list[dict[str, object]]] = {str(file): [] for file in files}
        for part, texts in zip(parts, captions, strict=True):
            file, start, end = str(files[part.motion]), part.start / spec.fps, part.end / spec.fps
            prompt = prompt_of(files[part.motion])
            found[file].append({"start": start, "end": end, "captions": texts} | ({"prompt": prompt} if prompt else {}))
            made_from = f"  (prompt: {shortened(prompt)!r})" if prompt else ""
            print(f"{file} {start:.1f}-{end:.1f} s: {' | '.join(texts)}{made_from}")
        write_text(out, json.dumps(found, indent=1, ensure_ascii=False) + "\n")
        print(f"wrote {out}")


if __name__ == "__main__":
    main()
