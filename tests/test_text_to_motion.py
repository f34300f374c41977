"""Generation and editing: bundled and toy models, lengths, sampling, negative prompts, long motions, and ONNX."""
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch

import gen_t2m
from data.dataset import dataset_spec
from models.config import BASE_SAMPLING, LENGTH_SAMPLING, RESIDUAL_SAMPLING, Sampling
from models.layers import can_pack, is_packed, pack_linears
from models.motion_edit import CONTEXT, FADE, MotionEditor, next_window, splice
from models.motion_edit import TimelinePart as Part
from models.text_to_motion import LengthEstimator, Sample, TextToMotion, load, noisy_features
from models.transformers.trunk import sample_generators
from motion.bvh import read_bvh
from motion.features import joints_to_features
from motion.skeleton import T2M
from options.generate import Section, parse_edit_options, parse_generate_options, section
from prepare import export_onnx
from storage import released
from storage.checkpoint import Source
from storage.generation import _own_sampling, load_text_to_motion
from tests.browser import data_of
from tests.figures import walking
from tests.toy import WITHOUT_TORCH, run_here, run_script
from tests.toy_models import make_models
from utils import InputError
from utils.runtime import listening

VERBS = ["waves", "jumps", "kicks", "bows", "turns left", "walks on", "sits down", "claps", "squats", "leans back"]


@pytest.fixture(scope="module")
def pipeline() -> TextToMotion:
    """The bundled models with packed linear maps, if this torch has them."""
    made = load("t2m_demo", checkpoints_dir="no_checkpoints", gpu_id=-1)
    for network in dict.fromkeys(made.networks):
        if can_pack() and not is_packed(network):
            pack_linears(network)
    return made


@pytest.mark.skipif(not can_pack(), reason="this torch has no packed linear maps")
def test_same_prompt_same_motion_whatever_the_batch(pipeline: TextToMotion) -> None:
    samples = [Sample(f"a person {verb} {count} times", 10 * count + number, 4 * (2 + (count + number) % 9))
               for count in range(8) for number, verb in enumerate(VERBS)]
    quick = pipeline.sampling.changed({"time_steps": 3})
    among = pipeline.tokens(samples, quick)
    alone = [pipeline.tokens([sample], quick)[0] for sample in samples]
    assert all(torch.equal(one, other) for one, other in zip(among, alone, strict=True))
    together = pipeline.features_of(among[:20])
    for motion, tokens in zip(together, alone, strict=False):
        apart = pipeline.joints(motion) - pipeline.joints(pipeline.features_of([tokens])[0])
        assert np.abs(apart).max() < 1e-4


def test_the_bundled_models_raise_the_prompted_hand(pipeline: TextToMotion) -> None:
    for side, wrist, other in (("left", 20, 21), ("right", 21, 20)):
        motions = pipeline.generate([Sample(f"a person raises the {side} hand", seed, 80) for seed in range(3)])
        higher = [motion[:, wrist, 1].max() > motion[:, other, 1].max() + 0.2 for motion in motions]
        assert sum(higher) >= 2, f"{side}: {higher}"


def test_one_call_makes_a_motion_of_whole_tokens_with_a_chosen_length_if_none_is_given(pipeline: TextToMotion) -> None:
    joints = pipeline.generate("a person waves", m_len=42)
    assert (joints.shape, joints.dtype) == ((40, 22, 3), np.float32)
    sampled, = pipeline.generate([Sample("a person waves", 3407, 40)])
    assert np.array_equal(joints, sampled)
    chosen = pipeline.generate("a person waves", seed=5)
    assert chosen.shape[1:] == (22, 3) and len(chosen) % 4 == 0 and 20 <= len(chosen) <= 196
    with pytest.raises(ValueError, match="at least 4 frames"):
        pipeline.generate([Sample("a person bows", 1, 3)])
    with pytest.raises(ValueError, match="no words"):
        pipeline.generate(" .. ")
    with pytest.raises(InputError, match="no model named 'nothing'"):
        load("nothing", checkpoints_dir="no_checkpoints")


