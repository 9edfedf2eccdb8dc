"""Captions to token ids and back: for the GRU that encodes and for the one that reconstructs."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from nccleaner.errors import InputError, UsageError

PADDING = "[PAD]"
PADDING_ID = 0

# Below this not every byte and the padding have an id.
MIN_VOCABULARY = 257


class CaptionTokenizer:
    """Splits captions of any script into ids of pieces of words.

    Pieces are learned by byte-pair encoding of the captions in lower case. They are made of bytes,
    so there is no unknown token: whatever was rare or absent in training takes more pieces.

    Attributes:
        vocabulary: Number of ids; id 0 is padding.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        # A caption that says "[PAD]" is text like any other. This is not a part of the JSON.
        self._tokenizer.encode_special_tokens = True
        self.vocabulary: int = tokenizer.get_vocab_size()

    def encode(self, captions: list[str], *, max_tokens: int) -> npt.NDArray[np.int32]:
        """Encodes captions.

        Args:
            captions: n captions.
            max_tokens: Tokens after these are cut off.

        Returns:
            Ids [n, t], padded on the right with 0; t is the length of the longest, at most
            `max_tokens` and at least 1. The lengths are `(ids != 0).sum(axis=1)`.
        """
        pieces = [encoding.ids[:max_tokens] for encoding in self._tokenizer.encode_batch(captions)]
        longest = max([1, *map(len, pieces)])
        ids = np.full((len(captions), longest), PADDING_ID, np.int32)
        for row, piece in zip(ids, pieces, strict=True):
            row[: len(piece)] = piece
        return ids

    def decode(self, ids: npt.NDArray[np.integer]) -> list[str]:
        """Turns ids [n, t] back into captions, in lower case; padding is left out."""
        captions: list[str] = self._tokenizer.decode_batch(ids.tolist())
        return [caption.strip() for caption in captions]

    def to_json(self) -> str:
        """Returns the tokenizer as JSON text."""
        text: str = self._tokenizer.to_str()
        return text


def train_tokenizer(captions: Iterable[str], *, vocabulary: int) -> CaptionTokenizer:
    """Learns a tokenizer; the same captions in any order give the same one.

    Args:
        captions: What to learn from; read once.
        vocabulary: Ids at most. Fewer where the captions have fewer different pieces.

    Raises:
        UsageError: `vocabulary` is less than `MIN_VOCABULARY`.
    """
    if vocabulary < MIN_VOCABULARY:
        raise UsageError(
            f"A vocabulary of {vocabulary} is too small.", f"Give {MIN_VOCABULARY} or more."
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PADDING],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions, trainer)
    return CaptionTokenizer(tokenizer)


def read_tokenizer(text: str) -> CaptionTokenizer:
    """Reads what `CaptionTokenizer.to_json` wrote.

    Raises:
        InputError: It is something else.
    """
    try:
        tokenizer = Tokenizer.from_str(text)
    except Exception as error:  # tokenizers raises nothing more specific
        raise InputError(
            f"The tokenizer cannot be read: {error}.", "It belongs to the run: fit again."
        ) from error
    if tokenizer.token_to_id(PADDING) != PADDING_ID:
        raise InputError(
            f"The tokenizer has no {PADDING} with id {PADDING_ID}, so it is none of nccleaner's.",
            "It belongs to the run: fit again.",
        )
    return CaptionTokenizer(tokenizer)
