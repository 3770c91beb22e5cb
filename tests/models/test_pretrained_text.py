"""Text models against transformers with every head, there and back; and files of torch.save that are not run."""

import collections
import json
import os
import pickle
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax.traverse_util import flatten_dict
from text_encoders import SPECIAL, applied, drawn_params, train_vocabulary, write_masked_model

from mmdiff.models.pretrained import CheckpointError
from mmdiff.models.pretrained_text import read_text_model, their_name, write_text_model
from mmdiff.models.text_encoder import TextModel, parts_of
from mmdiff.models.torch_file import read_torch_file

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

LENGTHS = np.array([9, 4, 1])
VALID = np.arange(9) < LENGTHS[:, None]
POSITIONS = np.array([[0, 3, 8], [1, 3, 2], [0, 0, 0]], np.int32)
TEXTS = ["the parser reads a sentence", "we follow the earlier work on parsing sentences"]


def theirs(family: str, ending: str, **changed):
    """A random PyTorch model, its norms and biases not where they start: a mistake would not show there."""
    roberta = family == "Roberta"
    sizes = {
        "vocab_size": 60,
        "hidden_size": 8,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "max_position_embeddings": 14,
        "type_vocab_size": 1 if roberta else 2,
        "pad_token_id": 1 if roberta else 0,
        "initializer_range": 0.5,
        "attn_implementation": "eager",
    }
    config = getattr(transformers, f"{family}Config")(**(sizes | changed))
    torch.manual_seed(0)
    model = getattr(transformers, family + ending)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def saved(model, folder):
    """The folder of it, with a vocabulary."""
    family = model.config.model_type
    model.save_pretrained(folder)
    vocabulary = train_vocabulary(TEXTS, family, 60 if family == "bert" else 10)
    if family == "roberta":  # All bytes are more than the model has rows.
        vocabulary = tokenizers_of(SPECIAL["roberta"])
    vocabulary.save(str(folder / "tokenizer.json"))
    return folder


def tokenizers_of(words):
    import tokenizers

    return tokenizers.Tokenizer(tokenizers.models.WordLevel({word: i for i, word in enumerate(words)}, "<unk>"))


def batch(model):
    """Tokens, padded as they want it."""
    drawn = np.random.default_rng(0).integers(5, 60, VALID.shape)
    return np.where(VALID, drawn, model.config.pad_token_id).astype(np.int32)


def run_theirs(model, tokens, **more):
    return model(torch.tensor(tokens), attention_mask=torch.tensor(VALID), **more)


FAMILIES = pytest.mark.parametrize("family", ["Bert", "Roberta"])


@FAMILIES
@pytest.mark.parametrize("ending", ["Model", "ForMaskedLM"])
def test_hidden_states_are_those_of_transformers_with_padding_and_types(family, ending, tmp_path):
    model = theirs(family, ending)
    found = read_text_model(saved(model, tmp_path))
    tokens = batch(model)
    types = ((np.arange(9) > 2) * VALID * (found.config.token_types - 1)).astype(np.int32)
    base = getattr(model, family.lower()) if ending == "ForMaskedLM" else model
    with torch.no_grad():
        expected = run_theirs(base, tokens, token_type_ids=torch.tensor(types), output_attentions=True)
        no_types = run_theirs(base, tokens, output_attentions=True)
    ours, arrays = TextModel(found.config), [jnp.asarray(x) for x in (tokens, VALID, types)]
    actual = applied(ours, found.params, "encode", *arrays)
    np.testing.assert_allclose(np.asarray(actual)[VALID], expected.last_hidden_state.numpy()[VALID], atol=1e-5)
    assert np.abs(expected.last_hidden_state.numpy()).max() > 0.5
    attention = applied(ours, found.params, "cls_attention", *arrays[:2])
    np.testing.assert_allclose(attention, no_types.attentions[-1].mean(1)[:, 0], atol=1e-6)
    if ending == "Model":
        pooled = applied(ours, found.params, "pooled", *arrays[:2])
        np.testing.assert_allclose(pooled, no_types.pooler_output, atol=1e-5)
    assert set(found.params) == {"encoder", "pooler" if ending == "Model" else "mlm_head"}


