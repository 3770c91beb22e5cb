"""Multiple-choice scoring equals the original probe: logits, loss and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
from tolerance import close

from mmdiff.data.tokenizer import AUDIOSPAN
from mmdiff.objectives.question_answering import (
    Candidates,
    answer_correct,
    answer_loss,
    answer_scores,
    candidate_features,
    encode_windows,
)


def test_probe_equals_the_original(golden, golden_model, golden_folder):
    model, params = golden_model
    with np.load(golden_folder / "probe_proj.npz") as stored:
        kernel = jnp.asarray(stored["proj/kernel"])
    patches, mels = golden["probe/in/images"], golden["probe/in/audio_clips"]
    audio, text = (golden[f"probe/in/{name}_seqs"] for name in ("audio", "textonly"))
    questions, answers, length, _ = audio.shape
    spans = mels.shape[1] * mels.shape[2]
    rows = questions * answers
    pointers = ((jnp.cumsum(audio[..., 0] == AUDIOSPAN, axis=-1) - 1) // 6) % spans
    candidates = Candidates(
        jnp.repeat(jnp.arange(questions), answers),
        *(x.reshape(rows, length) for x in (text[..., 0], text[..., 1], audio[..., 0], audio[..., 1], pointers)),
    )
    label = golden["probe/in/labels"]
    offered = jnp.ones((questions, answers), bool)

    def loss(params, kernel):
        flat = mels.reshape(questions, spans, *mels.shape[3:])
        windows = encode_windows(model, params, patches, flat, jnp.ones(patches.shape[:2], bool))
        features = candidate_features(model, params, windows, candidates)
        scores = answer_scores(kernel, features.reshape(questions, answers, 2, -1))
        losses = answer_loss(scores, label, offered)
        return losses.mean(axis=0).sum(), (scores, losses)

    (value, (scores, losses)), (grads, kernel_grad) = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(
        params, kernel
    )
    close(scores[:, 0], golden["probe/logits_from_audio"])
    close(scores[:, 1], golden["probe/logits_from_text"])
    close(value, golden["probe/loss"])
    close(losses.mean(axis=0), jnp.stack([golden["probe/info/loss_audio"], golden["probe/info/loss_text"]]))
    right = answer_correct(scores, label, offered).mean(axis=0)
    close(right[:2], jnp.stack([golden["probe/info/is_right_audio"], golden["probe/info/is_right_text"]]))
    close(kernel_grad, golden["probe/grad/proj_kernel"], rtol=1e-3)
    for module in ("audio_encoder", "contrastive_scales", "joint_transformer", "token_encoder", "vision_encoder"):
        norm = jnp.sqrt(sum((x**2).sum() for x in jax.tree.leaves(grads[module])))
        close(norm, golden[f"probe/grad_norm/{module}"], rtol=1e-3)


def test_answers_not_offered_take_no_part():
    scores = jnp.array([[[0.0, 1.0, 9.0], [2.0, 1.0, 9.0]]])
    offered = jnp.array([[True, True, False]])
    label = jnp.array([1])
    close(answer_loss(scores, label, offered), jnp.log1p(jnp.exp(jnp.array([[-1.0, 1.0]]))))
    # Both say 0.731 for their answer: the sum is a tie, and a tie goes to the first.
    assert answer_correct(scores, label, offered).tolist() == [[True, False, False]]
