"""Small parity fixtures from the project's own models, with settings that no published model has.

Each names settings apart from the defaults wherever shapes do not tell them, so that a check that does not read them
computes something else.
"""
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.config import EvaluatorConfig, MaskTransformerConfig, ResidualTransformerConfig
from models.evaluator import Evaluator, published_order
from models.lamp.features import LaMPConfig
from models.lamp.lamp import LaMP, Negatives
from models.lamp.objectives import similarity
from models.lamp.qformer import TIED_NAMES, QFormer, QFormerConfig
from models.m2t import MotionPrefix, MotionPrefixConfig
from models.text_to_motion import LengthEstimator
from models.transformers.mask_transformer import LaMPMaskTransformer, MaskTransformer
from models.transformers.residual import ResidualTransformer
from models.transformers.trunk import sample_generators, token_loss
from models.vq.model import RVQVAE, HumanVQVAE, VQConfig, tokenizer_loss
from models.vq.quantizer import EmaQuantizer
from tests.golden.fill import fill, fill_state_dict

FIXED = ("position_ids", *TIED_NAMES, "position_enc.pe")
QFORMER = QFormerConfig(hidden=24, layers=3, heads=2, intermediate=32, max_positions=20, vocab=40, encoder_width=20,
                        cross_attention_freq=2, num_query_tokens=6)
LENGTHS = torch.tensor([5, 7, 3])


@dataclass(frozen=True)
class Sample:
    """A fixture in memory."""

    manifest: dict[str, Any]
    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]
    wrong: dict[str, Any] = field(default_factory=dict)  # settings that must make the check fail, one at a time


def _sample(model: str, state: Mapping[str, Tensor], settings: dict[str, Any], inputs: Mapping[str, Tensor],
            outputs: Mapping[str, Tensor], wrong: Mapping[str, Any], **more: Any) -> Sample:
    manifest = {"model": model, "hyperparameters": settings, "fill": {"skip": list(FIXED)},
                "parameters": [[name, list(tensor.shape), str(tensor.dtype)] for name, tensor in state.items()], **more}
    arrays = [{name: torch.as_tensor(value).detach().numpy() for name, value in part.items()}
              for part in (inputs, outputs)]
    return Sample(manifest, *arrays, dict(wrong))


def _filled(model: nn.Module) -> nn.Module:
    fill_state_dict(model.state_dict(), FIXED)
    return model.eval()


def _normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _texts(rows: int, length: int) -> tuple[Tensor, Tensor]:
    """Word-piece ids and mask, the first row full."""
    ids = torch.randint(1, QFORMER.vocab - 1, (rows, length), generator=torch.Generator().manual_seed(1))
    mask = (torch.arange(length) < torch.tensor([length, length - 2, length - 3])[:rows, None]).long()
    return ids * mask, mask


def _losses(result: Any, motion: Tensor, joints: int) -> dict[str, Tensor]:
    losses = tokenizer_loss(result, motion, joints)
    return {"recon": result.motion, "commit_loss": result.commitment, "perplexity": result.perplexity,
            "loss_rec": losses.reconstruction, "loss_explicit": losses.local_positions, "loss_total": losses.total}


def human_vqvae() -> Sample:
    """For KIT, with layer norm, three downsampling stages and few codes; settings have the names of ``opt.txt``."""
    model = _filled(HumanVQVAE(VQConfig(
        dim_pose=251, nb_code=24, code_dim=12, output_emb_width=12, width=16, down_t=3, depth=2,
        dilation_growth_rate=2, vq_act="gelu", vq_norm="LN")))
    motion = _normal(2, 48, 251)
    ids, given = model.encode(motion), torch.tensor([3, 20, 7, 0])
    outputs = {
        "ids": ids, "encoder_out": model.vqvae.encoder(motion), "decoded": model.forward_decoder(given[None]),
        "decoded_two_rows": model.forward_decoder(ids[:, :2].reshape(1, -1)), **_losses(model(motion), motion, 21)}
    settings = {"dataset": "kit", "dilation_growth_rate": 2, "vq_act": "gelu", "vq_norm": "LN", "joints": 21}
    return _sample("LaMP HumanVQVAE, KIT", model.state_dict(), settings,
                   {"motion": motion, "decoder_ids": given}, outputs,
                   {"dilation_growth_rate": 3, "vq_act": "relu", "vq_norm": "BN", "joints": 20})


