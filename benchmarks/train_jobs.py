"""Training steps of every stage on random batches, for benchmarks."""
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from data.dataset import MAX_MOTION_LENGTH, MAX_TOKENS, UNIT_LENGTH, dataset_spec
from models.config import EvaluatorConfig, MaskTransformerConfig, ResidualTransformerConfig
from models.evaluator import Evaluator, matching_loss
from models.lamp.bert import WordPieces
from models.lamp.features import LaMPConfig
from models.lamp.lamp import LaMP
from models.lamp.qformer import QFormerConfig
from models.m2t import IGNORED, MotionPrefix
from models.text_to_motion import LengthEstimator, TextToMotion
from models.transformers.mask_transformer import LaMPMaskTransformer, MaskTransformer, ReleasedText
from models.transformers.residual import ResidualTransformer
from models.vq.model import RVQVAE, VQConfig, build_tokenizer, tokenizer_loss
from storage.checkpoint import find_model_dir
from storage.generation import BUNDLED_LAMP, load_text_to_motion

JOINTS, FEATURES = 22, 263
VQ_LOSS = "l1_smooth", 0.5, 0.02  # kind of reconstruction loss, weight of positions, weight of the commitment loss
TEXT = 32            # maximum caption length in word pieces
CAPTION = 24         # maximum caption length of the captioning model, in tokens
WORDS, CLASSES = 22, 15  # maximum caption length of the evaluator in words, and parts of speech

Loss = Callable[[], Tensor]


@dataclass(frozen=True)
class Sizes:
    """Sizes of the networks of all stages, by default the published ones."""

    vq: VQConfig = VQConfig()
    qformer: QFormerConfig = QFormerConfig()
    embed_dim: int = 512
    t2m: MaskTransformerConfig = MaskTransformerConfig(
        latent_dim=384, n_heads=6, n_layers=8, ff_size=1024)
    res: ResidualTransformerConfig = ResidualTransformerConfig(
        latent_dim=384, n_heads=6, n_layers=8, ff_size=1024)
    evaluator: EvaluatorConfig = EvaluatorConfig()
    gpt: tuple[int, int, int] = (12, 1024, 16)  # layers, width, heads
    vocab: int = 30523


PUBLISHED = Sizes()
BUNDLED = Sizes(
    VQConfig(code_dim=256, output_emb_width=256, width=256),
    QFormerConfig(hidden=384, layers=6, intermediate=1536, encoder_width=512, attention_dropout=0.0), 256,
    MaskTransformerConfig(code_dim=256, cond_dim=768, latent_dim=384, n_heads=6, n_layers=8, ff_size=1024,
                          attention="full"),
    ResidualTransformerConfig(code_dim=256, cond_dim=768, latent_dim=256, n_heads=4, n_layers=6, ff_size=768),
    EvaluatorConfig(dim_movement_enc_hidden=256, dim_movement_latent=256, dim_motion_hidden=256, dim_text_hidden=256,
                    dim_coemb_hidden=256), (4, 256, 4))


TOY = Sizes(
    VQConfig(code_dim=8, output_emb_width=8, width=8, depth=1, nb_code=16, num_quantizers=2),
    QFormerConfig(hidden=16, layers=2, heads=2, intermediate=32, vocab=41, encoder_width=12), 8,
    MaskTransformerConfig(16, 8, 16, 16, 2, 1, 32), ResidualTransformerConfig(16, 8, 16, 16, 2, 1, 32),
    EvaluatorConfig(263, 16, 16, 6, 15, 16, 16, 8), (1, 16, 2), 41)