def test_steps_of_a_generation_are_reported_and_may_stop_it(pipeline: TextToMotion) -> None:
    steps = []
    with listening(lambda *step: steps.append(step)):
        pipeline.generate("a person waves", m_len=40)
        assert steps == [*(("tokens", step, 10) for step in range(1, 11)),
                         *(("residual layers", layer, 5) for layer in range(1, 6))]
        steps.clear()
        MotionEditor(pipeline, 49).generate([("a person waves", 60)], 1, pipeline.sampling.changed({"time_steps": 1}))
    assert [step for step in steps if step[0].endswith("motions")][-1] == ("tokens of long motions", 60, 60)
    with pytest.raises(InterruptedError), listening(Mock(side_effect=InterruptedError)):
        pipeline.generate("a person waves", m_len=40)


@torch.no_grad()
def test_lengths_follow_the_distribution_and_are_never_zero() -> None:
    logits, count = torch.tensor([30.0, 0.0, 1.0, -1.0]), 3000
    model = LengthEstimator(8, len(logits), (16, 8)).eval()
    model.output[-1].weight.zero_()
    model.output[-1].bias.copy_(logits)
    texts = torch.randn(count, 8, generator=torch.Generator().manual_seed(0))
    drawn = model.sample(texts, sample_generators(range(count)))
    share = torch.bincount(drawn, minlength=4) / count
    assert share[0] == 0
    torch.testing.assert_close(share[1:], logits[1:].softmax(0), rtol=0, atol=0.03)
    assert torch.equal(drawn[:50], model.sample(texts[:50], sample_generators(range(50))))
    assert model.expected(texts[:2]).tolist() == [2, 2]
    assert model.loss(texts[:2], torch.tensor([0, 2])).item() == pytest.approx(
        -logits.log_softmax(0)[[0, 2]].mean().item())


PLAIN = Sampling(time_steps=3, cond_scale=5000.0)  # text features of the toy model are small
AWAY = replace(PLAIN, negative_prompt="a person runs")


@pytest.fixture(scope="module")
def toy_pipeline(toy_models: Path) -> TextToMotion:
    return load_text_to_motion("t2m", None, dataset_spec("t2m"), toy_models, res_name="res")[0]


def test_noise_on_text_features_depends_on_the_seed_and_has_the_given_size() -> None:
    cond = torch.arange(1, 1201).float().view(3, 400)
    noisy = noisy_features(cond, [5, 6, 5], 0.2)
    noise = (noisy - cond) / cond.square().mean(1, keepdim=True).sqrt()
    assert torch.equal(noisy_features(cond[1:2], [6], 0.2), noisy[1:2])
    assert torch.equal(noisy_features(cond, [5, 6, 5], 0), cond)
    torch.testing.assert_close(noise[0], noise[2], rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match="3 text features and 1 seeds"):
        noisy_features(cond, [5], 0.2)
    assert noise.mean(1).abs().max() < 0.03 and torch.allclose(noise.std(1), torch.full((3,), 0.2), rtol=0.1)


@torch.no_grad()
def test_guidance_leads_from_the_negative_text_to_the_prompt(toy_pipeline: TextToMotion) -> None:
    cond, away = toy_pipeline.condition(["a person walks", "a person runs"]).split(1)
    ids, model = torch.full((1, 5), toy_pipeline.transformer.mask_id), toy_pipeline.transformer
    wanted, unwanted = model(ids, cond), model(ids, away)
    guided = model.guided_logits(ids, cond, None, 3.0, negative=away)
    torch.testing.assert_close(guided, unwanted + 3 * (wanted - unwanted), rtol=1e-4, atol=1e-5)

    model, layers, history = toy_pipeline.residual, torch.tensor([1]), torch.randn(1, 5, 8)
    wanted, unwanted = (model.project(model(history, layers, text), layers) for text in (cond, away))
    guided = model.guided_logits(history, layers, cond, None, 3.0, negative=away)
    torch.testing.assert_close(guided, unwanted + 3 * (wanted - unwanted), rtol=1e-4, atol=1e-5)