def rvqvae() -> Sample:
    """Three layers that share a codebook, with group norm."""
    model = _filled(RVQVAE(VQConfig(
        dim_pose=35, nb_code=16, code_dim=12, output_emb_width=12, width=32, down_t=1, depth=2, vq_act="silu",
        vq_norm="GN", num_quantizers=3, shared_codebook=True)))
    motion = _normal(2, 12, 35)
    ids = model.encode(motion)
    masked = ids.clone()
    masked[:, -2:] = -1
    outputs = {
        "code_idx": ids, "all_codes": model.quantizer.lookup(ids).transpose(2, 3)[:, :1],
        "encoder_out": model.encoder(motion), "decoded": model.forward_decoder(ids),
        "decoded_first1": model.forward_decoder(ids[..., :1]), "decoded_first2": model.forward_decoder(ids[..., :2]),
        "decoded_masked": model.forward_decoder(masked), **_losses(model(motion), motion, 3)}
    settings = {"activation": "silu", "norm": "GN", "num_quantizers": 3, "shared_codebook": True}
    return _sample("RVQVAE", model.state_dict(), settings, {"motion": motion}, outputs,
                   {"activation": "relu", "norm": "LN", "num_quantizers": 4, "shared_codebook": False})


def quantizer() -> Sample:
    """Two updates, with a faster average than the default."""
    model = EmaQuantizer(10, 6, mu=0.9, published=True).train()
    inputs = {f"x{step}": _normal(2, 6, 9, seed=step) for step in range(2)}
    outputs = {}
    for step in range(2):
        result = model(inputs[f"x{step}"])
        outputs |= {
            f"out{step}": result.latent, f"commit{step}": result.commitment, f"perplexity{step}": result.perplexity,
            f"codebook{step}": model.codebook.clone(), f"code_sum{step}": model.code_sum.clone(),
            f"code_count{step}": model.code_count.clone()}
    outputs["ids_after"] = model.eval()(inputs["x0"]).codes.flatten()
    return _sample("EMA quantizer of a VQ-VAE", model.state_dict(), {"mu": 0.9}, inputs, outputs, {"mu": 0.99})


def _token_inputs(codes: int, cond: int) -> dict[str, Tensor]:
    ids = torch.randint(codes, (3, 7), generator=torch.Generator().manual_seed(2))
    labels = torch.where(torch.arange(7) % 2 == 0, ids, codes)
    padding = torch.arange(7) >= LENGTHS[:, None]
    seen = torch.where(labels < codes, codes, ids).masked_fill(padding, codes + 1)
    return {"ids": seen, "cond": _normal(3, cond), "padding_mask": padding,
            "train_labels": labels.masked_fill(padding, codes)}


