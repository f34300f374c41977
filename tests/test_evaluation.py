"""The evaluation protocol with an evaluator of known embeddings, and evaluation scripts on toy data."""
import json
import math
import re
import shutil
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

import eval_retrieval
import eval_t2m_trans_res
import eval_t2m_vq
import train_res_transformer
import train_t2m_transformer
import train_vq
from benchmarks import plot_sweep
from data.dataset import dataset_spec
from data.text_motion import Pair, load_pairs
from evaluation.generation import find_evaluators
from evaluation.protocol import UNITS, Evaluation, Plan, fault_notes, mean_faults
from evaluation.report import Estimate, write_report
from models.text_to_motion import Sample
from motion.features import joints_to_features
from motion.skeleton import T2M
from storage.checkpoint import find_source, load_checkpoint, read_options
from storage.evaluation import find_evaluator
from tests.figures import standing, walking
from tests.toy import TINY_T2M, TINY_VQ, refusal, run_here
from tests.toy_models import make_evaluator
from utils import InputError

SPEC = dataset_spec("t2m")
WIDTH = 8
QUICK = Plan(repeats=3, modality_texts=4, modality_motions=12)


class Judge:
    """Evaluator that embeds a motion as its first row, and a caption as the row with its number."""

    def __init__(self, count: int) -> None:
        self.rows = np.random.default_rng(0).normal(size=(count, WIDTH)).astype(np.float32)
        self.embedded = 0

    def motions(self, motions: Sequence[np.ndarray]) -> np.ndarray:
        self.embedded += len(motions)
        return np.array([motion[0, :WIDTH] for motion in motions]).reshape(-1, WIDTH)

    def texts(self, tokens: Sequence[Sequence[str]]) -> np.ndarray:
        return np.array([self.rows[int(caption[0].split("/")[0])] for caption in tokens])


def clip(row: np.ndarray, length: int = 40) -> np.ndarray:
    """Return features (length, 263) that the evaluator embeds as ``row``."""
    return np.tile(np.pad(row, (0, SPEC.dim_pose - WIDTH)), (length, 1)).astype(np.float32)


def world(count: int = 64, plan: Plan = QUICK) -> tuple[Evaluation, Judge]:
    """Return an evaluation of clips with the same embeddings as their captions, and its evaluator."""
    judge = Judge(count)
    pairs = [Pair(f"clip{number}", clip(judge.rows[number], 40 + number), (f"{number} said", f"{number} told"),
                  tokens=((f"{number}/NUM",), (f"{number}/NUM", "told/VERB"))) for number in range(count)]
    return Evaluation(pairs, judge, SPEC, plan, seed=5), judge


def number_of(sample: Sample) -> int:
    return int(sample.text.split()[0])


def test_motion_is_found_by_its_own_captions_and_by_those_of_others_by_chance() -> None:
    row = world()[0].real()
    assert [row.numbers[f"R{k}"] for k in (1, 2, 3)] == [Estimate(100, 0, 3)] * 3
    assert row.numbers["mm_dist"].mean == pytest.approx(0, abs=1e-6)
    assert row.numbers["fid_halves"].mean > 0 and "fid" not in row.numbers
    assert row.faults == [] and UNITS.keys() <= row.numbers.keys()

    evaluation, judge = world(320)
    row = evaluation.fixed(evaluation.clips[100:] + evaluation.clips[:100])
    assert row.numbers["fid"].mean == pytest.approx(0, abs=1e-6)  # the same motions with shifted embeddings
    assert row.numbers["R1"].mean == pytest.approx(100 / 32, abs=3)
    assert row.numbers["R3"].mean == pytest.approx(300 / 32, abs=4)
    assert judge.embedded == 640  # once each