def test_tokens_depend_on_it_only_where_there_is_guidance(toy_pipeline: TextToMotion) -> None:
    samples = [Sample("a person walks", 1, 64), Sample("a person waves", 2, 80)]
    plain, away = toy_pipeline.tokens(samples, PLAIN), toy_pipeline.tokens(samples, AWAY)
    assert any(not torch.equal(a, b) for a, b in zip(plain, away, strict=True))
    unguided = {"cond_scale": 1.0, "res_cond_scale": 1.0}
    for a, b in zip(toy_pipeline.tokens(samples, replace(PLAIN, **unguided)),
                    toy_pipeline.tokens(samples, replace(AWAY, **unguided)), strict=True):
        assert torch.equal(a, b)
    torch.testing.assert_close(toy_pipeline.tokens(samples[:1], AWAY)[0], away[0])


class Loaded:
    def __init__(self, options: dict[str, object]) -> None:
        self.source = Source(Path("run"), options, Path("run/model/latest.tar"))


def own(dataset: str = "t2m", base: Loaded | None = None, residual: Loaded | None = None,
        length: Loaded | None = None) -> Sampling:
    return _own_sampling(dataset_spec(dataset), (base, BASE_SAMPLING), (residual, RESIDUAL_SAMPLING),
                         (length, LENGTH_SAMPLING))


def test_bundled_models_bring_their_sampling_and_flags_change_only_what_they_name(pipeline: TextToMotion) -> None:
    expected = Sampling(10, res_cond_scale=2.0, res_temperature=0.1, length="mean", text_noise=0.2)
    assert pipeline.sampling == expected
    opt = parse_generate_options(["--text_prompt", "a", "--res_temperature", "0.7", "--no-gumbel_sample"])
    assert pipeline.sampling.changed(vars(opt)) == replace(expected, gumbel_sample=False, res_temperature=0.7)


def test_each_model_states_its_part_alone() -> None:
    sampling = own(base=Loaded({"cond_scale": 3, "res_cond_scale": 9.0}), residual=Loaded({"res_temperature": 0.5}))
    assert (sampling.cond_scale, sampling.res_cond_scale, sampling.res_temperature) == (3, 5.0, 0.5)
    for options, message in (({"cond_scale": "wide"}, "cond_scale cannot be 'wide'"),
                             ({"length": "longest"}, "length 'longest' is not one of sample, mean")):
        with pytest.raises(InputError, match=message):
            own(base=Loaded(options))


def test_models_without_settings_are_sampled_as_published_and_early_ones_of_this_project_as_before() -> None:
    published, early = Loaded({}), Loaded({"condition": "both"})
    assert own(base=published, residual=published, length=published) == Sampling()
    assert own("kit", base=published, residual=published) == Sampling(cond_scale=2.0)
    assert own("kit", base=Loaded({"cond_scale": 3.0})).cond_scale == 3.0
    before = Sampling(res_cond_scale=2.0, res_temperature=0.1, length="mean")
    assert own(base=early, residual=early, length=early) == before


def test_the_gumbel_option_of_published_training_does_not_count_in_generation() -> None:
    theirs, ours = {"gumbel_sample": False}, {"gumbel_sample": False, "time_steps": 10}
    for options, expected in ((theirs, True), (ours, False)):
        source = released.with_masked_options(Loaded({**options, "lamp_name": "lamp"}).source, {})
        assert source.options.get("gumbel_sample", True) is expected


@pytest.mark.parametrize("more", [(), ("--loop",)], ids=["plain", "directed"])
def test_each_prompt_of_a_file_has_its_random_stream(toy_models: Path, tmp_path: Path, more: tuple[str, ...]) -> None:
    """The toy vocabulary has no digits, so these texts have equal features and differ only in their noise."""
    def motions(name: str, *texts: str) -> list[np.ndarray]:
        (tmp_path / f"{name}.txt").write_text("".join(f"{text}#40\n" for text in texts))
        run_here(gen_t2m.main, "--name", "t2m", "--res_name", "res", "--len_name", "len", "--time_steps", 3, "--ext",
                 name, "--text_path", f"{name}.txt", "--gpu_id", -1, "--no_video", "--no_bvh", "--no_html", "--quiet",
                 "--checkpoints_dir", toy_models, *more, cwd=tmp_path)
        folder = tmp_path / "generation" / name / "joints"
        return [np.load(folder / str(number) / f"sample{number}_repeat0_len40.npy") for number in range(len(texts))]

    one, two, again = motions("file", "a person 1", "a person 2", "a person 1")
    (alone,) = motions("alone", "a person 2")
    assert np.abs(one - two).max() > 0.01
    assert np.abs(one - again).max() < 1e-4
    assert np.abs(two - alone).max() < 1e-4


