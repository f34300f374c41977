"""Evaluate motion captioning and two baselines on a split, or score the captions in a file."""
import argparse
import json
from pathlib import Path

from options.base import TOKENIZER_FACTS
from options.evaluate import DECODER_FACTS, parse_m2t_evaluation
from utils import script


@script
def main() -> None:
    opt = parse_m2t_evaluation()  # before torch is imported, which takes seconds
    if opt.score_captions:
        score_file(opt)
        return
    from data.dataset import dataset_spec
    from data.text import SPACY_HINT, spacy_pipeline
    from data.text_motion import load_pairs, whole_crop
    from evaluation.caption_scores import BertScore, CaptionScorer, Lexicon, most_common_caption, nearest_captions
    from evaluation.report import write_report
    from evaluation.retrieval import motion_vectors
    from models.text_to_motion import speed_up
    from storage.checkpoint import model_names
    from storage.evaluation import check_tokenizer, differing_facts, find_evaluator, named_captioner, tokenizer_name
    from storage.generation import load_tokenizer
    from utils.files import write_text
    from utils.runtime import seed_everything, select_device

    seed_everything(opt.seed)
    device = select_device(opt.gpu_id)
    spec = dataset_spec(opt.dataset_name, opt.data_root)
    bert = opt.bert_score_model and BertScore(opt.bert_score_model, opt.bert_score_layer, opt.bert_score_rescale,
                                              str(device))
    evaluator = find_evaluator(opt.evaluator, spec, opt.checkpoints_dir, device)
    captioner = named_captioner(opt, spec, device)
    opt.name = opt.name or "M2T"
    speed_up([captioner.model], cpu_linear=opt.cpu_linear)
    check_tokenizer(captioner.lamp, tokenizer_name(opt, spec))
    tokenizer = load_tokenizer(captioner.lamp.source.needed("vq_name"), spec, opt.checkpoints_dir)
    print(f"models: {model_names(one.source.file for one in (captioner, captioner.lamp, tokenizer))}")
    for facts, source in ((TOKENIZER_FACTS, tokenizer.source), (DECODER_FACTS, captioner.source)):
        for sentence in differing_facts({fact: getattr(opt, fact) for fact in facts}, source):
            print(sentence)

    pairs = load_pairs(spec, opt.split, whole_clips_only=True, quiet=opt.quiet)
    known = load_pairs(spec, "train", whole_clips_only=True, quiet=opt.quiet)
    clips = [pair.features[:whole_crop(len(pair.features)).length] for pair in pairs]
    print(f"{len(pairs)} clips of {spec.root}, {opt.split}")
    writing = captioner.writing.changed(vars(opt))
    captions = {"m2t": [made[0] for made in captioner.write(clips, writing, opt.batch_size, opt.quiet)]}
    if opt.baselines:
        vectors = [motion_vectors([captioner.lamp.normalisation.apply(pair.features) for pair in some],
                                  captioner.lamp.motion_features, opt.quiet) for some in (pairs, known)]
        captions["nearest training motion"] = nearest_captions(*vectors, known)
        captions["most common caption"] = [most_common_caption(known)] * len(pairs)
    lexicon = Lexicon(known, spacy_pipeline() if opt.references == "lemmatised" else None)
    scorer = CaptionScorer(pairs, lexicon, opt.references, bert,
                           evaluator and evaluator.texts, evaluator and evaluator.motions(clips))
    tables = {row: scorer(texts) for row, texts in captions.items()}
    if evaluator:
        tables["true captions"] = scorer.of_references()

    made = [{"clip": pair.name, **{row: texts[number] for row, texts in captions.items()},
             "references": list(pair.verbatim)} for number, pair in enumerate(pairs)]
    write_text(Path(opt.out_dir) / opt.name / "captions.json", json.dumps(made, indent=1, ensure_ascii=False) + "\n")
    settings = {"checkpoint": captioner.source, "lamp": captioner.lamp.source, "clips": len(pairs),
                **scorer.settings, **vars(opt), "evaluator": evaluator and evaluator.source}
    for key in ("reference_style", "words", "bert_score", "evaluator"):
        print(f"{key}: {settings[key]}")
    folder = Path(opt.checkpoints_dir) / spec.name / captioner.source.folder.name / "eval"
    write_report(folder, opt.name, settings, tables)
    if opt.references == "lemmatised" and lexicon.spacy is None:
        print(f"lemmas come from the training captions, because spaCy is not installed; {SPACY_HINT}")


def score_file(opt: argparse.Namespace) -> None:
    """Print the scores of the captions in the file ``opt.score_captions``, and write them to ``opt.out`` if given."""
    from evaluation.caption_scores import coco_scores, read_scored, report_scores

    captions, references = read_scored(opt.score_captions)
    print(f"{len(captions)} captions, {sum(map(len, references))} references of {opt.score_captions}, unchanged")
    scores = coco_scores(captions, references)
    if opt.bert_score_model:
        from evaluation.caption_scores import BertScore
        from utils.runtime import select_device

        bert = BertScore(opt.bert_score_model, opt.bert_score_layer, opt.bert_score_rescale,
                         str(select_device(opt.gpu_id)))
        scores["bertscore"] = bert(captions, references) / 100
        print(f"BERTScore by {bert.settings}")
    report_scores(scores, opt.out)


if __name__ == "__main__":
    main()
