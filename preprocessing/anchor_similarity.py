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

import hashlib
import json
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8

from mmdiff.data.records import SIMILARITY_GRID
from preprocessing.problems import PreprocessError

PROMPT = "a photo of a {}"  # CLIP's own for names of things (arXiv 2103.00020)
CONFIG, WEIGHTS = "config.json", ("model.safetensors", "model-*-of-*.safetensors")
TOKENIZER = (("tokenizer.json",), ("vocab.json", "merges.txt"))  # either will do
WANTED = (CONFIG, *WEIGHTS, "*.json", "merges.txt")  # of a model of the hub; never what would have to be unpickled
PROJECTIONS = {"visual_projection.weight", "text_projection.weight"}  # CLIP's alone: its halves have neither


def find_model(name: str) -> Path:
    """The folder of a CLIP model that transformers saved; that of a hub id is fetched, or found in the cache.

    Only looks at its files. Raises PreprocessError where there is none, or where it is no CLIP in safetensors.
    """
    folder = _given(name)
    if not folder.is_dir():
        if folder.exists() or name.count("/") != 1 or name.startswith((".", "~", "/")):
            raise PreprocessError(f"clip: {name} is no folder; give one that holds a CLIP model, or a hub id")
        folder = _fetch(name)
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        kind = config["model_type"]
    except (OSError, ValueError, LookupError, TypeError):
        raise PreprocessError(f"clip: {name} holds no {CONFIG} of a model that transformers saved") from None
    if kind != "clip":
        raise PreprocessError(f"clip: {name} is a model of type {kind!r} and must be one of type 'clip'")
    if not any(all((folder / file).is_file() for file in files) for files in TOKENIZER):
        raise PreprocessError(f"clip: {name} holds no tokenizer, neither tokenizer.json nor vocab.json and merges.txt")
    held = _names_of_weights(name, folder)
    if lacking := PROJECTIONS - held:
        raise PreprocessError(f"clip: the weights of {name} lack {', '.join(sorted(lacking))}: half a CLIP does not do")
    return folder


def _given(name: str) -> Path:
    try:
        return Path(name).expanduser()
    except RuntimeError:  # of a user that there is not
        return Path(name)


def _fetch(name: str) -> Path:
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(name, allow_patterns=list(WANTED)))
    except Exception as error:  # of the network, of the hub, of its cache: many kinds that share no base
        told = str(error).strip().splitlines() or [type(error).__name__]
        raise PreprocessError(f"clip: {name} is no folder, and the hub does not give it: {told[0]}") from error


def _weight_files(folder: Path) -> list[Path]:
    return sorted(path for pattern in WEIGHTS for path in folder.glob(pattern))


def _names_of_weights(name: str, folder: Path) -> set[str]:
    import safetensors

    files, held = _weight_files(folder), set()
    if not files:
        raise PreprocessError(
            f"clip: {name} holds no model.safetensors, and other formats, which can hide programs, are not read; "
            "save it as safetensors first"
        )
    for path in files:
        try:
            with safetensors.safe_open(path, framework="numpy") as file:
                held |= set(file.keys())
        except (OSError, safetensors.SafetensorError) as error:
            raise PreprocessError(f"clip: {path.name} of {name} cannot be read ({error}); copy it again") from None
    return held


def digest_of_model(folder: Path) -> str:
    """A name for all that decides what a model says: its weights, its settings, its vocabulary."""
    found = hashlib.sha256()
    for path in sorted({*_weight_files(folder), *folder.glob("*.json"), *folder.glob("merges.txt")}):
        with path.open("rb") as file:
            found.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()} ".encode())
    return found.hexdigest()[:16]


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
