"""Evaluate text-to-motion generation, with real and reconstructed motions for comparison."""
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from options.evaluate import parse_generation_evaluation
from utils import InputError, script

ALL = "all"          # value of --which_epoch
TIMED_LENGTH = 120   # length of the motions that are timed, in frames


@script
def main() -> None:
    opt = parse_generation_evaluation()  # before torch is imported, which takes seconds
    import torch

    from data.dataset import dataset_spec
    from data.text_motion import load_pairs
    from evaluation.caption_scores import BertScore
    from evaluation.generation import LEGEND, NOTE, LampBertScore, find_evaluators, generated_rows, remember_texts
    from evaluation.metrics import reconstruct_clips
    from evaluation.protocol import REAL, Evaluation, Plan
    from evaluation.report import hardware, seconds_each, write_report
    from models.text_to_motion import Sample, speed_up
    from storage.checkpoint import checkpoint_names, find_source, model_names
    from storage.evaluation import load_captioner
    from storage.generation import load_text_to_motion, load_tokenizer
    from utils.runtime import seed_everything, select_device

    seed_everything(opt.seed)
    device = select_device(opt.gpu_id)
    spec = dataset_spec(opt.dataset_name, opt.data_root)
    source = find_source(opt.name, spec.name, opt.checkpoints_dir, None if opt.which_epoch == ALL else opt.which_epoch)
    evaluator, lamp = find_evaluators(opt.evaluator, spec, opt.checkpoints_dir, device)
    if evaluator is None:
        raise InputError(f"there is no evaluator for {spec.name}; train one with train_evaluator.py")
    pairs = load_pairs(spec, opt.split, quiet=opt.quiet)
    evaluators = [str(evaluator.source), *([str(lamp.lamp.source)] if lamp else [])]
    print(f"{source.folder} on {len(pairs)} clips of {spec.root}, {opt.split}; evaluator {' and '.join(evaluators)}")

    plan = Plan(opt.repeat_times, modality_texts=opt.mm_texts, modality_fresh=opt.protocol == "momask")
    workers = torch.get_num_threads() if device.type == "cpu" else 1
    evaluation = Evaluation(pairs, evaluator, spec, plan, opt.seed, opt.quiet, workers, lamp)
    tokenizer = load_tokenizer(source.needed("vq_name"), spec, opt.checkpoints_dir, device)
    speed_up([tokenizer.model], opt.precision, opt.compile, opt.cpu_linear)
    rows = {REAL: evaluation.real(), "tokenizer": evaluation.fixed(
        reconstruct_clips(tokenizer.model, evaluation.clips, tokenizer.normalisation))}
    lamp_bertscore, captioned = None, {}
    if opt.lamp_bertscore:
        bert = BertScore(opt.bert_score_model, opt.bert_score_layer, opt.bert_score_rescale, str(device))
        captioner = load_captioner(opt.m2t_name, spec, opt.checkpoints_dir, device)
        captioned = {"m2t": captioner.source, "bert_score": bert.settings}
        lamp_bertscore = LampBertScore(pairs, evaluation.clips, captioner.write, bert, opt.seed)
        lamp_bertscore.add_real(rows[REAL])
    loaded, seconds, texts = set(), {}, {}
    for which in checkpoint_names(source) if opt.which_epoch == ALL else [source.file.stem]:
        pipeline, files = load_text_to_motion(opt.name, None, spec, opt.checkpoints_dir, device, which, opt.res_name)
        speed_up(pipeline.networks, opt.precision, opt.compile, opt.cpu_linear)
        print(f"models: {model_names(files)}")
        loaded |= set(map(str, files))
        sampling = pipeline.sampling.changed(vars(opt))
        timed = [[Sample(pair.captions[0], opt.seed, TIMED_LENGTH)] for pair in pairs]
        seconds[which] = seconds_each(partial(pipeline.features, sampling=sampling), timed)
        remember_texts(pipeline, texts)
        prefix = f"{which}: " if opt.which_epoch == ALL else ""
        many = replace(sampling, group_rows=opt.batch_size)
        generate = generated_rows(pipeline, many, prefix)
        rows |= evaluation.generated(generate)
        if lamp_bertscore is not None:
            lamp_bertscore.add_generated(rows, generate)
    settings = {
        "checkpoint": source, "files": sorted(loaded), "clips": len(pairs), **vars(opt), **asdict(sampling),
        "evaluator": evaluator.source, "lamp_evaluator": lamp and lamp.lamp.source,
        **captioned, "timed_length": TIMED_LENGTH, "seconds_per_sentence": seconds,
        "hardware": hardware(device)}
    write_report(Path(opt.checkpoints_dir) / spec.name / source.folder.name / "eval", opt.ext, settings,
                 {name: row.table() for name, row in rows.items()},
                 [*evaluation.notes(rows), *([NOTE] if lamp else []), *([LEGEND] if lamp_bertscore else [])])


if __name__ == "__main__":
    main()
