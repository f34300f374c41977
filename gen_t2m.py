"""Make motions from text: joints, BVH, GLB and video for every prompt."""
import time
from pathlib import Path

from tqdm import tqdm

from data.prompts import make_prompt, read_prompts
from data.specs import dataset_spec
from models.text_to_motion import Sample, Sampling
from options.generate import parse_generate_options
from training.load import load_text_to_motion
from utils.device import select_device
from utils.errors import script
from utils.seeding import seed_everything
from visualization.outputs import Formats, write_motion


@script
def main() -> None:
    opt = parse_generate_options()
    seed_everything(opt.seed)
    device = select_device(opt.gpu_id)
    spec = dataset_spec(opt.dataset_name)
    if opt.text_path is not None:
        prompts = read_prompts(opt.text_path)
    else:
        prompts = [make_prompt(opt.text_prompt, opt.motion_length, "--text_prompt")]
    needs_lengths = any(prompt.m_len is None for prompt in prompts)
    folder = Path(opt.output_dir) / opt.ext

    pipeline, files = load_text_to_motion(
        opt.name, opt.len_name if needs_lengths else None, spec, opt.checkpoints_dir, device, opt.which_epoch,
        opt.res_name)
    print(f"models: {', '.join(map(str, files))}")
    print(f"layers of tokens: {pipeline.layers} of {pipeline.tokenizer.config.num_quantizers}")
    samples = [(number, repeat, Sample(prompt.text, opt.seed + repeat, prompt.m_len))
               for number, prompt in enumerate(prompts) for repeat in range(opt.repeat_times)]
    start = time.perf_counter()
    motions = pipeline.generate([sample for _, _, sample in samples], Sampling.from_options(vars(opt)))
    print(f"{len(motions)} motion{'s' * (len(motions) > 1)} in {time.perf_counter() - start:.1f} s on {device}")

    formats = Formats(video=not opt.no_video, bvh=not opt.no_bvh, glb=opt.glb)
    for (number, repeat, sample), joints in tqdm(list(zip(samples, motions, strict=True)), desc="writing",
                                                 disable=opt.quiet or None, leave=False):
        paths = write_motion(folder, number, repeat, joints, sample.text, spec, formats)
        tqdm.write(f"{sample.text!r}: {len(joints) / spec.fps:.1f} s -> {', '.join(map(str, paths[-2:]))}")
    print(f"everything lies under {folder}")


if __name__ == "__main__":
    main()
