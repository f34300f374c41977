"""Evaluate text to motion: real motion, the tokenizer, the base layer alone, and all layers, under one protocol."""
from dataclasses import replace
from pathlib import Path

from data.specs import dataset_spec
from data.text_motion import load_pairs
from evaluation.generation import generated_rows, remember_texts
from evaluation.protocol import REAL, Evaluation, Plan, fault_notes
from evaluation.reconstruction import reconstruct_clips
from evaluation.report import write_report
from evaluation.timing import hardware, seconds_each
from models.text_to_motion import Sample, Sampling
from options.evaluate import parse_generation_evaluation
from training.judge import load_judge
from training.load import load_text_to_motion, load_tokenizer
from training.source import checkpoint_names, find_source
from utils.device import select_device
from utils.errors import InputError, script
from utils.seeding import seed_everything

ALL = "all"          # of --which_epoch
TIMED_LENGTH = 120   # frames of the motions that are timed


@script
def main() -> None:
    opt = parse_generation_evaluation()
    seed_everything(opt.seed)
    device = select_device(opt.gpu_id)
    spec = dataset_spec(opt.dataset_name, opt.data_root)
    source = find_source(opt.name, spec.name, opt.checkpoints_dir, None if opt.which_epoch == ALL else opt.which_epoch)
    judge = load_judge(opt.evaluator, spec, opt.checkpoints_dir, device)
    if judge is None:
        raise InputError(f"there is no evaluator for {spec.name}; train_evaluator.py makes one")
    pairs = load_pairs(spec, opt.split, quiet=opt.quiet)
    print(f"{source.folder} on {len(pairs)} clips of {spec.root}, {opt.split}; evaluator {judge.source}")

    plan = Plan(opt.repeat_times, modality_texts=opt.mm_texts)
    evaluation = Evaluation(pairs, judge, spec, plan, opt.seed, opt.quiet)
    tokenizer = load_tokenizer(source.needed("vq_name"), spec, opt.checkpoints_dir, device)
    rows = {REAL: evaluation.real(), "tokenizer": evaluation.fixed(
        reconstruct_clips(tokenizer.model, evaluation.clips, tokenizer.normalisation))}
    sampling = Sampling.from_options(vars(opt))
    many = replace(sampling, group_rows=opt.batch_size if device.type == "cpu" else None)
    loaded, seconds = set(), {}
    for which in checkpoint_names(source) if opt.which_epoch == ALL else [source.file.stem]:
        pipeline, files = load_text_to_motion(opt.name, None, spec, opt.checkpoints_dir, device, which, opt.res_name)
        print(f"models: {', '.join(map(str, files))}")
        loaded |= set(map(str, files))
        seconds[which] = seconds_each(lambda samples, pipeline=pipeline: pipeline.features(samples, sampling),
                                      [[Sample(pair.captions[0], opt.seed, TIMED_LENGTH)] for pair in pairs])
        remember_texts(pipeline)
        prefix = f"{which}: " if opt.which_epoch == ALL else ""
        rows |= evaluation.generated(generated_rows(pipeline, many, prefix))
    settings = {
        "checkpoint": source, "files": sorted(loaded), "clips": len(pairs), **vars(opt), "evaluator": judge.source,
        "timed_length": TIMED_LENGTH, "seconds_per_sentence": seconds, "hardware": hardware(device)}
    write_report(Path(opt.checkpoints_dir) / spec.name / source.folder.name / "eval", opt.ext, settings,
                 {name: row.table() for name, row in rows.items()},
                 [*evaluation.left_out, *fault_notes(rows), *evaluation.legend])


if __name__ == "__main__":
    main()
