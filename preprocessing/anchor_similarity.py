"""Frames and anchor words in, the CLIP cosine of every place of every frame with the nearest anchor out.

CLIP was trained on whole images, and what its last layer gives for single patches is noise: often the background
resembles the text more than what the text names (CLIP Surgery, arXiv 2304.05653). MaskCLIP (arXiv 2112.01071) takes
another way through the same weights: in the last layer no patch looks at another, each passes on its own value. The
rest is as it was. The residuals and the MLP of that layer stay, as in MaskCLIP's released code for vision transformers,
then come the final layer norm and the projection. Its refinements, key smoothing and prompt denoising, need classes
that compete, and are left out.

Frames go in with as many patches as the records store, 18 x 32, with interpolated position embeddings (as MaskCLIP,
which feeds 512 pixels to a model of 224). So a 16:9 frame keeps its shape, and every stored number is one patch's own;
squashed into CLIP's square it would be less than half as fine from side to side.
"""

import json
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8

from mmdiff.data.records import SIMILARITY_GRID
from preprocessing.problems import PreprocessError
from preprocessing.saved_models import CONFIG, WEIGHTS, find_folder, names_of_weights

PROMPT = "a photo of a {}"  # CLIP's own for names of things (arXiv 2103.00020)
TOKENIZER = (("tokenizer.json",), ("vocab.json", "merges.txt"))  # either will do
WANTED = (CONFIG, *WEIGHTS, "*.json", "merges.txt")  # of a model of the hub; never what would have to be unpickled
PROJECTIONS = {"visual_projection.weight", "text_projection.weight"}  # CLIP's alone: its halves have neither


def find_model(name: str) -> Path:
    """The folder of a CLIP model that transformers saved; that of a hub id is fetched, or found in the cache.

    Only looks at its files. Raises PreprocessError where there is none, or where it is no CLIP in safetensors.
    """
    refusal = f"clip: {name} is no folder; give one that holds a CLIP model, or a hub id"
    folder = find_folder(name, WANTED, f"clip: {name}", refusal)
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        kind = config["model_type"]
    except (OSError, ValueError, LookupError, TypeError):
        raise PreprocessError(f"clip: {name} holds no {CONFIG} of a model that transformers saved") from None
    if kind != "clip":
        raise PreprocessError(f"clip: {name} is a model of type {kind!r} and must be one of type 'clip'")
    if not any(all((folder / file).is_file() for file in files) for files in TOKENIZER):
        raise PreprocessError(f"clip: {name} holds no tokenizer, neither tokenizer.json nor vocab.json and merges.txt")
    advice = "save it as safetensors first"
    held = names_of_weights(folder, f"clip: {name}", advice, lambda file: f"clip: {file} of {name}")
    if lacking := PROJECTIONS - held:
        raise PreprocessError(f"clip: the weights of {name} lack {', '.join(sorted(lacking))}: half a CLIP does not do")
    return folder


class AnchorSimilarity:
    """A CLIP model and its view of some anchors; on a GPU where torch has one.

    Raises PreprocessError where the model cannot be built, or an anchor is longer than it reads.
    """

    def __init__(self, folder: Path, anchors: tuple[str, ...]):
        import torch
        import transformers

        transformers.utils.logging.disable_progress_bar()  # The caller shows one bar.
        try:
            model, told = transformers.CLIPModel.from_pretrained(
                folder, use_safetensors=True, dtype=torch.float32, output_loading_info=True
            )
            self.tokenizer = transformers.CLIPTokenizer.from_pretrained(folder)
            self.processor = _image_processor(folder)
        except Exception as error:  # Files are anybody's, and transformers raises whatever it stumbles over.
            raise PreprocessError(f"clip: {folder.name} cannot be built ({error!r}); fetch it again") from error
        if told["missing_keys"]:
            lacking = sorted(told["missing_keys"])
            raise PreprocessError(f"clip: the weights of {folder.name} lack {lacking[0]} and {len(lacking) - 1} more")
        self.name = folder.name
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = model.eval().to(self.device)
        self.texts = self.text_features(anchors)

    def __call__(self, frames: list[UInt8[np.ndarray, "_ _ 3"]]) -> Float32[np.ndarray, "f 18 32"]:
        """The highest cosine of each place with any of the anchors, -1..1; frames of any sizes, RGB."""
        import torch
        from torch.nn.functional import normalize

        with torch.inference_mode():
            patches = normalize(self.patch_features(self.pixels(frames)), dim=-1)
            cosines = (patches @ normalize(self.texts, dim=-1).T).amax(-1)
        if not cosines.isfinite().all():
            raise PreprocessError(f"clip: {self.name} gives what is no number; its weights are damaged: fetch it again")
        return cosines.clamp(-1, 1).cpu().numpy().reshape(-1, *SIMILARITY_GRID)

    def text_features(self, anchors: tuple[str, ...]):
        """A tensor [anchors, projection], not normalised."""
        import torch

        tokens = self.tokenizer([PROMPT.format(anchor) for anchor in anchors], padding=True, return_tensors="pt")
        longest = self.model.config.text_config.max_position_embeddings
        for anchor, mask in zip(anchors, tokens["attention_mask"], strict=True):
            if mask.sum() > longest:
                raise PreprocessError(f"clip: the anchor {anchor[:40]!r} has more than the {longest} tokens CLIP reads")
        with torch.inference_mode():
            return self.model.get_text_features(**tokens.to(self.device)).pooler_output

    def pixels(self, frames: list[UInt8[np.ndarray, "_ _ 3"]]):
        """A tensor [f, 3, h, w]: resized to 18 x 32 patches, and with the mean and deviation that the model wants."""
        side = self.model.config.vision_config.patch_size
        size = dict(zip(("height", "width"), (count * side for count in SIMILARITY_GRID), strict=True))
        return self.processor(
            frames,
            size=size,
            do_resize=True,
            do_center_crop=False,
            input_data_format="channels_last",
            return_tensors="pt",
        )["pixel_values"].to(self.device)

    def patch_features(self, pixels):
        """A tensor [f, patches, projection], not normalised: MaskCLIP's way through the vision encoder."""
        vision = self.model.vision_model
        seen = vision(pixels, interpolate_pos_encoding=True, output_hidden_states=True).hidden_states
        last, patches = vision.encoder.layers[-1], seen[-2][:, 1:]  # what enters the last layer, without CLS
        values = last.self_attn.v_proj(last.layer_norm1(patches))
        patches = patches + last.self_attn.out_proj(values)
        patches = patches + last.mlp(last.layer_norm2(patches))
        return self.model.visual_projection(vision.post_layernorm(patches))


def _image_processor(folder: Path):
    """The model's own, or CLIP's where it was saved without one."""
    import transformers

    saved = any((folder / name).is_file() for name in ("preprocessor_config.json", "processor_config.json"))
    return transformers.CLIPImageProcessor.from_pretrained(folder) if saved else transformers.CLIPImageProcessor()