@FAMILIES
def test_the_masked_language_loss_and_each_gradient_are_those_of_transformers(family, tmp_path):
    # RoBERTa's head has its own activation: another one in the layers shows that.
    model = theirs(family, "ForMaskedLM", hidden_act="gelu_new")
    found = read_text_model(saved(model, tmp_path))
    tokens = batch(model)
    labels = np.full(tokens.shape, -100)
    read = np.zeros_like(VALID)
    np.put_along_axis(read, POSITIONS, True, axis=1)
    labels[read & VALID] = (tokens[read & VALID] + 7) % 60
    outputs = run_theirs(model, tokens, labels=torch.tensor(labels))
    outputs.loss.backward()
    counts = 1 - (np.array([[0, 0, 0], [0, 0, 0], [0, 1, 1]]))  # the last text's three positions are one
    targets = np.take_along_axis(labels, POSITIONS, axis=1)

    def loss(params):
        logits = TextModel(found.config).apply(
            {"params": params}, jnp.asarray(tokens), jnp.asarray(VALID), jnp.asarray(POSITIONS), method="masked_logits"
        )
        taken = jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], axis=-1)[..., 0]
        return -(taken * counts).sum() / counts.sum(), logits

    (value, logits), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(found.params)
    expected = np.take_along_axis(outputs.logits.detach().numpy(), POSITIONS[..., None], axis=1)
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    np.testing.assert_allclose(value, outputs.loss.detach(), rtol=1e-6)
    theirs_by_name = {name.removeprefix(f"{family.lower()}."): p.grad.numpy() for name, p in model.named_parameters()}
    for name, gradient in flatten_dict(gradients, sep=".").items():
        wanted = theirs_by_name.pop(their_name(name, family.lower()))
        np.testing.assert_allclose(gradient, wanted.T if name.endswith("kernel") else wanted, atol=1e-5, err_msg=name)
    assert not theirs_by_name


@FAMILIES
@pytest.mark.parametrize(
    ("ending", "head"), [("ForSequenceClassification", "sequence"), ("ForTokenClassification", "token")]
)
def test_classifiers_and_their_gradients_are_those_of_transformers(family, ending, head, tmp_path):
    model = theirs(family, ending, id2label={0: "Background", 1: "Uses", 2: "Motivation"})
    found = read_text_model(saved(model, tmp_path))
    assert (found.head, found.labels) == (head, ("Background", "Uses", "Motivation"))
    assert set(found.params) == set(parts_of(found.config, head))
    tokens = batch(model)
    outputs = run_theirs(model, tokens).logits
    read = np.ones(3, bool) if head == "sequence" else VALID
    (outputs.sin() * torch.tensor(read)[..., None]).sum().backward()

    def of(params):
        method = "classify" if head == "sequence" else "classify_tokens"
        arrays = jnp.asarray(tokens), jnp.asarray(VALID)
        logits = TextModel(found.config, 3, head).apply({"params": params}, *arrays, method=method)
        return (jnp.sin(logits) * read[..., None]).sum(), logits

    gradients, logits = jax.jit(jax.grad(of, has_aux=True))(found.params)
    np.testing.assert_allclose(np.asarray(logits)[read], outputs.detach().numpy()[read], atol=1e-5)
    theirs_by_name = {name.removeprefix(f"{family.lower()}."): p.grad for name, p in model.named_parameters()}
    for name, gradient in flatten_dict(gradients, sep=".").items():
        wanted = theirs_by_name.pop(their_name(name, family.lower(), head)).numpy()
        scale = max(1.0, np.abs(wanted).max())
        np.testing.assert_allclose(
            gradient / scale, (wanted.T if name.endswith("kernel") else wanted) / scale, atol=1e-5, err_msg=name
        )
    assert not theirs_by_name