def test_prompts_become_joints_bvh_video_and_a_page_of_them_all(tmp_path: Path, capsys) -> None:
    make_models(tmp_path / "checkpoints", "kit")
    (tmp_path / "prompts.txt").write_text("# two prompts\n\na person walks forward#40\na person bows#23\n")
    run_here(gen_t2m.main, "--dataset_name", "kit", "--gpu_id", -1, "--name", "t2m", "--res_name", "none", "--len_name",
             "len", "--time_steps", 3, "--quiet", "--ext", "file", "--text_path", "prompts.txt", "--repeat_times", 2,
             cwd=tmp_path)
    out = tmp_path / "generation" / "file"
    printed = capsys.readouterr().out
    assert "t2m/latest (checkpoints/kit)" in printed
    assert "base layer only" in printed
    for number, frames in ((0, 40), (1, 20)):
        for repeat in range(2):
            stem = f"sample{number}_repeat{repeat}_len{frames}"
            for suffix in ("", "_ik"):
                joints = np.load(out / "joints" / str(number) / f"{stem}{suffix}.npy")
                assert joints.shape == (frames, 21, 3) and joints.dtype == np.float32 and np.isfinite(joints).all()
                bvh = read_bvh(out / "animation" / str(number) / f"{stem}{suffix}.bvh")
                assert bvh.joints().shape[0] == frames
                assert (out / "animation" / str(number) / f"{stem}{suffix}.mp4").stat().st_size > 1000
    motions = data_of((out / "index.html").read_text())["motions"]
    assert [motion["caption"] for motion in motions] == ["a person walks forward"] * 2 + ["a person bows"] * 2
    listed = {out / path for motion in motions for paths in motion["files"].values() for path in paths}
    told = {out / "joints" / file for file in ("0/sample0_repeat0_len40.txt", "1/sample1_repeat1_len20.txt")}
    assert [path.read_text() for path in sorted(told)] == ["a person walks forward\n", "a person bows\n"]
    written = {path for path in out.rglob("*") if path.is_file()}
    assert listed == {path for path in written if path.suffix != ".txt"} - {out / "index.html"}


WINDOW = 49
QUICK = Sampling(time_steps=2)


@pytest.fixture(scope="module")
def editor(toy_models: Path) -> MotionEditor:
    return MotionEditor(load_text_to_motion("t2m", None, dataset_spec("t2m"), toy_models, res_name="none")[0], WINDOW)


@pytest.fixture(scope="module")
def source() -> np.ndarray:
    return joints_to_features(walking(122), T2M).numpy()  # 121 rows: 30 tokens and a frame


def test_outside_of_a_part_a_motion_stays_as_it_was(editor: MotionEditor, source: np.ndarray) -> None:
    edited = editor.edit_features(source, [Part(10, 20, "a person bows"), Part(25, 27, "a person bows")], 1, QUICK)
    assert edited.shape == (120, 263)
    outside = np.r_[0:40, 80:100, 108:120]
    np.testing.assert_array_equal(edited[outside], source[outside])
    assert np.abs(edited[55:65] - source[55:65]).max() > 0.01
    longer = editor.edit_features(source, [Part(30, 70, "a person walks")], 1, QUICK)
    assert longer.shape == (280, 263)
    np.testing.assert_array_equal(longer[:120], source[:120])


def test_parts_that_are_empty_overlap_or_leave_a_gap_are_refused(editor: MotionEditor, source: np.ndarray) -> None:
    for parts in ([Part(4, 4, "a")], [Part(2, 8, "a"), Part(7, 9, "a")], [Part(33, 40, "a")]):
        with pytest.raises(ValueError, match="token"):
            editor.edit(editor.encode(source), parts, 1, QUICK)


