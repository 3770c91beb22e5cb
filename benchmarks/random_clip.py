"""A folder in, a tiny CLIP with random weights in it out: what `mmdiff preprocess --clip` reads, without a download.

    python benchmarks/random_clip.py OUT

It names nothing right; it has every part that a real one has. Less than 1 MB, and fast.
"""

import sys
from pathlib import Path


def save_random_clip(folder: str | Path, seed: int = 0) -> Path:
    """Saves a CLIP of two layers a side, 64 wide, with patches of 16 pixels, and its tokenizer and image processor."""
    import torch
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = list(bytes_to_unicode().values())
    tokens = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={token: number for number, token in enumerate(tokens)}, merges=[])
    layers = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    layers["projection_dim"] = 32
    ends = {"bos_token_id": len(tokens) - 2, "eos_token_id": len(tokens) - 1, "pad_token_id": len(tokens) - 1}
    config = CLIPConfig(
        text_config=layers | ends | {"vocab_size": len(tokens), "max_position_embeddings": 77},
        vision_config=layers | {"image_size": 64, "patch_size": 16},
        projection_dim=32,
        initializer_factor=10.0,  # CLIP begins with weights so small that all patches look alike
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = CLIPModel(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessor().save_pretrained(folder)
    return Path(folder)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    print(save_random_clip(sys.argv[1]))
