"""Text in, token ids out; and the meaning of the special ids."""

from pathlib import Path

import tokenizers

from mmdiff.errors import UserError

# The released vocabulary's first ten entries.
PAD, START, END, MASK, MASKAUDIO, AUDIOSPAN, LTOVPOOL, MASKVIDEO, UNKNOWN, RESETCTX = range(10)
SPECIAL_TOKENS = (
    "<|PAD|>",
    "<|START|>",
    "<|END|>",
    "<|MASK|>",
    "<|MASKAUDIO|>",
    "<|AUDIOSPAN|>",
    "<|LTOVPOOL|>",
    "<|unused0|>",  # the original's continued pretraining marks visible frames with it, and never feeds it
    "<|UNK|>",
    "<|RESETCTX|>",
)


class TokenizerError(UserError):
    """The vocabulary file is missing or is not one of this model's."""


class Tokenizer:
    """A byte-pair vocabulary file, such as the released `lowercase_encoder.json`.

    Raises TokenizerError if the file is not there, cannot be read, or gives the special tokens other ids.
    """

    def __init__(self, path: str | Path):
        if not Path(path).is_file():
            raise TokenizerError(f"no vocabulary at {path}; give the released lowercase_encoder.json or your own file")
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # noqa: BLE001  the library raises nothing narrower for a bad file
            raise TokenizerError(f"{path} is not a tokenizers file: {error}") from None
        self._tokenizer.encode_special_tokens = True  # a "<|MASK|>" in a subtitle is text
        found = tuple(self._tokenizer.id_to_token(i) for i in range(len(SPECIAL_TOKENS)))
        if found != SPECIAL_TOKENS:
            raise TokenizerError(f"{path} starts with {found}; the model needs {SPECIAL_TOKENS} as ids 0 to 9")

    @property
    def size(self) -> int:
        return self._tokenizer.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without any special token around it."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids


def train_tokenizer(texts: list[str], size: int, path: str | Path) -> Tokenizer:
    """Learns a vocabulary of at most `size` entries, lower-cased byte pairs as in the release, and stores it."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True, strip_accents=True)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.save(str(path))
    return Tokenizer(path)
