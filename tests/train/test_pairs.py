from __future__ import annotations

from itertools import islice

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import rows

from nccleaner.train.pairs import cycle_batches, exchange_captions, iter_batches

seeds = st.integers(0, 2**32 - 1)
some_pairs = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=40)
often = settings(derandomize=True, max_examples=100, deadline=None)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def as_tuples(pairs):
    return list(zip(pairs.image_rows.tolist(), pairs.text_rows.tolist(), strict=True))


@given(drawn=some_pairs, seed=seeds)
@often
def test_an_exchanged_caption_is_that_of_another_image_and_reads_otherwise(drawn, seed):
    images, texts = zip(*drawn, strict=True)
    exchanged = exchange_captions(rows(images, texts), generator=seeded(seed))
    remaining = iter(drawn)
    for image, text in as_tuples(exchanged):
        assert any(image != other and text == caption for other, caption in drawn)
        # Images come in their order, each with another caption than its own.
        assert any(own == image and caption != text for own, caption in remaining)
    again = exchange_captions(rows(images, texts), generator=seeded(seed))
    assert as_tuples(again) == as_tuples(exchanged)


def test_nearly_every_pair_of_distinct_images_is_exchanged():
    assert len(exchange_captions(rows(range(500)), generator=seeded(0))) == 500


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_pairs_to_exchange_give_none(count):
    assert len(exchange_captions(rows(torch.arange(count)), generator=seeded(0))) == 0


def test_captions_of_one_image_are_not_exchanged():
    same_image = rows([3, 3, 3], [0, 1, 2])
    assert len(exchange_captions(same_image, generator=seeded(0))) == 0


@given(count=st.integers(1, 300), batch_size=st.integers(1, 70), seed=seeds)
@often
def test_batches_hold_every_index_once_and_none_is_small(count, batch_size, seed):
    batches = list(iter_batches(count, batch_size=batch_size, generator=seeded(seed)))
    assert sorted(torch.cat(batches).tolist()) == list(range(count))
    assert len(batches) == max(count // batch_size, 1)
    sizes = [len(batch) for batch in batches]
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= min(batch_size, count)


def test_batches_are_shuffled_anew_and_repeat_with_the_seed():
    def order(generator):
        return torch.cat(list(iter_batches(50, batch_size=8, generator=generator))).tolist()

    generator = seeded(0)
    first, second = order(generator), order(generator)
    assert first != second
    assert first != sorted(first)
    assert order(seeded(0)) == first


@given(count=st.integers(1, 60), batch_size=st.integers(1, 20), seed=seeds)
@often
def test_a_cycle_sees_everything_once_a_round(count, batch_size, seed):
    batches = cycle_batches(count, batch_size=batch_size, generator=seeded(seed))
    for _ in range(3):
        seen = torch.cat(list(islice(batches, max(count // batch_size, 1))))
        assert sorted(seen.tolist()) == list(range(count))


def test_take_keeps_image_and_caption_together():
    pairs = rows([4, 5, 6], [7, 8, 9])
    assert as_tuples(pairs.take(torch.tensor([2, 0]))) == [(6, 9), (4, 7)]
    assert len(pairs) == 3