@pytest.mark.parametrize(("total", "first", "stop"), [(80, 0, 80), (150, 60, 100), (200, 30, 170), (60, 55, 60)])
def test_windows_fill_a_part_and_show_what_is_beside_it(total: int, first: int, stop: int) -> None:
    unknown = torch.zeros(total, dtype=torch.bool)
    unknown[first:stop] = True
    part, begun = Part(first, stop, "a"), first
    while unknown.any():
        window = next_window(unknown, part, WINDOW)
        assert window.first == begun
        assert 0 < window.stop - window.start <= WINDOW
        assert window.first - window.start >= min(CONTEXT, begun)
        if window.last == stop:
            assert window.stop - window.last >= min(CONTEXT, total - stop)
        unknown[window.first:window.last] = False
        begun = window.last
    assert begun == stop


def test_splicing_leaves_no_jump() -> None:
    """Two adjacent constants are blended over the length of the fade."""
    unknown = np.zeros(100, bool)
    unknown[30:70] = True
    spliced = splice(np.zeros((100, 1)), np.ones((100, 1)), unknown)[:, 0]
    assert (spliced[~unknown] == 0).all() and (spliced[30 + FADE:70 - FADE] == 1).all()
    assert np.abs(np.diff(spliced)).max() < 2 / FADE
    grown = splice(np.zeros((30, 1)), np.ones((50, 1)), np.arange(50) >= 30)[:, 0]
    assert (grown[:30] == 0).all() and grown[-1] == 1
    assert np.abs(np.diff(grown)).max() < 2 / 6 + 0.1


def test_sections_are_shares_or_tokens() -> None:
    assert section("0.3,0.6").tokens(40) == (12, 24)
    assert section("20,40").tokens(30) == (20, 40)
    assert section("0.0,1.0") == Section(0.0, 1.0, True)
    for wrong in ("20", "a,b", "0.6,0.3", "0.5,1.5", "-1,3"):
        with pytest.raises(InputError, match="mask_edit_section"):
            parse_edit_options(["--source_motion", "a.npy", "--text_prompt", "a", f"--mask_edit_section={wrong}"])
    for wrong in ("0.3,0.301", "50,60"):
        with pytest.raises(InputError, match="of a motion of 40 tokens"):
            section(wrong).tokens(40)


@pytest.fixture(scope="module")
def exported(toy_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    run_here(export_onnx.main, "--checkpoints_dir", toy_models, "--name", "t2m", "--res_name", "res", cwd=folder)
    return folder


def test_a_seed_gives_the_same_motion_without_torch(exported: Path, toy_pipeline: TextToMotion) -> None:
    text, frames, seed = "A person waves, with the left hand!", 66, 2**33 + 5
    run_script("prepare/generate_onnx.py", "onnx", text, frames, "--seed", seed, "--out", "motion.npy", cwd=exported,
               options=WITHOUT_TORCH)
    made = np.load(exported / "motion.npy")
    expected, other = toy_pipeline.generate([Sample(text, seed, frames), Sample(text, seed + 1, frames)])
    assert made.shape == expected.shape == (64, 22, 3)
    np.testing.assert_allclose(made, expected, atol=1e-4)
    assert np.abs(made - other).max() > 1e-2


def test_every_setting_of_sampling_counts_without_torch(exported: Path, toy_pipeline: TextToMotion) -> None:
    from prepare.generate_onnx import Generator

    sample = Sample("a person waves", 7, 64)
    generator = Generator(exported / "onnx")
    usual = toy_pipeline.generate([sample])[0]
    # The logits of toy models are nearly equal, so they decide over the noise only at a low temperature.
    greedy = {"temperature": 1e-6, "cond_scale": 9.0}
    for how in ({"res_temperature": 1e-6, "res_cond_scale": 9.0}, {"topkr": 0.0}, greedy, greedy | {"text_noise": 1e3}):
        expected = toy_pipeline.generate([sample], toy_pipeline.sampling.changed(how))[0]
        np.testing.assert_allclose(generator(sample.text, sample.m_len, sample.seed, **how), expected, atol=1e-4)
        assert np.abs(expected - usual).max() > 1e-2, how
        usual = expected if how is greedy else usual
