from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scorers import COUNT, architecture, believed, gather, judges_of

from nccleaner.errors import RunError
from nccleaner.purify.scorer_file import scorer_identity
from nccleaner.purify.scoring import Scorer
from nccleaner.train.networks import build_networks
from nccleaner.train.pairs import Features


def test_a_file_restores_every_bit(scorer, features, pairs, tmp_path):
    path = tmp_path / "scorer.safetensors"
    identity = scorer.save(path)
    restored = Scorer.load(path, device="cpu")

    assert identity == scorer_identity(path)
    belief = believed(2 * COUNT, np.arange(2 * COUNT) % 3 == 0)
    before = scorer.score(gather(scorer, features, pairs), belief=belief)
    after = restored.score(gather(restored, features, pairs), belief=belief)
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)
    assert restored.save(tmp_path / "again.safetensors") == identity


def test_captions_may_come_as_tokens(pairs, features, tmp_path):
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(1, 20, (COUNT, 5), generator=generator)
    networks = [build_networks(architecture(vocabulary=20), seed=seed) for seed in range(2)]
    scorer = Scorer(
        architecture=architecture(vocabulary=20),
        networks=networks,
        frozen=None,
        canonical=None,
        siblings=False,
        judges=None,
        tokenizer="{}",
    )
    given = Features(features.images, tokens)
    scorer.judges = judges_of(scorer, given, pairs)
    scorer.save(tmp_path / "scorer.safetensors")
    restored = Scorer.load(tmp_path / "scorer.safetensors", device="cpu")

    before, after = gather(scorer, given, pairs), gather(restored, given, pairs)
    assert before.frozen.shape == (2 * COUNT, 0)
    np.testing.assert_array_equal(before.of_networks[1], after.of_networks[1])


def rewrite(path, metadata=None, drop=None):
    """Writes a scorer's file again with other metadata or without a tensor."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        kept = dict(file.metadata())
    tensors = load_file(path)
    if drop:
        del tensors[drop]
    save_file(tensors, path, metadata=kept if metadata is None else metadata)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-100]),
        lambda path: path.write_bytes(path.read_bytes()[:1000]),
        lambda path: path.write_bytes(b"x" * 5000),
        lambda path: rewrite(path, metadata={}),
        lambda path: rewrite(path, metadata={"nccleaner": "{"}),
        lambda path: rewrite(path, metadata={"nccleaner": "[1]"}),
        lambda path: rewrite(path, metadata={"nccleaner": '{"layout": 1}'}),
        lambda path: rewrite(path, metadata={"nccleaner": '{"layout": 2}'}),
        lambda path: rewrite(path, metadata={"nccleaner": '{"layout": 99}'}),
        lambda path: rewrite(path, drop="frozen.image_mean"),
        lambda path: rewrite(path, drop="contrast.texts"),
        lambda path: rewrite(path, drop="main_net.0.image_tower.linear.weight"),
    ],
)
def test_a_file_that_is_missing_or_damaged_says_what_to_do(scorer, tmp_path, damage):
    path = tmp_path / "scorer.safetensors"
    scorer.save(path)
    damage(path)

    with pytest.raises(RunError, match="nccleaner fit") as caught:
        Scorer.load(path, device="cpu")
    assert str(path) in caught.value.message