def test_motion_is_asked_for_every_clip_once_a_repeat_with_its_length_and_a_seed_of_its_own() -> None:
    evaluation, judge = world()
    calls: list[list[Sample]] = []

    def generate(samples: Sequence[Sample]) -> dict[str, list[np.ndarray]]:
        calls.append(list(samples))
        made = [clip(judge.rows[number_of(sample)], sample.m_len) for sample in samples]
        return {"one": made, "other": [clip(motion[0, :WIDTH] + 1) for motion in made]}

    rows = evaluation.generated(generate)
    repeats = [call for call in calls if len(call) == 64]
    assert len(repeats) == 3
    for call in repeats:
        assert sorted(map(number_of, call)) == list(range(64))
        assert all(sample.m_len == (40 + number_of(sample)) // 4 * 4 for sample in call)
    assert len({sample.seed for call in calls for sample in call}) == 3 * 64 + 4 * 12
    assert [sample.text for sample in repeats[0]] != [sample.text for sample in repeats[1]]
    assert {sample.text.split()[1] for sample in repeats[0]} == {"said", "told"}
    assert rows["one"].numbers["R1"] == Estimate(100, 0, 3) and rows["one"].numbers["fid"].mean < 1e-6
    assert rows["other"].numbers["fid"].mean == pytest.approx(WIDTH, rel=1e-4)
    assert rows["one"].numbers["multimodality"] == Estimate(0, 0, 3)  # the same motion for each text
    first = [[(sample.text, sample.seed) for sample in call] for call in calls]
    calls.clear()
    evaluation.generated(generate)
    assert first == [[(sample.text, sample.seed) for sample in call] for call in calls]


def test_repeats_side_by_side_give_what_they_give_one_after_the_other() -> None:
    evaluation, judge = world(plan=Plan(4, modality_texts=0))
    beside, threads = Evaluation(evaluation.pairs, judge, SPEC, evaluation.plan, 5, workers=2), torch.get_num_threads()
    together = threading.Barrier(2)  # passes only if two run in parallel

    def generate(samples: Sequence[Sample], wait: bool = False) -> dict[str, list[np.ndarray]]:
        if wait:
            assert torch.get_num_threads() == 1
            together.wait(timeout=60)
        return {"row": [clip(judge.rows[number_of(sample)] * (sample.seed % 7)) for sample in samples]}

    assert beside.generated(partial(generate, wait=True)) == evaluation.generated(generate)
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("fresh", [False, True])
def test_multimodality_of_momask_has_fresh_texts_and_motions_in_every_repeat(fresh: bool) -> None:
    evaluation, judge = world(plan=Plan(3, modality_texts=4, modality_motions=12, modality_fresh=fresh))
    seeds: list[tuple[str, int]] = []

    def generate(samples: Sequence[Sample]) -> dict[str, list[np.ndarray]]:
        if len(samples) == 4 * 12:
            seeds.extend((sample.text, sample.seed) for sample in samples)
        return {"row": [clip(judge.rows[number_of(sample)] + np.random.default_rng(sample.seed).normal(size=WIDTH))
                        for sample in samples]}

    numbers = evaluation.generated(generate)["row"].numbers
    assert len(seeds) == len(set(seeds)) == (3 if fresh else 1) * 48
    assert len({text for text, _ in seeds}) > 4 if fresh else len({text for text, _ in seeds}) == 4
    assert numbers["multimodality"].repeats == 3


def test_a_motion_that_is_not_finite_is_named_and_in_no_number() -> None:
    evaluation, judge = world(plan=Plan(2, modality_texts=0))

    def generate(samples: Sequence[Sample]) -> dict[str, list[np.ndarray]]:
        made = [clip(judge.rows[number_of(sample)]) for sample in samples]
        for sample, motion in zip(samples, made, strict=True):
            if number_of(sample) == 7:
                motion[20, 200] = np.nan
        return {"row": made}

    row = evaluation.generated(generate)["row"]
    assert len(row.faults) == 2 and row.table()["not_finite"] == 2
    assert all(name.startswith("clip7, '7 ") and name.endswith(f", repeat {repeat}")
               for repeat, name in enumerate(row.faults))
    assert row.numbers["R1"] == Estimate(100, 0, 2)  # the others still match their captions
    assert all(math.isfinite(number.mean) and number.not_finite == 0 for number in row.numbers.values())
    assert "2 motions of row: clip7" in fault_notes({"row": row})[0]


def test_an_estimate_is_a_mean_with_its_interval_over_the_numbers_there_are() -> None:
    values = np.random.default_rng(0).normal(3, 2, size=20)
    estimate = Estimate.of(values)
    assert (estimate.mean, estimate.interval) == pytest.approx((values.mean(), 1.96 * values.std() / math.sqrt(20)))
    assert Estimate.of([*values, math.nan, math.inf]) == Estimate(estimate.mean, estimate.interval, 20, 2)
    assert Estimate.of([2.0]) == Estimate(2.0, None, 1)


def test_a_report_is_a_table_and_json_without_what_json_does_not_know(tmp_path: Path, capsys) -> None:
    tables = {"real motion": {"R1": Estimate(51.1, 0.5, 20), "jerk": 8.0},
              "row": {"fid": Estimate(math.nan, None, 0, 20), "R1": 2.0}}
    settings = {"seed": 3, "at": Path("x"), "seconds": {"latest": 0.5}}
    log, twin = write_report(tmp_path, "a", settings, tables, ["a note"])
    assert log.read_text().splitlines() == [
        "seed: 3", "at: x", "seconds: {'latest': 0.5}", "",
        "                    fid         R1  jerk", "real motion           -  51.1 ±0.5     8",
        "row          not finite          2     -", "a note"]
    assert log.read_text().split("\n\n")[1].splitlines()[0] in capsys.readouterr().out
    read = json.loads(twin.read_text())
    assert read["settings"] == {"seed": 3, "at": "x", "seconds": {"latest": 0.5}}
    assert read["results"]["real motion"]["R1"] == {"mean": 51.1, "interval": 0.5, "repeats": 20, "not_finite": 0}
    assert read["results"]["row"]["fid"]["mean"] is None and read["notes"] == ["a note"]


def test_scores_of_reports_are_plotted_against_a_setting(tmp_path: Path) -> None:
    for scale, score in ((4.0, Estimate(0.5, 0.1, 2)), (2.0, Estimate(0.75, None, 1))):
        write_report(tmp_path, f"s{scale}", {"cond_scale": scale}, {"real motion": {}, "all layers": {"fid": score}})
    files = [tmp_path / f"s{scale}.json" for scale in (4.0, 2.0)]
    curves = plot_sweep.curves([json.loads(file.read_text()) for file in files], "cond_scale", "fid")
    assert curves == {"all layers": [(2.0, 0.75, 0.0), (4.0, 0.5, 0.1)]}
    run_here(plot_sweep.main, *files, "--metrics", "fid", "--out", "a.svg", cwd=tmp_path)
    assert ElementTree.parse(tmp_path / "a.svg").getroot().tag.endswith("svg")
    assert "no row has R3" in refusal(plot_sweep.main, *files, "--out", "a.svg", cwd=tmp_path)


def features(joints: np.ndarray) -> np.ndarray:
    return np.asarray(joints_to_features(joints, T2M), np.float32)


def test_physical_faults_of_motions_that_have_them() -> None:
    good = mean_faults([features(standing(60))], SPEC)
    assert good["penetration"] < 1 and good["bone_drift"] < 1 and good["jerk"] < 1
    walk = features(walking(80, 1.0))
    sunk, jittery, stretched = walk.copy(), walk.copy(), walk.copy()
    sunk[:, [3, *range(5, 67, 3)]] -= 0.1                                # heights of all joints
    jittery[:, 4:67] += np.random.default_rng(0).normal(0, 0.01, jittery[:, 4:67].shape)
    stretched[:, 4:67] *= np.linspace(0.8, 1.2, len(walk))[:, None]
    usual = mean_faults([walk], SPEC)
    assert mean_faults([jittery], SPEC)["jerk"] > 2 * usual["jerk"]
    assert mean_faults([stretched], SPEC)["bone_drift"] > usual["bone_drift"] + 5
    assert mean_faults([sunk], SPEC)["penetration"] > usual["penetration"] + 40
    assert mean_faults([walk, sunk], SPEC)["penetration"] == pytest.approx(
        (usual["penetration"] + mean_faults([sunk], SPEC)["penetration"]) / 2)
    assert math.isnan(mean_faults([], SPEC)["jerk"])


CPU = ("--gpu_id", "-1", "--data_root", "data", "--quiet")
FAST = ("--repeat_times", "2", "--mm_texts", "2", "--time_steps", "2", "--name", "t2m")


@pytest.fixture
def run(toy_copy: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    make_evaluator(toy_copy / "checkpoints" / "t2m" / "judge")
    monkeypatch.setattr("storage.checkpoint.PRETRAINED", toy_copy / "nothing")  # ignore bundled models
    return lambda main, *arguments: run_here(main, *CPU, *arguments, cwd=toy_copy)


def report(name: str, ext: str = "evaluation") -> dict:
    folder = Path("checkpoints/t2m") / name / "eval"
    assert (folder / f"{ext}.log").is_file()
    return json.loads((folder / f"{ext}.json").read_text())


def test_text_to_motion_is_evaluated_with_and_without_residual(run: Callable[..., None]) -> None:
    run(eval_t2m_trans_res.main, *FAST, "--evaluator", "judge", "--res_name", "res", "--ext", "both")
    both = report("t2m", "both")
    assert list(both["results"]) == ["real motion", "tokenizer", "base layer", "base + residual"]
    assert {"fid_halves", "mm_dist", "skating", "penetration", "jerk", "bone_drift", "not_finite"} <= set(
        both["results"]["real motion"])
    for row in ("base layer", "base + residual"):
        numbers = both["results"][row]
        assert numbers["fid"]["repeats"] == 2 and numbers["fid"]["interval"] is not None
        assert numbers["multimodality"]["mean"] > 0 and numbers["not_finite"] == 0
    settings = both["settings"]
    assert settings["seconds_per_sentence"]["latest"] > 0 and "torch" in settings["hardware"]
    assert (settings["cond_scale"], settings["time_steps"], settings["evaluator"]) == (
        4.0, 2, "checkpoints/t2m/judge/model/latest.tar")
    assert any(note.startswith("omitted: R-precision needs 32 clips, but there are 7") for note in both["notes"])
    run(eval_t2m_trans_res.main, *FAST, "--evaluator", "judge", "--res_name", "none", "--ext", "base")
    base = report("t2m", "base")
    assert list(base["results"]) == ["real motion", "tokenizer", "base layer"]
    assert base["results"]["base layer"] == both["results"]["base layer"]  # same base tokens


def test_lamp_beside_the_default_evaluator(run: Callable[..., None]) -> None:
    assert run
    shutil.copytree("checkpoints/t2m/judge", "checkpoints/t2m/evaluator_demo")
    judge, space = find_evaluators("lamp:lamp", dataset_spec("t2m"), "checkpoints")
    assert judge.source.folder.name == "evaluator_demo" and space.lamp.source.folder.name == "lamp"
    pairs = load_pairs(dataset_spec("t2m", "data"), "test", quiet=True)
    clips, captions = [pair.features[:40] for pair in pairs], [pair.captions[0] for pair in pairs]
    motions, texts = space.motions(clips), space.texts(captions)
    assert motions.shape == texts.shape == (len(pairs), 4)
    one = torch.from_numpy(space.lamp.normalisation.apply(clips[0]))[None]
    expected = space.lamp.motion_features(one, torch.tensor([40]))
    np.testing.assert_allclose(motions[0], expected[0], atol=1e-5)
    np.testing.assert_allclose(texts[1], space.lamp.text_features([captions[1]])[0], atol=1e-5)
    assert space.motions([]).shape == (0, 4)
    with pytest.raises(InputError, match="expected NAME, lamp:NAME"):
        find_evaluators("lamp:a,lamp:b", dataset_spec("t2m"), "checkpoints")


def test_captions_of_motions_are_scored_against_prompts_with_real_motion(run: Callable[..., None]) -> None:
    run(eval_t2m_trans_res.main, *FAST, "--repeat_times", 1, "--mm_texts", 0, "--evaluator", "judge", "--res_name",
        "res", "--lamp_bertscore", "--m2t_name", "m2t", "--bert_score_model", "bert", "--bert_score_layer", 1)
    read = report("t2m")
    told = {row: numbers["lamp_bertscore"]["mean"] for row, numbers in read["results"].items()
            if "lamp_bertscore" in numbers}
    assert told.keys() == {"real motion", "base layer", "base + residual"}
    assert all(0 < score < 100 for score in told.values())
    assert read["settings"]["bert_score"].startswith("bert, layer 1, not rescaled")
    assert read["settings"]["m2t"].endswith("m2t/model/latest.tar")
    assert read["notes"][-1].startswith("lamp_bertscore: BERTScore between the caption")


def test_a_tokenizer_is_evaluated_with_and_without_an_evaluator(run: Callable[..., None]) -> None:
    run(eval_t2m_vq.main, "--name", "vq", "--evaluator", "judge")
    rows = report("vq")["results"]
    assert list(rows) == ["real motion", "all layers", "base layer alone"]
    assert rows["all layers"]["fid"]["repeats"] == 1  # no interval, as motions do not vary
    assert rows["all layers"]["mm_dist"]["repeats"] == 20 and rows["all layers"]["mpjpe"] > 0
    run(eval_t2m_vq.main, "--name", "vq")
    read = report("vq")
    assert read["results"]["all layers"]["mpjpe"] == rows["all layers"]["mpjpe"]
    assert "fid" not in read["results"]["all layers"] and read["notes"][0].startswith("without an evaluator")


@pytest.mark.usefixtures("run")
def test_without_an_evaluator_text_to_motion_cannot_be_evaluated(toy_copy: Path) -> None:
    told = refusal(eval_t2m_trans_res.main, *CPU, *FAST, cwd=toy_copy)
    assert "no evaluator for t2m; train one with train_evaluator.py" in told


@pytest.mark.parametrize("sentences", ["lamp", "bert"])
def test_retrieval_has_its_protocols_both_ways(run: Callable[..., None], sentences: str) -> None:
    run(eval_retrieval.main, "--name", "lamp", "--sentences", sentences, "--repeat_times", 3)
    read = report("lamp")
    assert list(read["results"]) == ["all", "threshold", "sides"]  # with seven clips
    names = [f"{way}_{name}" for way in ("t2m", "m2t") for name in ("R1", "R2", "R3", "R5", "R10", "MedR")]
    for protocol in ("all", "threshold"):
        assert list(read["results"][protocol]) == names
    assert read["results"]["threshold"]["t2m_R1"]["mean"] >= read["results"]["all"]["t2m_R1"]["mean"]
    assert read["settings"]["seconds_per_sentence"] > 0 and read["settings"]["sentences"] == sentences


def test_the_evaluator_of_a_run_is_the_named_the_published_or_none(run: Callable[..., None]) -> None:
    assert run
    spec = dataset_spec("t2m")
    assert find_evaluator("judge", spec, "checkpoints").source.folder.name == "judge"
    assert find_evaluator(None, spec, "checkpoints") is None
    shutil.copytree("checkpoints/t2m/judge", "checkpoints/t2m/evaluator_demo")
    assert find_evaluator(None, spec, "checkpoints").source.folder.name == "evaluator_demo"
    shutil.copytree("checkpoints/t2m/judge", "checkpoints/t2m/text_mot_match")
    assert find_evaluator(None, spec, "checkpoints").source.folder.name == "text_mot_match"
    assert find_evaluator("none", spec, "checkpoints") is None


def test_training_keeps_the_checkpoint_of_the_lowest_fid_and_reports_it(run: Callable[..., None], capsys) -> None:
    run(train_vq.main, "--name", "new", *TINY_VQ, "--evaluator", "judge", "--fid_clips", 5)
    for main, name in ((train_t2m_transformer.main, "newer"), (train_res_transformer.main, "upper")):
        run(main, "--name", name, "--vq_name", "new", "--lamp_name", "lamp", *TINY_T2M, "--evaluator", "judge")
    out = capsys.readouterr().out
    assert "chosen by fid of 5 of 7 validation clips by judge: checkpoints/t2m/judge/model/latest.tar" in out
    assert len(re.findall(r"chosen by fid of (\d+) of \1 validation clips by judge", out)) == 2
    assert "biased upwards" in out
    assert out.count("best so far, kept: net_best_fid (fid ") >= 3
    for name in ("new", "newer", "upper"):
        assert find_source(name, "t2m", "checkpoints").file.stem == "net_best_fid"
        chosen_by = read_options(f"checkpoints/t2m/{name}/opt.txt")["chosen_by"]
        assert re.fullmatch(r"fid of \d+ of \d+ validation clips by judge", chosen_by)
        best = load_checkpoint(Path("checkpoints/t2m") / name / "model" / "latest.tar")["best"]
        assert math.isfinite(best["net_best_fid"])
