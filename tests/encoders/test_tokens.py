import random

import numpy as np
import pytest

from nccleaner.encoders.tokens import MIN_VOCABULARY, read_tokenizer, train_tokenizer
from nccleaner.errors import InputError, UsageError

CAPTIONS = [
    f"A {color} {animal} runs over the {place} ."
    for color in ("black", "brown", "white")
    for animal in ("dog", "horse", "child")
    for place in ("grass", "snow", "beach")
]
STRANGERS = [
    "Собака бежит по траве",
    "狗在草地上奔跑",
    "كلب يجري على العشب",
    "🐕🐕",
    "\u200b",
    "a\0b",
    "\ud7ff",
]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(CAPTIONS, vocabulary=400)


def test_ids_are_padded_on_the_right(tokenizer):
    ids = tokenizer.encode(["A black dog", "A black dog runs over the snow ."], max_tokens=32)
    assert ids.dtype == np.int32
    lengths = (ids != 0).sum(axis=1)
    assert lengths[0] < lengths[1] == ids.shape[1]
    assert (ids[0, : lengths[0]] == ids[1, : lengths[0]]).all()
    assert (ids[0, lengths[0] :] == 0).all()


def test_frequent_words_are_one_token(tokenizer):
    assert tokenizer.encode(["black dog"], max_tokens=32).shape == (1, 2)
    assert np.array_equal(
        tokenizer.encode(["Black DOG"], max_tokens=32),
        tokenizer.encode(["black dog"], max_tokens=32),
    )


def test_captions_are_cut(tokenizer):
    long = tokenizer.encode([CAPTIONS[0] * 50], max_tokens=7)
    assert np.array_equal(long, tokenizer.encode([CAPTIONS[0]], max_tokens=7))
    assert long.shape == (1, 7)


@pytest.mark.parametrize("caption", STRANGERS)
def test_any_script_has_tokens_of_its_own(tokenizer, caption):
    ids = tokenizer.encode([caption, "A dog"], max_tokens=99)
    assert (ids[0] != 0).sum() > 0
    assert ids.max() < tokenizer.vocabulary
    assert not np.array_equal(ids[0], ids[1])


def test_text_that_looks_like_padding_is_text(tokenizer):
    for read in (tokenizer, read_tokenizer(tokenizer.to_json())):
        ids = read.encode(["a [PAD] dog"], max_tokens=99)
        assert (ids != 0).all()


def test_no_caption_and_empty_captions(tokenizer):
    assert tokenizer.encode([], max_tokens=9).shape == (0, 1)
    assert tokenizer.encode([""], max_tokens=9).tolist() == [[0]]


def test_the_vocabulary_is_bounded(tokenizer):
    assert MIN_VOCABULARY < tokenizer.vocabulary <= 400
    assert train_tokenizer(CAPTIONS, vocabulary=MIN_VOCABULARY).vocabulary == MIN_VOCABULARY
    with pytest.raises(UsageError, match="too small"):
        train_tokenizer(CAPTIONS, vocabulary=MIN_VOCABULARY - 1)


def test_training_is_deterministic_and_blind_to_order(tokenizer):
    shuffled = random.Random(0).sample(CAPTIONS, len(CAPTIONS))
    assert train_tokenizer(iter(shuffled), vocabulary=400).to_json() == tokenizer.to_json()


def test_saving_and_reading_changes_nothing(tokenizer):
    again = read_tokenizer(tokenizer.to_json())
    assert again.to_json() == tokenizer.to_json()
    assert again.vocabulary == tokenizer.vocabulary
    captions = CAPTIONS + STRANGERS
    assert np.array_equal(
        again.encode(captions, max_tokens=20), tokenizer.encode(captions, max_tokens=20)
    )


def test_decoding_gives_back_the_caption_in_lower_case(tokenizer):
    captions = CAPTIONS + STRANGERS[:4] + ["", "  two  spaces"]
    ids = tokenizer.encode(captions, max_tokens=200)
    expected = [caption.lower().strip() for caption in captions]
    assert tokenizer.decode(ids) == expected
    assert tokenizer.decode(np.pad(ids, ((0, 0), (0, 5)))) == expected
    assert tokenizer.decode(ids[:1, :2]) == ["a black"]
    assert tokenizer.decode(ids[:0]) == []


@pytest.mark.parametrize("text", ["", "{}", "[1]"])
def test_what_is_no_tokenizer_is_refused(text):
    with pytest.raises(InputError, match="tokenizer cannot be read"):
        read_tokenizer(text)


def test_a_tokenizer_of_somebody_else_is_refused():
    from tokenizers import Tokenizer, models

    with pytest.raises(InputError, match="none of nccleaner's"):
        read_tokenizer(Tokenizer(models.BPE({"a": 0}, [])).to_str())
