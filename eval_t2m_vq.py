"""Evaluate the reconstructions of the tokenizer, with all layers and with the base layer alone."""
from pathlib import Path

from options.evaluate import parse_tokenizer_evaluation
from utils import script

LAYERS = {"all layers": None, "base layer alone": 1}


@script
def main() -> None:
    opt = parse_tokenizer_evaluation()  # before torch is imported, which takes seconds
    from data.dataset import dataset_spec, read_whole_clips
    from data.text_motion import load_pairs
    from evaluation.metrics import reconstruct_clips, score_reconstruction
    from evaluation.protocol import REAL, Evaluation, Plan
    from evaluation.report import hardware, seconds_each, write_report
    from models.text_to_motion import speed_up
    from storage.evaluation import find_evaluator
    from storage.generation import load_tokenizer
    from utils.runtime import seed_everything, select_device

    seed_everything(opt.seed)
    device = select_device(opt.gpu_id)
    spec = dataset_spec(opt.dataset_name, opt.data_root)
    tokenizer = load_tokenizer(opt.name, spec, opt.checkpoints_dir, device, opt.which_epoch)
    speed_up([tokenizer.model], opt.precision, opt.compile, opt.cpu_linear)
    evaluator = find_evaluator(opt.evaluator, spec, opt.checkpoints_dir, device)
    clips = read_whole_clips(spec, opt.split, opt.quiet)
    print(f"{tokenizer.source} on {len(clips)} clips of {spec.root}, {opt.split}; lengths in millimetres")

    scores = {row: score_reconstruction(tokenizer.model, clips, tokenizer.normalisation, spec, layers)
              for row, layers in LAYERS.items()}
    tables, notes = scores, ["without an evaluator, there are no FID and no scores of real motions"]
    if evaluator is not None:
        print(f"evaluator {evaluator.source}")
        pairs = load_pairs(spec, opt.split)
        evaluation = Evaluation(pairs, evaluator, spec, Plan(opt.repeat_times), opt.seed, opt.quiet)
        rows = {REAL: evaluation.real()}
        for row, layers in LAYERS.items():
            rows[row] = evaluation.fixed(
                reconstruct_clips(tokenizer.model, evaluation.clips, tokenizer.normalisation, layers))
        tables = {name: row.table() | scores.get(name, {}) for name, row in rows.items()}
        notes = evaluation.notes(rows)
    settings = {
        "checkpoint": tokenizer.source, "clips": len(clips), **vars(opt), "evaluator": evaluator and evaluator.source,
        "seconds_per_clip": seconds_each(lambda clip: reconstruct_clips(
            tokenizer.model, [clip], tokenizer.normalisation), clips), "hardware": hardware(device)}
    folder = Path(opt.checkpoints_dir) / spec.name / tokenizer.source.folder.name / "eval"
    write_report(folder, opt.ext, settings, tables, notes)


if __name__ == "__main__":
    main()
