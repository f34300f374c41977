"""Evaluate LaMP: text-to-motion and motion-to-text retrieval, and discrimination of left and right."""
from pathlib import Path

from options.evaluate import parse_retrieval_evaluation
from utils import script


@script
def main() -> None:
    opt = parse_retrieval_evaluation()  # before torch is imported, which takes seconds
    from data.dataset import dataset_spec
    from data.text_motion import load_pairs
    from evaluation.report import hardware, seconds_each, write_report
    from evaluation.retrieval import SentenceEncoder, score_language, word_vectors
    from models.text_to_motion import speed_up
    from storage.generation import load_lamp
    from utils.runtime import seed_everything, select_device

    seed_everything(opt.seed)
    device = select_device(opt.gpu_id)
    spec = dataset_spec(opt.dataset_name, opt.data_root)
    lamp = load_lamp(opt.name, spec, opt.checkpoints_dir, device, opt.which_epoch)
    speed_up([lamp.model], opt.precision, opt.compile, opt.cpu_linear)
    sentences = {"words": word_vectors, "lamp": lambda captions: lamp.text_features(captions).cpu().numpy()}.get(
        opt.sentences) or SentenceEncoder(opt.sentences)
    pairs = load_pairs(spec, opt.split, whole_clips_only=True, quiet=opt.quiet)
    print(f"{lamp.source} on {len(pairs)} clips of {spec.root}, {opt.split}; caption similarity by {opt.sentences}")

    by = lamp.comparison(opt.similarity)
    scores = score_language(pairs, lamp.normalisation.apply, by.texts, by.motions, opt.seed, sentences,
                            opt.repeat_times, by.similarity)
    tables = dict(scores.retrieval)
    if scores.sides is not None:
        tables["sides"] = {"right_percent": scores.sides, "captions": scores.sided}
    settings = {
        "checkpoint": lamp.source, "clips": len(pairs), **vars(opt),
        "seconds_per_sentence": seconds_each(lamp.text_features, [[pair.captions[0]] for pair in pairs]),
        "hardware": hardware(device)}
    folder = Path(opt.checkpoints_dir) / spec.name / lamp.source.folder.name / "eval"
    write_report(folder, opt.ext, settings, tables)


if __name__ == "__main__":
    main()
