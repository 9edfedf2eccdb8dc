"""What baselines say of a pool of which the truth is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from baselines.dual_encoder import Semantic, Training, hardest_negative, info_nce
from baselines.lemon import BY_DISTANCE, BY_FIT, NEIGHBOURS, WEIGHT, lemon_scores
from baselines.methods import BASELINES, Baselines
from baselines.mixture import clean_posterior
from baselines.ncr import losses, train_divided
from baselines.pool import Pool
from networks import latent_features
from sklearn.metrics import roc_auc_score

from nccleaner.config import RunConfig
from nccleaner.train.pairs import Pairs

PAIRS, EXCHANGED = 300, 90

CONFIG = RunConfig.model_validate(
    {
        "model": {"joint_width": 16, "dropout": 0.1},
        "train": {
            "epochs": 8,
            "min_steps": 0,
            "batch_size": 50,
            "warm_up_steps": 5,
            "learning_rate": 5e-3,
        },
    }
)


@pytest.fixture(scope="module")
def mismatched() -> np.ndarray:
    """[pairs] bool: the first ones exchanged captions."""
    return np.arange(PAIRS) < EXCHANGED


@pytest.fixture(scope="module")
def pool() -> Pool:
    text_rows = torch.arange(PAIRS)
    text_rows[:EXCHANGED] = text_rows[:EXCHANGED].roll(1)
    return Pool(
        latent_features(PAIRS), torch.arange(PAIRS), Pairs(torch.arange(PAIRS), text_rows), []
    )


@pytest.fixture(scope="module")
def baselines(pool):
    return Baselines(pool, CONFIG, seed=0)


@pytest.mark.parametrize("name", BASELINES)
def test_each_tells_mismatched_pairs_from_others(name, baselines, mismatched):
    verdict = BASELINES[name](baselines)
    assert roc_auc_score(~mismatched, verdict.scores) > 0.85
    assert roc_auc_score(~mismatched, verdict.clean_probability) > 0.85
    assert 0 <= verdict.clean_probability.min() <= verdict.clean_probability.max() <= 1


@pytest.mark.parametrize("name", ["vse++", "infonce", "ncr"])
def test_what_learns_embeddings_retrieves_pairs_it_has_not_seen(name, baselines):
    # One draw of the maps: the last pairs are of the same latent space as the pool, but not in it.
    features = latent_features(400)
    rows = torch.arange(300, 400)
    unseen = Pool(features, torch.arange(400), Pairs(rows, rows), [])
    trained = Baselines(Pool(features, *_first(300)), CONFIG, seed=0)
    retrieval = BASELINES[name](trained).retrieval(unseen)
    assert retrieval.rsum > 300  # by chance, 100 captions among 400 images: about 20


def _first(count):
    rows = torch.arange(count)
    return torch.arange(400), Pairs(rows, rows), []


@pytest.mark.parametrize("name", ["lemon-raw", "lemon-learned", "ridge"])
def test_what_learns_no_embeddings_retrieves_nothing(name, baselines, pool):
    assert BASELINES[name](baselines).retrieval(pool) is None


@pytest.mark.parametrize("name", BASELINES)
def test_the_seed_decides_everything(name, pool):
    torch.manual_seed(5)
    first = BASELINES[name](Baselines(pool, CONFIG, seed=3))
    torch.manual_seed(6)
    again = BASELINES[name](Baselines(pool, CONFIG, seed=3))
    assert np.array_equal(first.scores, again.scores)
    assert np.array_equal(first.clean_probability, again.clean_probability)


def test_lemon_is_the_formula_pair_by_pair():
    count = 60
    features = latent_features(count, dtype=torch.float64)
    identities = torch.arange(count) // 2  # two captions an image
    distances = torch.linspace(0.1, 1.4, count, dtype=torch.float64)
    scores = lemon_scores(*features, identities=identities, own_distances=distances)
    images, texts = (table.numpy() / table.norm(dim=1, keepdim=True).numpy() for table in features)

    def disagreement(near, compared, i):
        others = [j for j in range(count) if identities[j] != identities[i]]
        nearest = sorted(others, key=lambda j: 1 - near[i] @ near[j])[:NEIGHBOURS]
        return np.mean(
            [
                (1 - compared[i] @ compared[j])
                * np.exp(-BY_DISTANCE * (1 - near[i] @ near[j]))
                * np.exp(-BY_FIT * distances[j].item())
                for j in nearest
            ]
        )

    for i in range(count):
        both = disagreement(images, texts, i) + disagreement(texts, images, i)
        assert scores[i].item() == pytest.approx(-(distances[i].item() + WEIGHT * both))


def test_two_groups_of_scores_are_told_apart():
    rng = np.random.default_rng(0)
    scores = np.concatenate([rng.normal(0.2, 0.1, 400), rng.normal(0.8, 0.1, 600)])
    posterior = clean_posterior(scores)
    assert (posterior[:400] < 0.5).mean() > 0.99
    assert (posterior[400:] > 0.5).mean() > 0.99
    assert (1 - posterior).mean() == pytest.approx(0.4, abs=0.02)


def test_a_posterior_never_falls_where_the_score_rises():
    rng = np.random.default_rng(0)
    # The wide lower Gaussian wins at both ends.
    scores = np.concatenate([rng.normal(0.0, 1.0, 500), rng.normal(0.5, 0.1, 500)])
    posterior = clean_posterior(scores)[np.argsort(scores)]
    assert (np.diff(posterior) >= 0).all()
    assert posterior[0] < 0.5 < posterior[-1]


def test_losses_are_those_of_each_pair_among_its_batch(pool):
    network = Training(pool, CONFIG, loss=info_nce, head=Semantic, seed=0)
    state = network._generator.get_state()
    found = losses(network, pool)
    network._generator.set_state(state)
    for chosen in network.batches():
        images, texts = network.embed(pool.features)
        pairs = pool.pairs.take(chosen)
        cosines = images[pairs.image_rows] @ texts[pairs.text_rows].T
        logits = cosines / CONFIG.model.temperature
        both = logits.log_softmax(dim=0).diagonal() + logits.log_softmax(dim=1).diagonal()
        torch.testing.assert_close(found[chosen], -both)


def test_dividing_the_pool_tells_more_apart_than_one_network(baselines, pool, mismatched):
    _, posterior = train_divided(pool, CONFIG, seed=0)
    single = BASELINES["infonce"](baselines).scores
    assert roc_auc_score(~mismatched, posterior) > roc_auc_score(~mismatched, single)


def test_weights_of_zero_leave_pairs_out(pool):
    network = Training(pool, CONFIG, loss=hardest_negative, head=Semantic, seed=0)
    before = [parameter.clone() for parameter in network.net.parameters()]
    network.run_epoch(torch.zeros(len(pool.pairs)))
    after = list(network.net.parameters())
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))