@FAMILIES
@pytest.mark.parametrize(
    ("auto", "parts", "head"),
    [
        ("AutoModel", ("encoder", "pooler"), None),
        ("AutoModelForMaskedLM", ("encoder", "mlm_head"), None),
        ("AutoModelForSequenceClassification", None, "sequence"),
        ("AutoModelForTokenClassification", None, "token"),
    ],
)
def test_a_folder_that_is_written_is_read_by_transformers_and_by_us(family, auto, parts, head, tmp_path):
    labels = ("B-Drug", "naïve") if head else ()
    made = write_masked_model(tmp_path / "made", TEXTS, family.lower())
    config, tokenizer = read_text_model(made)[0]._replace(dropout=0.2), read_text_model(made).tokenizer.to_str()
    parts = parts or parts_of(config, head)
    params = drawn_params(config, jax.random.key(1), parts, len(labels), head)
    write_text_model(tmp_path / "out", config, params, tokenizer, labels, head)
    again = read_text_model(tmp_path / "out")
    assert (again.config, again.labels, again.head, again.name) == (config, labels, head, "out")
    jax.tree.map(np.testing.assert_array_equal, again.params, jax.tree.map(np.asarray, params))
    model, report = getattr(transformers, auto).from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(report.values()), report
    tokens = np.random.default_rng(0).integers(5, config.vocab_size, (1, 6)).astype(np.int32)
    with torch.no_grad():
        outputs = model.eval()(torch.tensor(tokens))
    ours = TextModel(config, len(labels), head)
    arrays = jnp.asarray(tokens), jnp.ones((1, 6), bool)
    if head:
        assert model.config.id2label == dict(enumerate(labels))
        method = "classify" if head == "sequence" else "classify_tokens"
        actual, expected = applied(ours, params, method, *arrays), outputs.logits
    elif "mlm_head" in parts:
        places = jnp.arange(6)[None]
        actual, expected = applied(ours, params, "masked_logits", *arrays, places), outputs.logits
    else:
        actual, expected = applied(ours, params, "encode", *arrays), outputs.last_hidden_state
    np.testing.assert_allclose(actual, expected.numpy(), atol=1e-5)
    theirs_tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert theirs_tokenizer("the parser")["input_ids"] == again.tokenizer.encode("the parser").ids
    assert theirs_tokenizer.mask_token == SPECIAL[family.lower()][4]


def test_a_classifier_without_a_head_or_names_is_not_written(tmp_path):
    found = read_text_model(
        write_masked_model(tmp_path / "a", TEXTS, labels=("x", "y"), head="token", parts=("classifier",))
    )
    with pytest.raises(ValueError, match="goes with a head of sequence, token"):
        write_text_model(tmp_path / "b", found.config, found.params, "{}")
    with pytest.raises(ValueError, match="tells 2 labels apart, and 1 are named"):
        write_text_model(tmp_path / "b", found.config, found.params, "{}", ("x",), "token")


def change(folder, **changed):
    """Rewrites the weights of a folder: arrays by name, or None to leave one out."""
    arrays = safetensors.numpy.load_file(folder / "model.safetensors") | changed
    kept = {name: x for name, x in arrays.items() if x is not None}
    safetensors.numpy.save_file(kept, folder / "model.safetensors")


def test_part_of_a_head_is_refused(tmp_path):
    folder = write_masked_model(tmp_path, TEXTS)
    change(folder, **{"cls.predictions.transform.dense.bias": None})
    with pytest.raises(CheckpointError, match="1 missing, such as cls.predictions.transform.dense.bias"):
        read_text_model(folder)


