"""Train the motion tokenizer, which encodes motions as discrete tokens (stage 1)."""
import math

from options.train import parse_vq_options
from utils import script


@script
def main() -> None:
    opt = parse_vq_options()  # before torch is imported, which takes seconds
    from data.dataset import dataset_spec, read_features, read_whole_clips
    from data.text_motion import MotionWindows, whole_crop
    from evaluation.generation import validation_fid
    from evaluation.metrics import reconstruct_clips
    from models.vq.model import VQConfig, build_tokenizer
    from training.optimization import warmup_milestones
    from training.runs import checked_run_folder, divide, is_main, start_run, starting_normalisation
    from training.stages.vq import VQStage
    from training.trainer import Trainer

    device = start_run(opt)
    spec = dataset_spec(opt.dataset_name, opt.data_root)
    normalisation = starting_normalisation(opt, spec)
    train_clips = read_features(spec, "train", opt.quiet)
    val_clips = read_whole_clips(spec, "val", opt.quiet)
    windows = MotionWindows(train_clips, normalisation, math.ceil(opt.window_size * (1 + opt.time_warp)))
    print(f"data set {spec.root}: {len(train_clips)} training clips, {len(windows)} windows; "
          f"{len(val_clips)} validation clips")
    if is_main():
        normalisation.save(checked_run_folder(opt) / "meta")

    model = build_tokenizer(VQConfig.from_options({**vars(opt), "dim_pose": spec.dim_pose}))
    clips = [clip[:whole_crop(len(clip)).length] for clip in val_clips]
    fid = validation_fid(opt, spec, device, clips, lambda model, rows: reconstruct_clips(
        model, [clips[row] for row in rows], normalisation), otherwise="mpjpe_mm", divide=divide)
    stage = VQStage(model, opt, spec, normalisation, val_clips, fid)
    Trainer(stage, opt, windows, warmup_milestones(opt.warm_up_iter, opt.milestones, opt.gamma)).run()


if __name__ == "__main__":
    main()
