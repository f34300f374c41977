"""Score captions from a file."""
import argparse

from evaluation.ngrams import coco_scores, read_scored, report_scores


def score_file(opt: argparse.Namespace) -> None:
    """Print and write the scores of the captions in ``opt.score_captions``. Only BERTScore needs torch."""
    captions, references = read_scored(opt.score_captions)
    print(f"{len(captions)} captions, {sum(map(len, references))} references of {opt.score_captions}, as they stand")
    scores = coco_scores(captions, references)
    if opt.bert_score_model:
        from evaluation.caption_scores import BertScore
        from utils.device import select_device

        bert = BertScore(opt.bert_score_model, opt.bert_score_layer, opt.bert_score_rescale,
                         str(select_device(opt.gpu_id)))
        scores["bertscore"] = bert(captions, references) / 100
        print(f"BERTScore by {bert.settings}")
    report_scores(scores, opt.out)
