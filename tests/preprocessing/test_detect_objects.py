"""Every test runs transformers' own code on a tiny model with random weights, saved to a folder."""

import json
import shutil

import numpy as np
import pytest

from preprocessing.detect_people import build_detector, check_detector, digest_of_weights
from preprocessing.options import Options
from preprocessing.problems import PreprocessError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

LABELS = {0: "N/A", 1: "dog", 2: "toothbrush", 3: "Person", 4: "Human face"}
BACKBONE = {"embedding_size": 8, "hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "layer_type": "basic"}


def named(folder) -> str:
    return f"transformers:{folder}"


@pytest.fixture(scope="module")
def yolos(tmp_path_factory):
    """A folder as transformers saves it."""
    folder = tmp_path_factory.mktemp("models") / "yolos of our own"
    config = transformers.YolosConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=37,
        image_size=[64, 96],
        num_detection_tokens=12,
        initializer_range=0.2,  # so much that it sees the picture
        id2label=LABELS,
        label2id={label: number for number, label in LABELS.items()},
    )
    return _save(folder, transformers.YolosForObjectDetection, config)


def _save(folder, kind, config, size=None):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = kind(config)
        if hasattr(model, "vit"):  # YOLOS begins with queries that are all the same.
            torch.nn.init.normal_(model.vit.embeddings.detection_tokens)
        model.save_pretrained(folder)
    transformers.YolosImageProcessor(size=size or {"height": 64, "width": 96}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def frames():
    rng = np.random.default_rng(0)
    return [np.kron(rng.integers(0, 255, (6, 10, 3)), np.ones((15, 16, 1))).astype(np.uint8) for _ in range(3)]


@pytest.fixture
def copy(yolos, tmp_path):
    return shutil.copytree(yolos, tmp_path / "copy")


def test_a_folder_is_enough_and_labels_come_from_its_config(yolos, frames):
    detector = build_detector(Options(detector=named(yolos), threshold=0.05))
    found = [box for boxes in detector.boxes(frames) for box in boxes]
    kinds = {(box.label, box.part) for box in found}
    assert kinds <= {
        ("N/A", "object"),
        ("dog", "object"),
        ("toothbrush", "object"),
        ("person", "body"),
        ("person", "face"),
    }
    assert ("person", "body") in kinds and len(kinds) >= 3  # not only person
    assert all(box.source == "detected" and 0.05 <= box.score <= 1 for box in found)


def test_the_person_is_where_the_config_says_and_nowhere_else(yolos, copy, frames):
    config = json.loads((copy / "config.json").read_text())
    moved = {"0": "Person", "1": "dog", "2": "toothbrush", "3": "N/A", "4": "Human face"}
    (copy / "config.json").write_text(json.dumps(config | {"id2label": moved}))
    before, after = (
        [
            [(box.x0, box.y0) for box in boxes if box.part == "body"]
            for boxes in build_detector(Options(detector=named(folder), threshold=0.0)).boxes(frames)
        ]
        for folder in (yolos, copy)
    )
    others = [
        [(box.x0, box.y0) for box in boxes if box.label == "N/A"]
        for boxes in build_detector(Options(detector=named(copy), threshold=0.0)).boxes(frames)
    ]
    assert before == others and before != after  # the same queries, called otherwise


def test_boxes_are_what_the_model_says_in_pixels_of_the_frame(yolos, frames):
    model = transformers.YolosForObjectDetection.from_pretrained(yolos).eval()
    # The picture by hand: resized by PIL's bilinear filter, scaled to 0..1, ImageNet's mean and deviation.
    from PIL import Image

    picture = np.asarray(Image.fromarray(frames[0]).resize((96, 64), Image.BILINEAR), np.float32) / 255
    picture = (picture - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    with torch.inference_mode():
        said = model(torch.tensor(picture.transpose(2, 0, 1)[None], dtype=torch.float32))
    centre, size = said.pred_boxes[0, :, :2], said.pred_boxes[0, :, 2:]
    scores = said.logits[0].softmax(-1)[:, :-1].amax(-1)
    wanted = torch.cat([centre - size / 2, centre + size / 2], dim=1) * torch.tensor([160, 90, 160, 90])
    found = build_detector(Options(detector=named(yolos), threshold=0.0)).boxes(frames[:1])[0]
    np.testing.assert_allclose([(b.x0, b.y0, b.x1, b.y1) for b in found], wanted, atol=0.5)  # torch resizes, not PIL
    np.testing.assert_allclose([box.score for box in found], scores, atol=0.02)


def test_batches_find_what_single_frames_find(yolos, frames):
    detector = build_detector(Options(detector=named(yolos), threshold=0.0, batch=2))
    assert detector.frames_at_once == 1  # on a CPU
    alone = detector.boxes(frames)
    detector.frames_at_once = 2
    together = detector.boxes(frames)
    assert alone[0] != alone[1]
    for a, b in zip(alone, together, strict=True):
        assert [(box.label, box.part) for box in a] == [(box.label, box.part) for box in b]
        np.testing.assert_allclose([(x.x0, x.y0, x.score) for x in a], [(x.x0, x.y0, x.score) for x in b], atol=1e-3)


def test_less_sure_boxes_are_told_from_sure_ones(yolos, frames):
    detector = build_detector(Options(detector=named(yolos)))
    scores = [box.score for boxes in detector.boxes(frames) for box in boxes]
    assert detector.threshold == 0.5 and 0.1 <= min(scores) < 0.5 < max(scores)


def test_families_that_differ_in_their_inputs_are_read_the_same_way(tmp_path, frames):
    stages = {"out_features": ["stage2", "stage3", "stage4"]}
    labels = {"id2label": LABELS, "label2id": {label: number for number, label in LABELS.items()}}
    detr = transformers.DetrConfig(
        backbone_config=transformers.ResNetConfig(**BACKBONE, out_features=["stage4"]),
        backbone=None,
        use_timm_backbone=False,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        num_queries=5,
        **labels,
    )
    rt_detr = transformers.RTDetrConfig(
        backbone_config=transformers.RTDetrResNetConfig(**BACKBONE, **stages),
        encoder_in_channels=[8, 16, 16],
        encoder_hidden_dim=16,
        encoder_ffn_dim=16,
        encoder_attention_heads=2,
        d_model=16,
        decoder_in_channels=[16, 16, 16],
        decoder_ffn_dim=16,
        decoder_layers=1,
        decoder_attention_heads=2,
        num_queries=5,
        num_denoising=0,
        **labels,
    )
    for kind, config, processor in (
        ("DetrForObjectDetection", detr, transformers.DetrImageProcessor(size={"height": 64, "width": 64})),
        ("RTDetrForObjectDetection", rt_detr, transformers.RTDetrImageProcessor(size={"height": 64, "width": 64})),
    ):
        folder = _save(tmp_path / kind, getattr(transformers, kind), config)
        processor.save_pretrained(folder)
        check_detector(named(folder))
        found = build_detector(Options(detector=named(folder), threshold=0.0)).boxes(frames)
        assert [len(boxes) for boxes in found] == [5, 5, 5], kind


def test_other_weights_have_another_digest(yolos, copy):
    assert digest_of_weights(named(yolos)) == digest_of_weights(named(copy)) != ""
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"hidden_act": "relu"}))
    assert digest_of_weights(named(yolos)) != digest_of_weights(named(copy))


