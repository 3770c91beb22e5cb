"""Multiple-choice scoring equals the original probe: logits, loss and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
from tolerance import close

from mmdiff.data.question_examples import AnswerTokens
from mmdiff.data.tokenizer import AUDIOSPAN
from mmdiff.objectives.question_answering import (
    UNUSED,
    QuestionAnswering,
    QuestionConfig,
    answer_correct,
    answer_loss,
    question_loss,
)


def test_finetuning_equals_the_original(golden, golden_model, golden_folder):
    model, params = golden_model
    with np.load(golden_folder / "probe_proj.npz") as stored:
        kernel = jnp.asarray(stored["proj/kernel"])
    # The original trains these and the projection.
    params = {name: module for name, module in params.items() if name not in UNUSED} | {"proj": {"kernel": kernel}}
    patches, mels = golden["probe/in/images"], golden["probe/in/audio_clips"]
    audio, text = (golden[f"probe/in/{name}_seqs"] for name in ("audio", "textonly"))
    spans = mels.shape[1] * mels.shape[2]
    pointers = ((jnp.cumsum(audio[..., 0] == AUDIOSPAN, axis=-1) - 1) // 6) % spans
    answers = AnswerTokens(text[..., 0], text[..., 1], audio[..., 0], audio[..., 1], pointers)
    label, offered = golden["probe/in/labels"], jnp.ones(audio.shape[:2], bool)
    objective = QuestionAnswering(model, QuestionConfig(attend_to_padding=True))

    def loss(params):
        flat = mels.reshape(mels.shape[0], spans, *mels.shape[3:])
        scores = objective.scores_of_clips(params, patches, flat, jnp.ones(patches.shape[:2], bool), answers)
        value, metrics = question_loss(scores, label, offered)
        return value, (scores, metrics)

    (value, (scores, metrics)), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    close(scores[:, 0], golden["probe/logits_from_audio"])
    close(scores[:, 1], golden["probe/logits_from_text"])
    close(value, golden["probe/loss"])
    losses = answer_loss(scores, label, offered).mean(axis=0)
    close(losses, jnp.stack([golden["probe/info/loss_audio"], golden["probe/info/loss_text"]]))
    for name in ("audio", "text"):
        close(metrics[name], golden[f"probe/info/is_right_{name}"])
    close(grads["proj"]["kernel"], golden["probe/grad/proj_kernel"], rtol=1e-3)
    for module in (
        "audio_encoder",
        "contrastive_scales",
        "joint_transformer",
        "proj",
        "token_encoder",
        "vision_encoder",
    ):
        norm = np.sqrt(sum((np.asarray(x) ** 2).sum() for x in jax.tree.leaves(grads[module])))
        close(norm, golden[f"probe/grad_norm/{module}"], rtol=1e-3)


def test_empty_examples_that_fill_a_batch_change_no_metric():
    scores = jnp.array([[[0.0, 1.0], [2.0, 1.0]], [[0.5, 3.0], [1.0, 0.0]]])
    label, offered = jnp.array([1, 0]), jnp.ones((2, 2), bool)
    alone = question_loss(scores, label, offered)[1]
    filled = [jnp.concatenate([x, jnp.zeros_like(x)]) for x in (scores, label, offered)]
    among = question_loss(*filled)[1]
    for name in alone:
        close(among[name], alone[name])
    gradient = jax.grad(lambda scores: question_loss(scores, *filled[1:])[0])(filled[0])
    assert jnp.isfinite(gradient).all() and not gradient[2:].any()


def test_answers_not_offered_take_no_part():
    scores = jnp.array([[[0.0, 1.0, 9.0], [2.0, 1.0, 9.0]]])
    offered = jnp.array([[True, True, False]])
    label = jnp.array([1])
    close(answer_loss(scores, label, offered), jnp.log1p(jnp.exp(jnp.array([[-1.0, 1.0]]))))
    # Both say 0.731 for their answer: the sum is a tie, and a tie goes to the first.
    assert answer_correct(scores, label, offered).tolist() == [[True, False, False]]


def test_who_cannot_tell_the_right_answer_from_another_is_wrong():
    scores = jnp.array([[[1.0, 1.0, 0.0]] * 2, [[0.0, 1.0, 9.0]] * 2, [[2.0, 1.0, 0.0]] * 2])
    offered = jnp.array([[True] * 3, [True, True, False], [True] * 3])
    right = answer_correct(scores, jnp.array([0, 1, 0]), offered)
    assert right.tolist() == [[False] * 3, [True] * 3, [True] * 3]
