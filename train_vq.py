"""Train the motion tokenizer (stage 1): motion features to discrete tokens and back."""
from options.vq import parse_vq_options
from utils.errors import script

if __name__ == "__main__":
    script(parse_vq_options)()  # --help and wrong flags are answered before torch is imported

from data.motion_windows import MotionWindows
from data.packed import read_features, read_whole_clips
from data.specs import dataset_spec
from data.text_motion import whole_crop
from evaluation.reconstruction import reconstruct_clips
from models.vq.model import VQConfig, build_tokenizer
from storage.load import starting_normalisation
from storage.source import run_folder
from training import distributed
from training.distributed import start_run
from training.judge import validation_fid
from training.loop import Trainer
from training.schedule import warmup_milestones
from training.vq_stage import VQStage
from utils.files import save_npy


@script
def main() -> None:
    opt = parse_vq_options()
    device = start_run(opt)
    spec = dataset_spec(opt.dataset_name, opt.data_root)
    print(f"data set {spec.root}")

    normalisation = starting_normalisation(opt, spec)
    train_clips = read_features(spec, "train", opt.quiet)
    val_clips = read_whole_clips(spec, "val", opt.quiet)
    windows = MotionWindows(train_clips, normalisation, opt.window_size)
    print(f"{len(train_clips)} training clips, {len(windows)} windows; {len(val_clips)} validation clips")

    meta = run_folder(opt) / "meta"
    if distributed.is_main():
        save_npy(meta / "mean.npy", normalisation.mean)
        save_npy(meta / "std.npy", normalisation.std)

    model = build_tokenizer(VQConfig.from_options({**vars(opt), "dim_pose": spec.dim_pose}))
    print(f"tokenizer with {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters -> {run_folder(opt)}")
    shown = [clip[:whole_crop(len(clip)).length] for clip in val_clips]
    fid = validation_fid(opt, spec, device, shown, lambda model, rows: reconstruct_clips(
        model, [shown[row] for row in rows], normalisation), otherwise="mpjpe_mm")
    stage = VQStage(model, opt, spec, normalisation, val_clips, fid)
    schedule = warmup_milestones(opt.warm_up_iter, opt.milestones, opt.gamma)
    Trainer(stage, opt, windows, schedule).run()


if __name__ == "__main__":
    main()