def test_copies_of_what_is_shared_are_taken_if_they_are_equal(tmp_path):
    folder = write_masked_model(tmp_path, TEXTS)
    whole = read_text_model(folder)
    table = np.array(whole.params["encoder"]["embeddings"]["word_embeddings"]["embedding"])
    bias = np.arange(len(table), dtype=np.float32)
    change(
        folder,
        **{"cls.predictions.decoder.weight": table, "cls.predictions.decoder.bias": bias, "cls.predictions.bias": None},
    )
    np.testing.assert_array_equal(read_text_model(folder).params["mlm_head"]["bias"], bias)
    change(folder, **{"cls.predictions.decoder.weight": table + 1})
    with pytest.raises(CheckpointError, match="decoder.weight differs from bert.embeddings.word_embeddings.weight"):
        read_text_model(folder)


def test_a_classifier_of_another_task_is_left_out(tmp_path):
    folder = write_masked_model(tmp_path, TEXTS, labels=("x",), head="token", parts=("classifier",))
    stated = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(stated | {"architectures": ["BertForMultipleChoice"]}))
    found = read_text_model(folder)
    assert (list(found.params), found.labels, found.head) == (["encoder"], (), None)


@pytest.mark.parametrize("family", ["bert", "roberta"])
@pytest.mark.parametrize("head", ["sequence", "token"])
def test_what_a_classifier_is_for_is_seen_by_its_parts_where_the_config_does_not_say(family, head, tmp_path):
    config = read_text_model(write_masked_model(tmp_path, TEXTS, family)).config
    folder = write_masked_model(tmp_path, TEXTS, family, labels=("x", "y"), head=head, parts=parts_of(config, head))
    stated = json.loads((folder / "config.json").read_text())
    del stated["architectures"], stated["id2label"]
    (folder / "config.json").write_text(json.dumps(stated))
    found = read_text_model(folder)
    assert (found.head, found.labels) == (head, ("LABEL_0", "LABEL_1"))


def test_labels_that_do_not_fit_the_classifier_are_refused(tmp_path):
    folder = write_masked_model(tmp_path, TEXTS, labels=("x", "y"), head="token", parts=("classifier",))
    stated = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(stated | {"id2label": {"0": "x"}}))
    with pytest.raises(
        CheckpointError, match="id2label must name the labels 0 to 1 of the classifier: found {'0': 'x'}"
    ):
        read_text_model(folder)


def test_a_byte_level_vocabulary_of_two_files_is_that_of_transformers(tmp_path):
    folder = write_masked_model(tmp_path, TEXTS, "roberta")
    made = read_text_model(folder).tokenizer
    made.model.save(str(folder))
    whole = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").unlink()
    found = read_text_model(folder)
    assert found.tokenizer.encode(" the parser<mask>!").ids == made.encode(" the parser<mask>!").ids
    assert found.tokenizer.encode("x").ids[0] == whole["model"]["vocab"]["<s>"]
    (folder / "merges.txt").write_text("not merges")
    with pytest.raises(CheckpointError, match="no tokenizer that can be read"):
        read_text_model(folder)


def test_half_precision_is_read(tmp_path):
    folder = write_masked_model(tmp_path, TEXTS)
    found = read_text_model(folder)
    model = transformers.AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    half = read_text_model(folder)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2**-8), half.params["encoder"], found.params["encoder"]
    )


# pytorch_model.bin

STATE = collections.OrderedDict(
    whole=torch.randn(4, 6, generator=torch.manual_seed(0)),
    half=torch.ones(2, dtype=torch.float16) / 3,
    short=torch.ones(2, dtype=torch.bfloat16) / 3,
    numbers=torch.arange(3),
    scalar=torch.tensor(3.0),
    none=torch.zeros(0, 3),
    parameter=torch.nn.Parameter(torch.ones(3)),
)
STATE |= {"turned": STATE["whole"].t(), "part": STATE["whole"][1:3, 2:]}
FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "stream"])


