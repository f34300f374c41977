"""Networks for benchmarks: the bundled ones, or the paper's sizes with random weights."""
import torch

from data.specs import dataset_spec
from models.config import MaskTransformerConfig, ResidualTransformerConfig
from models.lamp.bert import WordPieces
from models.lamp.qformer import QFormerConfig
from models.text_to_motion import TextToMotion
from models.transformers.mask_transformer import LaMPMaskTransformer, ReleasedText
from models.transformers.residual import ResidualTransformer
from models.vq.model import RVQVAE, HumanVQVAE, VQConfig
from storage.checkpoint import find_model_dir
from storage.load import load_text_to_motion
from storage.load_lamp import BUNDLED_LAMP, load_tokenizer

SPEC = dataset_spec("t2m")
CHECKPOINTS = "checkpoints"


def make_pipeline(sizes: str, device: torch.device) -> TextToMotion:
    """Pipeline of the ``bundled`` models, or of ``published`` sizes: LaMP's masked transformer (8 layers, width 512)
    and Q-Former (12 layers, width 768), MoMask's residual transformer (8 layers, width 384) and its tokenizer.
    """
    if sizes == "bundled":
        return load_text_to_motion("t2m_demo", "len_demo", SPEC, CHECKPOINTS, device)[0]
    torch.manual_seed(0)
    transformer = LaMPMaskTransformer(MaskTransformerConfig(attention="additive"), QFormerConfig())
    residual = ResidualTransformer(ResidualTransformerConfig(latent_dim=384, n_heads=6))
    for network in (transformer, residual):
        network.to(device).eval().requires_grad_(False)
    pieces = WordPieces(find_model_dir(BUNDLED_LAMP, SPEC.name, CHECKPOINTS))
    return TextToMotion(make_tokenizer(sizes, device), lambda features: features, transformer,
                        ReleasedText(transformer, pieces), SPEC.skeleton, residual=residual)


def make_tokenizer(sizes: str, device: torch.device) -> HumanVQVAE | RVQVAE:
    """The bundled tokenizer, or one of MoMask's size: six codebooks of 512 codes, width 512."""
    if sizes == "bundled":
        return load_tokenizer("vq_demo", SPEC, CHECKPOINTS, device).model
    model = RVQVAE(VQConfig(dim_pose=SPEC.dim_pose))
    for quantizer in model.quantizers:
        quantizer.codebook.normal_()
    return model.to(device).eval().requires_grad_(False)