@dataclass(frozen=True)
class StageJob:
    """A network in training mode, with its loss on one batch."""

    model: nn.Module
    loss: Loss
    generator: torch.Generator  # for all random numbers except dropout

    def forward_backward(self) -> Tensor:
        """Compute the loss and its gradients."""
        self.model.zero_grad(set_to_none=True)
        loss = self.loss()
        loss.backward()
        return loss

    def step(self, half: bool = False) -> Callable[[], None]:
        """Return a function that runs a training step with AdamW, in bfloat16 if ``half``."""
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        optimizer = AdamW(trained, lr=1e-5, fused=True)

        def run() -> None:
            with torch.autocast(trained[0].device.type, torch.bfloat16, enabled=half):
                self.forward_backward()
            optimizer.step()

        return run


def stage_jobs(sizes: Sizes, device: torch.device | str = "cpu") -> Mapping[str, Callable[[int], StageJob]]:
    """Return job factories, keyed by stage name. Each takes the batch size and builds the network when called."""
    builder = _Builder(sizes, torch.device(device))
    return {"vq": builder.vq, "lamp": builder.lamp, "t2m": builder.t2m, "res": builder.res, "len": builder.length,
            "evaluator": builder.evaluator, "m2t": builder.m2t}


class _Builder:
    """Builder of the networks and random batches of all stages."""

    def __init__(self, sizes: Sizes, device: torch.device) -> None:
        self.sizes, self.device = sizes, device
        self.generator = torch.Generator().manual_seed(0)

    def vq(self, batch: int) -> StageJob:
        model = build_tokenizer(self.sizes.vq).to(self.device).train()
        motion = self._randn(batch, 64, FEATURES)
        return self._job(model, lambda: tokenizer_loss(model(motion, self.generator), motion, JOINTS, *VQ_LOSS).total)

    def lamp(self, batch: int) -> StageJob:
        config = LaMPConfig(self.sizes.qformer, replace(self.sizes.vq, num_quantizers=1), self.sizes.embed_dim)
        model = LaMP(config, build_tokenizer(config.vq)).to(self.device).train()
        motion, lengths = self._motion(batch)
        ids, mask = self._words(batch, TEXT, config.qformer.vocab)
        return self._job(model, lambda: model(motion, ids, mask, lengths, generator=self.generator).loss)

    def t2m(self, batch: int) -> StageJob:
        model = MaskTransformer(self.sizes.t2m).to(self.device).train()
        tokens, lengths = self._tokens(batch, 1)
        cond = self._randn(batch, self.sizes.t2m.cond_dim)
        return self._job(model, lambda: model.loss(tokens[..., 0], cond, lengths, self.generator).loss)

    def res(self, batch: int) -> StageJob:
        model = ResidualTransformer(self.sizes.res).to(self.device).train()
        tokens, lengths = self._tokens(batch, self.sizes.res.num_quantizers)
        cond = self._randn(batch, self.sizes.res.cond_dim)
        return self._job(model, lambda: model.loss(tokens, cond, lengths, self.generator).loss)

    def length(self, batch: int) -> StageJob:
        model = LengthEstimator(self.sizes.t2m.cond_dim, MAX_TOKENS + 1).to(self.device).train()
        features, lengths = self._randn(batch, self.sizes.t2m.cond_dim), self._tokens(batch, 1)[1]
        return self._job(model, lambda: model.loss(features, lengths))

    def evaluator(self, batch: int) -> StageJob:
        model = Evaluator(self.sizes.evaluator).to(self.device).train()
        model.movement_encoder.requires_grad_(False)
        motion, lengths = self._motion(batch)
        words = self._randn(batch, WORDS, self.sizes.evaluator.dim_word)
        classes = torch.zeros(batch, WORDS, CLASSES, device=self.device)
        counts = torch.full((batch,), WORDS)
        return self._job(model, lambda: matching_loss(
            model.encode_text(words, classes, counts), model.encode_motion(motion, lengths), 10.0, 1).total)

    def m2t(self, batch: int) -> StageJob:
        from transformers import GPT2Config, GPT2LMHeadModel  # slow to import

        layers, width, heads = self.sizes.gpt
        prefix = MotionPrefix(LaMPConfig(self.sizes.qformer, replace(self.sizes.vq, num_quantizers=1)), width)
        prefix.requires_grad_(False)
        prefix.opt_proj.requires_grad_(True)
        gpt = GPT2LMHeadModel(GPT2Config(
            vocab_size=self.sizes.vocab, n_positions=MAX_TOKENS + 51, n_embd=width, n_layer=layers, n_head=heads,
            attn_pdrop=0.0, bos_token_id=None, eos_token_id=None))
        model = nn.ModuleDict({"prefix": prefix, "gpt": gpt}).to(self.device).train()
        motion, _ = self._motion(batch)
        ids, mask = self._words(batch, CAPTION + 1, self.sizes.vocab)
        targets = ids[:, 1:].masked_fill(~mask[:, 1:], IGNORED)

        def loss() -> Tensor:
            given = torch.cat([prefix(motion), gpt.get_input_embeddings()(ids[:, :-1])], 1)
            logits = gpt(inputs_embeds=given, use_cache=False, logits_to_keep=CAPTION).logits.float()
            return nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)

        return self._job(model, loss)

    def _job(self, model: nn.Module, loss: Loss) -> StageJob:
        return StageJob(model, loss, self.generator)

    def _randn(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator).to(self.device)

    def _motion(self, batch: int) -> tuple[Tensor, Tensor]:
        """Return random motion (b, 196, d) and lengths (b,)."""
        return self._randn(batch, MAX_MOTION_LENGTH, FEATURES), UNIT_LENGTH * self._lengths(batch, MAX_TOKENS)

    def _tokens(self, batch: int, layers: int) -> tuple[Tensor, Tensor]:
        tokens = torch.randint(self.sizes.vq.nb_code, (batch, MAX_TOKENS, layers), generator=self.generator)
        return tokens.to(self.device), self._lengths(batch, MAX_TOKENS)

    def _words(self, batch: int, longest: int, vocab: int) -> tuple[Tensor, Tensor]:
        ids = torch.randint(1, vocab - 1, (batch, longest), generator=self.generator).to(self.device)
        return ids, torch.arange(longest, device=self.device) < self._lengths(batch, longest)[:, None]

    def _lengths(self, batch: int, longest: int) -> Tensor:
        """Return lengths (b,), evenly spaced from half of ``longest`` to ``longest``."""
        return torch.linspace(longest / 2, longest, batch).round().long().to(self.device)