class Harmful:
    """Unpickled, it makes a folder."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def save(value, path, zipped=True):
    torch.save(value, path, _use_new_zipfile_serialization=zipped)
    return path


@FORMATS
def test_the_tensors_of_a_torch_file_are_read_in_their_types(zipped, tmp_path):
    found = read_torch_file(save(STATE, tmp_path / "state.bin", zipped))
    assert list(found) == list(STATE)
    for name, tensor in STATE.items():
        np.testing.assert_array_equal(found[name].astype(np.float32), tensor.detach().float().numpy(), err_msg=name)
    assert [str(found[name].dtype) for name in ("whole", "half", "short", "numbers")] == [
        "float32",
        "float16",
        "bfloat16",
        "int64",
    ]


@FORMATS
def test_a_folder_with_pytorch_model_bin_is_that_with_safetensors(zipped, tmp_path):
    folder = saved(theirs("Bert", "ForMaskedLM"), tmp_path)
    expected = read_text_model(folder)
    model = transformers.AutoModelForMaskedLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    save(model.state_dict(), folder / "pytorch_model.bin", zipped)  # with the decoder's copies of what it shares
    found = read_text_model(folder)
    jax.tree.map(np.testing.assert_array_equal, found.params, expected.params)
    assert found.digest != expected.digest


@FORMATS
def test_a_harmful_pickle_is_refused_and_not_run(zipped, tmp_path):
    made = tmp_path / "made"
    path = save({"weight": Harmful(made)}, tmp_path / "state.bin", zipped)
    with pytest.raises(
        CheckpointError, match=r"state.bin is not read, and nothing in it was run: it asks for \w+.mkdir"
    ):
        read_torch_file(path)
    assert not made.exists()
    torch.load(path, weights_only=False)
    assert made.exists()  # It would have been run.


def test_a_harmful_call_through_what_is_known_is_refused(tmp_path):
    """Python functions can be reached from any class; here nothing has attributes, and only three things are called."""
    for program in (
        b"ccollections\nOrderedDict\nX\x01\x00\x00\x00x\x85R.",  # OrderedDict("x")
        b"ctorch\nFloatStorage\n)R.",
        b"ctorch._utils\n_rebuild_tensor_v2\n)R.",
        b"cbuiltins\neval\nX\x01\x00\x00\x001\x85R.",
        b"\x8c\x02os\x8c\x06system\x93.",
        b"ccollections\nOrderedDict\n}X\x01\x00\x00\x00aK\x01sb.",  # attributes for a class
        b"(iposix\nsystem\n.",
        b"\x82\x01.",
    ):
        path = tmp_path / "state.bin"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", b"\x80\x02" + program)
        with pytest.raises(CheckpointError, match=r"nothing in it was run|not a whole file"):
            read_torch_file(path)


@FORMATS
@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"model": dict(STATE)}, "its 'model' is no tensor: save the model's state_dict alone"),
        ([STATE["whole"]], "it holds a list and no dictionary"),
        (torch.nn.Linear(2, 2), "it asks for torch.nn.modules.linear.Linear"),
        ({"epoch": 3}, "its 'epoch' is no tensor"),
    ],
)
def test_what_is_no_dictionary_of_tensors_is_refused(value, message, zipped, tmp_path):
    with pytest.raises(CheckpointError, match=message):
        read_torch_file(save(value, tmp_path / "state.bin", zipped))


@FORMATS
def test_a_damaged_torch_file_gives_one_message_however_it_is_damaged(zipped, tmp_path):
    path = save(STATE, tmp_path / "state.bin", zipped)
    whole, rng, refused = path.read_bytes(), np.random.default_rng(0), 0
    for attempt in range(300):
        damaged = bytearray(whole)
        if attempt % 2:
            damaged = damaged[: rng.integers(len(damaged))]
        else:
            for place in rng.integers(0, len(damaged), 4):
                damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            read_torch_file(path)
        except CheckpointError:
            refused += 1
    assert refused > 200  # Some damage is to the numbers.


def test_a_plain_pickle_and_a_compressed_archive_are_refused(tmp_path):
    path = tmp_path / "state.bin"
    path.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(CheckpointError, match="not of torch.save at all"):
        read_torch_file(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}." * 100)
    with pytest.raises(CheckpointError, match="is compressed, and torch compresses nothing"):
        read_torch_file(path)
    path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="state.bin"):
        read_torch_file(path)