def _token_outputs(model: MaskTransformer, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    ids, cond, padding = given["ids"], given["cond"], given["padding_mask"]
    logits = model(ids, cond, padding)
    result = token_loss(logits, given["train_labels"], model.mask_id)
    return {"logits": logits.transpose(1, 2),
            "logits_force_mask": model(ids, torch.zeros_like(cond), padding).transpose(1, 2),
            "logits_cfg2.5": model.guided_logits(ids, cond, padding, 2.5).transpose(1, 2),
            "train_loss": result.loss, "train_acc": result.accuracy, "train_pred": result.predictions}


def _generated(model: MaskTransformer, cond: Tensor, padding_value: int, **settings: Any) -> dict[str, Tensor]:
    best = 1 - 0.5 / model.config.num_tokens
    result = model.generate(cond, LENGTHS.tolist(), sample_generators(range(3)), topk_filter_thres=best,
                            padding_value=padding_value, **settings)
    return {"gen0_ids": result.ids, "gen0_steps": result.steps}


def lamp_mask_transformer() -> Sample:
    """Two layers of four narrow heads over 16 codes, and a Q-Former with two heads."""
    config = MaskTransformerConfig(num_tokens=16, code_dim=10, cond_dim=QFORMER.hidden, latent_dim=16, n_heads=4,
                                   n_layers=2, ff_size=20, attention="additive")
    model = _filled(LaMPMaskTransformer(config, QFORMER))
    ids, mask = _texts(3, 9)
    text = model.text_condition(ids, mask)
    given = _token_inputs(16, QFORMER.hidden)
    causal = MaskTransformer(MaskTransformerConfig(**{**vars(config), "attention": "causal"})).eval()
    causal.load_state_dict(model.state_dict(), strict=False)
    generation = {"timesteps": 5, "cond_scale": 2.5, "temperature": 0.7, "gumbel": False}
    outputs = {
        **_token_outputs(model, given), "logits_causal": causal(given["ids"], given["cond"]).transpose(1, 2),
        "text_hidden_first3": text.hidden[:, :3], "text2former_first2": text.states[:, :2],
        "cond_from_text": text.cond, **_generated(model, text.cond, model.pad_id, **generation)}
    inputs = {**given, "prompt_input_ids": ids, "prompt_attention_mask": mask, "gen0_lens": LENGTHS}
    settings = {"heads": 4, "qformer": {"heads": 2}}
    return _sample("LaMP MaskTransformer", model.state_dict(), settings, inputs, outputs,
                   {"heads": 8, "qformer": {"heads": 4}}, generation=generation)


def momask_mask_transformer() -> Sample:
    """One wide layer, without guidance."""
    config = MaskTransformerConfig(num_tokens=20, code_dim=8, cond_dim=12, latent_dim=24, n_heads=3, n_layers=1,
                                   ff_size=20, attention="full")
    model = _filled(MaskTransformer(config))
    given, cond = _token_inputs(20, 12), _normal(3, 12, seed=4)
    generation = {"timesteps": 4, "cond_scale": 1, "temperature": 1, "gumbel": True}
    outputs = {**_token_outputs(model, given), **_generated(model, cond, -1, **generation)}
    return _sample("MoMask MaskTransformer", model.state_dict(), {"n_heads": 3},
                   {**given, "gen0_cond": cond, "gen0_lens": LENGTHS}, outputs, {"n_heads": 6}, generation=generation)


def residual_transformer(share_weight: bool) -> Sample:
    """Four layers of 18 codes."""
    config = ResidualTransformerConfig(num_tokens=18, code_dim=10, cond_dim=12, latent_dim=16, n_heads=2, n_layers=2,
                                       ff_size=20, num_quantizers=4, share_weight=share_weight, published=True)
    model = _filled(ResidualTransformer(config))
    codes, cond, padding = _normal(3, 7, 10), _normal(3, 12), torch.arange(7) >= LENGTHS[:, None]
    layers = torch.tensor([1, 3, 2])
    ids = torch.randint(18, (3, 7, 4), generator=torch.Generator().manual_seed(5))
    hidden = model(codes, layers, cond, padding)
    loss = model.loss(ids, cond, LENGTHS, torch.Generator(), layers)
    guided = model.guided_logits(codes, torch.full((3,), 3), cond, padding, 2.0)
    made = model.generate(ids[..., 0], cond, LENGTHS.tolist(), sample_generators(range(3)), cond_scale=3,
                          topk_filter_thres=1 - 0.5 / 19)
    inputs = {"motion_codes": codes, "cond": cond, "padding_mask": padding, "qids": layers, "train_ids": ids,
              "train_lens": LENGTHS, "gen0_base": ids[..., 0], "gen0_lens": LENGTHS, "gen0_cond": cond}
    outputs = {"hidden_out": hidden.transpose(1, 2), "logits": model.project(hidden, layers).transpose(1, 2),
               "logits_cfg2_q3": guided.transpose(1, 2), "train_loss": loss.loss, "train_acc": loss.accuracy,
               "gen0_ids": made}
    return _sample("MoMask ResidualTransformer", model.state_dict(), {"heads": 2}, inputs, outputs, {"heads": 4},
                   generation={"cond_scale": 3})


def qformer() -> Sample:
    """Heads 12 wide."""
    model = _filled(QFormer(QFORMER))
    ids, mask = _texts(2, 8)
    states, states_mask = _normal(2, 7, QFORMER.encoder_width), (torch.arange(7) < torch.tensor([[7], [4]])).long()
    queries = torch.from_numpy(fill("query_tokens", (1, 6, QFORMER.hidden)))
    query = model.query(queries, states, states_mask)
    decoder_ids = ids.clone()
    decoder_ids[:, 0] = QFORMER.vocab - 1
    logits = model.lm_logits(model.language_model(decoder_ids, mask, query.cache))
    outputs = {
        "query_tokens": queries, "text_hidden": model.text(ids, mask), "query_hidden": query.hidden,
        "joint_hidden": model.joint(queries, ids, mask, states, states_mask)[:, ::3],
        "past_key0": query.cache[0][0][:, :1], "past_value_last": query.cache[-1][1][:, :1],
        "decoder_input_ids": decoder_ids, "lm_logits": logits[..., ::7], "lm_logsumexp": logits.logsumexp(-1)}
    inputs = {"input_ids": ids, "attention_mask": mask, "encoder_states": states, "encoder_mask": states_mask}
    return _sample("Q-Former", model.state_dict(), {"heads": 2, "num_query_tokens": 6}, inputs, outputs,
                   {"num_query_tokens": 5})


VQ = VQConfig(dim_pose=35, nb_code=16, code_dim=12, output_emb_width=12, width=16, down_t=1, depth=1, num_quantizers=1)


def lamp() -> Sample:
    """Two frames per token, six queries."""
    model = _filled(LaMP(LaMPConfig(QFORMER, VQ, embed_dim=10, published=True), HumanVQVAE(VQ)))
    motion, (ids, mask) = _normal(3, 12, 35), _texts(3, 9)
    encoded = model.encode_motion(motion)
    chosen, other = (Negatives(torch.tensor(a), torch.tensor(b)) for a, b in (
        ([1, 2, 0], [2, 0, 1]), ([0, 2, 1], [1, 1, 2])))
    text, query = model.text_features(ids, mask), model.query_motion(encoded)
    cosines = similarity(text, model.motion_query_features(encoded))
    scaled = model.scaled(cosines)
    to_motion, to_text = (model.negative_probabilities(way, ids) for way in (scaled, scaled.T))
    result, second = model(encoded, ids, mask, negatives=chosen), model(encoded, ids, mask, negatives=other)
    result.loss.backward()
    gradients = {"query": model.query_tokens, "motion_projection": model.motion_projection,
                 "text_projection": model.text_projection, "motion_cls": model.motion_cls.weight,
                 "word_emb": model.Qformer.bert.embeddings.word_embeddings.weight}
    outputs = {
        "motion_ids": encoded.ids, "text_feat": text, "motion_feat": model.motion_features(encoded),
        "retrieval_text": model.text_embedding(ids, mask), "retrieval_motion": model.motion_embedding(encoded),
        "sim_m2t": cosines.T, "weights_t2m": to_motion, "weights_m2t": to_text,
        "ptm_logits": model.matching(model.motion_states(encoded), None, ids, mask, chosen)[0],
        "gen_logits": model.generation_logits(model.word_states(ids), mask)[:, ::2],
        "lm_logsumexp": model.caption_logits(ids, mask, query).logsumexp(-1), "loss": result.loss,
        "loss_b": second.loss, "loss_ptm_b": second.losses["ptm"], "grad_temp": model.temp.grad,
        "grad_itm_bias": model.itm_head.bias.grad,
        **{f"loss_{name}": loss for name, loss in result.losses.items()},
        **{f"grad_{name}_norm": parameter.grad.norm() for name, parameter in gradients.items()}}
    inputs = {"motion": motion, "input_ids": ids, "attention_mask": mask, "neg_motion": chosen.motion,
              "neg_text": chosen.text, "neg_motion_b": other.motion, "neg_text_b": other.text}
    return _sample("LaMP pretraining", model.state_dict(), {"heads": 2}, inputs, outputs, {"heads": 4},
                   frozen_modules=["motion_encoder", "vq_model"])


def m2t_front() -> Sample:
    """With KIT's width."""
    vq = VQConfig(dim_pose=251, code_dim=12, output_emb_width=12, width=16, down_t=2, depth=1, num_quantizers=1)
    model = _filled(MotionPrefix(MotionPrefixConfig(QFORMER, vq, llm_width=14)))
    motion = _normal(2, 24, 251)
    states = model.motion_states(motion)
    outputs = {"motion_embeds": states[:, :4], "query_out": model.query_motion(states)[:, ::5],
               "llm_prefix": model(motion)[:, ::5]}
    return _sample("M2T front end", model.state_dict(), {"qformer_heads": 2}, {"motion": motion}, outputs,
                   {"qformer_heads": 3})


def length_estimator() -> Sample:
    """Two hidden layers."""
    model = _filled(LengthEstimator(20, 9, (16, 12), leaky_slope=0.1))
    text = _normal(4, 20)
    return _sample("LengthEstimator", model.state_dict(), {"leaky_slope": 0.1}, {"text_emb": text},
                   {"logits": model(text)}, {"leaky_slope": 0.2})


def evaluator() -> Sample:
    """For KIT, with all widths different."""
    model = Evaluator(EvaluatorConfig(
        dim_pose=251, dim_movement_enc_hidden=10, dim_movement_latent=12, dim_word=14, dim_pos_ohot=5,
        dim_motion_hidden=16, dim_text_hidden=18, dim_coemb_hidden=8)).eval()
    for network in model.networks().values():
        _filled(network)
    m_lens, cap_lens = torch.tensor([16, 24, 16]), torch.tensor([7, 6, 4])
    motion = _normal(3, 24, 251) * (torch.arange(24) < m_lens[:, None])[..., None]
    words, classes = _normal(3, 7, 14), torch.eye(5)[torch.arange(21).view(3, 7) % 5]
    order = published_order(m_lens)
    motion_emb, text_emb = model.encode_motion(motion, m_lens), model.encode_text(words, classes, cap_lens)
    cut = torch.cat([model.encode_motion(motion[row:row + 1, :n], m_lens[row:row + 1]) for row, n in enumerate(m_lens)])
    inputs = {"motion": motion, "m_lens": m_lens, "word_emb": words, "pos_onehot": classes, "cap_lens": cap_lens}
    outputs = {"movements": model.movements(motion[:1]), "motion_emb": motion_emb, "text_emb": text_emb,
               "align_idx": order, "wrapper_motion_emb": motion_emb[order], "wrapper_text_emb": text_emb[order],
               "motion_emb_truncated": cut}
    state = {f"{key}:{name}": tensor for key, part in model.checkpoint().items() for name, tensor in part.items()}
    return _sample("T2M evaluator", state, {}, inputs, outputs, {})


SAMPLES: dict[str, Callable[[], Sample]] = {
    "human_vqvae": human_vqvae, "rvqvae": rvqvae, "quantizer": quantizer,
    "lamp_mask_transformer": lamp_mask_transformer, "momask_mask_transformer": momask_mask_transformer,
    "residual_shared": lambda: residual_transformer(True), "residual_unshared": lambda: residual_transformer(False),
    "qformer": qformer, "lamp": lamp, "m2t_front": m2t_front, "length_estimator": length_estimator,
    "evaluator": evaluator,
}