SPEC = dataset_spec("t2m")
CHECKPOINTS = "checkpoints"
TEXTS = [f"a person walks forward {number} steps and then turns around to sit down" for number in range(64)]


def make_pipeline(sizes: str, device: torch.device) -> TextToMotion:
    """Load the pipeline of the ``bundled`` models, or build one of ``published`` sizes with random weights.

    The latter has LaMP's masked transformer (8 layers, width 512) and Q-Former (12 layers, width 768), and MoMask's
    residual transformer (8 layers, width 384) and tokenizer (six codebooks of 512 codes, width 512).
    """
    if sizes == "bundled":
        return load_text_to_motion("t2m_demo", "len_demo", SPEC, CHECKPOINTS, device)[0]
    torch.manual_seed(0)
    transformer = LaMPMaskTransformer(MaskTransformerConfig(attention="additive"), QFormerConfig())
    residual = ResidualTransformer(ResidualTransformerConfig(latent_dim=384, n_heads=6))
    tokenizer = RVQVAE(VQConfig(dim_pose=SPEC.dim_pose))
    for quantizer in tokenizer.quantizers:
        quantizer.codebook.normal_()
    for network in (transformer, residual, tokenizer):
        network.to(device).eval().requires_grad_(False)
    pieces = WordPieces(find_model_dir(BUNDLED_LAMP, SPEC.name, CHECKPOINTS))
    return TextToMotion(tokenizer, lambda features: features, transformer, ReleasedText(transformer, pieces),
                        SPEC.skeleton, residual=residual)