def _fails(folder, says: str) -> None:
    with pytest.raises(PreprocessError, match=says) as error:
        check_detector(named(folder))
    assert "\n" not in str(error.value) and str(folder) in str(error.value)


def test_pickled_weights_are_not_read_and_the_way_out_is_told(copy, tmp_path):
    class Program:
        def __reduce__(self):
            return open, (str(tmp_path / "it ran"), "w")

    (copy / "model.safetensors").unlink()
    torch.save({"weights": Program()}, copy / "pytorch_model.bin")
    _fails(copy, "holds no model.safetensors, and other formats.*save_pretrained.* converts it")
    with pytest.raises(PreprocessError, match="holds no model.safetensors"):
        build_detector(Options(detector=named(copy)))
    assert not (tmp_path / "it ran").exists()


def test_programs_beside_the_weights_are_not_run(copy, tmp_path):
    (copy / "code.py").write_text(f"open({str(tmp_path / 'it ran')!r}, 'w')")
    config = json.loads((copy / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "code.Config", "AutoModelForObjectDetection": "code.Model"}
    (copy / "config.json").write_text(json.dumps(config | {"model_type": "of_my_own"}))
    with pytest.raises(PreprocessError, match="cannot be built: ") as error:
        build_detector(Options(detector=named(copy)))
    assert "\n" not in str(error.value) and not (tmp_path / "it ran").exists()


def test_what_is_no_detector_is_one_sentence(copy, tmp_path):
    _fails(tmp_path / "nowhere", "is no folder; give one")
    _fails(tmp_path, "holds no config.json")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"architectures": ["CLIPModel"]}))
    _fails(copy, "is a CLIPModel, which detects no objects")
    (copy / "config.json").write_text(json.dumps(config))
    (copy / "preprocessor_config.json").rename(copy / "kept")
    _fails(copy, "holds no preprocessor_config.json")
    (copy / "kept").rename(copy / "preprocessor_config.json")
    weights = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    _fails(copy, "model.safetensors cannot be read .*; copy it again")


def test_an_id_that_the_hub_does_not_give_is_one_sentence(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    _fails("nobody/no-such-detector", "it is no folder, and the hub does not give it: ")


def test_weights_that_lack_a_layer_are_refused(copy):
    from safetensors.torch import load_file, save_file

    weights = load_file(copy / "model.safetensors")
    del weights["class_labels_classifier.layers.2.weight"]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(PreprocessError, match="its weights lack class_labels_classifier.layers.2.weight"):
        build_detector(Options(detector=named(copy)))
