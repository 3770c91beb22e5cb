"""Checkpoint files of three formats, whole and damaged."""

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from mmdiff.models import pretrained
from mmdiff.models.reserve import ReserveConfig, init_params

GRID = (4, 6)


def test_the_original_file_loads_with_its_sizes_inferred(golden_folder):
    config, params = pretrained.load_reserve(golden_folder / "ckpt" / "ckpt_1234", image_grid=GRID)
    assert config == ReserveConfig(128, 2, 2, 2, 1, vocab_size=512, image_grid=GRID)
    with np.load(golden_folder / "params.npz") as expected:
        found = flatten_dict(params, sep="/")
        assert set(found) == set(expected.files)
        for name in expected.files:
            assert found[name].dtype == np.float32
            np.testing.assert_array_equal(found[name], expected[name])


def test_the_original_file_is_written_byte_for_byte(golden_folder, tmp_path):
    original = golden_folder / "ckpt" / "ckpt_1234"
    _, params = pretrained.load_reserve(original, image_grid=GRID)
    pretrained.save_reserve(tmp_path / "copy", params, step=1234)
    assert (tmp_path / "copy").read_bytes() == original.read_bytes()


@pytest.fixture(scope="module")
def tiny():
    config = ReserveConfig(64, 1, 1, 1, 1, vocab_size=50, image_grid=GRID)
    return config, jax.device_get(jax.jit(init_params, static_argnums=0)(config, jax.random.key(0)))


def save(path, params, kind):
    if kind == "npz":
        with path.open("wb") as file:
            np.savez(file, **flatten_dict(params, sep="/"))
    else:
        {"safetensors": pretrained.save_safetensors, "reserve": pretrained.save_reserve}[kind](path, params)


@pytest.mark.parametrize("kind", ["safetensors", "npz", "reserve"])
def test_what_was_saved_is_loaded(tiny, tmp_path, kind):
    config, params = tiny
    save(tmp_path / "model", params, kind)
    found, loaded = pretrained.load_reserve(tmp_path / "model", image_grid=GRID)
    assert found == config
    as_saved = (lambda x: x.astype(np.float16).astype(np.float32)) if kind == "reserve" else lambda x: x
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, as_saved(b)), loaded, params)


def test_any_step_number_is_read_back(tiny, tmp_path):
    for step in (0, 123, 379, 65_147, 2**31):  # 379 puts a brace where safetensors has one
        pretrained.save_reserve(tmp_path / "model", tiny[1], step=step)
        pretrained.load_reserve(tmp_path / "model", image_grid=GRID)


@pytest.mark.parametrize("kind", ["safetensors", "npz", "reserve"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
def test_a_file_cut_short_says_so(tiny, tmp_path, kind, share):
    path = tmp_path / "model"
    save(path, tiny[1], kind)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(pretrained.CheckpointError, match="model"):
        pretrained.load_reserve(path, image_grid=GRID)


def test_a_wrong_shape_is_named_with_both_shapes(tiny, tmp_path):
    params = jax.tree.map(np.copy, tiny[1])
    params["head"]["kernel"] = np.zeros((64, 63), np.float32)
    pretrained.save_safetensors(tmp_path / "model", params)
    with pytest.raises(pretrained.CheckpointError, match=r"head/kernel is \(64, 63\), the model needs \(64, 64\)"):
        pretrained.load_reserve(tmp_path / "model", image_grid=GRID)


def test_missing_and_unknown_names_are_counted(tiny, tmp_path):
    params = jax.tree.map(np.copy, tiny[1])
    params["proj"] = {"kernel": np.zeros((64, 1), np.float32)}
    del params["joint_transformer"]["final_ln"]["scale"]
    pretrained.save_safetensors(tmp_path / "model", params)
    with pytest.raises(
        pretrained.CheckpointError, match="1 missing, such as joint_transformer/final_ln/scale; 1 unknown"
    ):
        pretrained.load_reserve(tmp_path / "model", image_grid=GRID)


def test_a_continued_model_without_head_and_spans_can_be_filled(tiny, tmp_path):
    params = {name: module for name, module in tiny[1].items() if name not in ("head", "span_encoder")}
    pretrained.save_reserve(tmp_path / "model", params)
    with pytest.raises(pretrained.CheckpointError, match="saved without head and span_encoder"):
        pretrained.load_reserve(tmp_path / "model", image_grid=GRID)
    _, filled = pretrained.load_reserve(tmp_path / "model", image_grid=GRID, fill=jax.random.key(1))
    assert jax.tree.structure(filled) == jax.tree.structure(tiny[1])


def test_files_that_are_no_checkpoint_are_explained(tmp_path):
    with pytest.raises(pretrained.CheckpointError, match="no checkpoint file"):
        pretrained.load_reserve(tmp_path / "missing", image_grid=GRID)
    (tmp_path / "text").write_text("not a model, not at all")
    with pytest.raises(pretrained.CheckpointError, match="not a whole checkpoint"):
        pretrained.load_reserve(tmp_path / "text", image_grid=GRID)


def test_a_pickle_is_refused(tmp_path):
    import pickle

    (tmp_path / "model").write_bytes(pickle.dumps({"params": 1}))
    with pytest.raises(pretrained.CheckpointError):
        pretrained.load_reserve(tmp_path / "model", image_grid=GRID)
    with (tmp_path / "objects.npz").open("wb") as file:
        np.savez(file, a=np.array([{}], dtype=object))
    with pytest.raises(pretrained.CheckpointError, match="not a whole checkpoint"):
        pretrained.load_reserve(tmp_path / "objects.npz", image_grid=GRID)
