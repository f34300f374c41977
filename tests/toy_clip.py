"""A randomly initialised CLIP text model with its tokenizer, in the Hugging Face layout."""
import json
from pathlib import Path

import torch
from safetensors.torch import save_file

LONGEST = 12  # tokens of a text
LETTERS = [chr(code) for code in range(ord("a"), ord("z") + 1)]
VOCABULARY = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "wa", "lk</w>", "walk</w>", "<|startoftext|>",
              "<|endoftext|>"]


def make_clip(folder: Path, width: int = 10) -> Path:
    """Write the model with text features of width ``width``."""
    import transformers

    folder.mkdir(parents=True, exist_ok=True)
    ids = {piece: number for number, piece in enumerate(VOCABULARY)}
    (folder / "vocab.json").write_text(json.dumps(ids))
    (folder / "merges.txt").write_text("#version: 0.2\nw a\nl k</w>\nwa lk</w>\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer"}))
    end = ids["<|endoftext|>"]
    config = transformers.CLIPTextConfig(
        vocab_size=len(ids), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=LONGEST, projection_dim=width, bos_token_id=end - 1, eos_token_id=end, pad_token_id=end)
    torch.manual_seed(0)
    model = transformers.CLIPTextModelWithProjection(config)
    for parameter in model.parameters():  # large weights, so that every word matters
        torch.nn.init.normal_(parameter, std=0.3)
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(folder)
    return folder
