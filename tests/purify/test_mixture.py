from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from nccleaner.purify.mixture import BINS, Beta, BetaMixture, fit_mixture, histogram

MATCHED, MISMATCHED = (8.0, 2.0), (2.0, 6.0)
often = settings(derandomize=True, max_examples=100, deadline=None)


def drawn(shapes, count, seed=0):
    return np.random.default_rng(seed).beta(*shapes, count)


def simulated(rate, count=20_000, seed=0, *, matched=MATCHED, mismatched=MISMATCHED):
    """Scores of a pool, and which of them are mismatched."""
    rng = np.random.default_rng(seed)
    truth = rng.random(count) < rate
    return np.where(truth, rng.beta(*mismatched, count), rng.beta(*matched, count)), truth


def fit(pool, *, matched=None, mismatched=None, prior="anchor", max_iterations=100):
    matched = drawn(MATCHED, 200, 1) if matched is None else matched
    mismatched = drawn(MISMATCHED, 200, 2) if mismatched is None else mismatched
    return fit_mixture(
        histogram(pool),
        matched=histogram(matched),
        mismatched=histogram(mismatched),
        prior=prior,
        max_iterations=max_iterations,
        tolerance=1e-5,
    )


def assert_usable(mixture):
    grid = mixture.clean_probability(np.linspace(0, 1, 1001))
    assert np.isfinite([mixture.matched.mean, mixture.mismatched.mean]).all()
    assert 0 <= mixture.noise_rate <= 1
    assert ((grid >= 0) & (grid <= 1)).all()
    assert (np.diff(grid) >= -1e-6).all()


# Histograms


def test_a_histogram_counts_every_score_near_where_it_is():
    scores = drawn((0.5, 0.5), 5000)
    counts = histogram(scores)
    assert counts.shape == (BINS,)
    assert counts.sum() == 5000
    centres = np.linspace(1e-3, 1 - 1e-3, BINS)
    placed = np.repeat(centres, counts.astype(int))
    assert np.abs(placed - np.sort(scores).clip(1e-3, 1 - 1e-3)).max() <= 0.5 / (BINS - 1)


@given(st.lists(st.lists(st.floats(0, 1), max_size=20), max_size=5))
@often
def test_histograms_of_parts_add_up_to_that_of_the_whole(parts):
    whole = histogram([score for part in parts for score in part])
    assert np.array_equal(sum((histogram(part) for part in parts), np.zeros(BINS)), whole)


def test_scores_of_0_and_1_stay_within_the_bins():
    counts = histogram(np.array([0, 0, 1], dtype=np.float32))
    assert (counts[0], counts[-1], counts.sum()) == (2, 1, 3)


# Beta


@pytest.mark.parametrize(
    "shapes", [(2, 5), (30, 2), (1, 1), (5, 5), (80, 120), (1.5, 20), (250, 3), (0.9, 0.8)]
)
def test_the_fit_is_that_of_scipy(shapes):
    scores = drawn(shapes, 3000).clip(1e-3, 1 - 1e-3)
    a, b, _, _ = stats.beta.fit(scores, floc=0, fscale=1)
    found = Beta.fit(histogram(scores))
    assert (found.a, found.b) == pytest.approx((a, b), rel=2e-3)


def test_weights_count_as_repetitions():
    scores = drawn((3, 2), 50)
    weights = np.arange(50) % 4
    weighted = sum(
        weight * histogram([score]) for score, weight in zip(scores, weights, strict=True)
    )
    repeated = Beta.fit(histogram(np.repeat(scores, weights)))
    found = Beta.fit(0.01 * weighted)
    assert (found.a, found.b) == pytest.approx((repeated.a, repeated.b))


def test_density_and_mean_are_those_of_scipy():
    beta, oracle = Beta(3.5, 1.2), stats.beta(3.5, 1.2)
    centres = np.linspace(1e-3, 1 - 1e-3, BINS)
    assert np.allclose(beta.log_density(), oracle.logpdf(centres))
    assert beta.mean == pytest.approx(oracle.mean())


@pytest.mark.parametrize("score", [0.0, 0.001, 0.2, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("count", [1, 2, 1000])
def test_equal_scores_keep_their_mean_and_become_no_spike(score, count):
    found = Beta.fit(histogram(np.full(count, score)))
    assert found.mean == pytest.approx(np.clip(score, 1e-3, 1 - 1e-3), abs=1e-3)
    assert 0.05 <= min(found.a, found.b) <= max(found.a, found.b) <= 500.001


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
@often
def test_any_scores_have_a_fit(scores):
    found = Beta.fit(histogram(scores))
    assert 0.05 <= min(found.a, found.b) <= max(found.a, found.b) <= 500.001
    assert np.isfinite(found.log_density()).all()


# Posterior


shapes = st.floats(0.05, 500)


@given(a=shapes, b=shapes, c=shapes, d=shapes, rate=st.floats(0, 1))
@often
def test_the_posterior_never_falls_where_the_score_rises(a, b, c, d, rate):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_usable(BetaMixture(Beta(a, b), Beta(c, d), rate))


@given(scores=st.lists(st.floats(0, 1), min_size=1, max_size=20))
@often
def test_scores_of_any_order_keep_it(scores):
    mixture = BetaMixture(Beta(*MATCHED), Beta(*MISMATCHED), 0.3)
    probability = mixture.clean_probability(scores)
    order = np.argsort(scores)
    assert probability.dtype == np.float32
    assert (np.diff(probability[order]) >= -1e-6).all()


def test_the_posterior_is_bayes_rule():
    mixture = BetaMixture(Beta(*MATCHED), Beta(*MISMATCHED), 0.3)
    scores = np.linspace(0.1, 0.9, 50)
    matched = 0.7 * stats.beta.pdf(scores, *MATCHED)
    mismatched = 0.3 * stats.beta.pdf(scores, *MISMATCHED)
    expected = matched / (matched + mismatched)
    assert np.allclose(mixture.clean_probability(scores), expected, atol=1e-4)


def test_the_tails_of_a_wide_component_do_not_turn_the_posterior_back():
    """A wide mismatched Beta beats a narrow matched one above it, too."""
    mixture = BetaMixture(Beta(300, 100), Beta(1, 1), 0.3)
    low, middle, high = mixture.clean_probability([0.3, 0.75, 0.99])
    assert low < 0.01
    assert high == pytest.approx(middle, abs=1e-3)
    assert middle > 0.9
    # And a wide matched one beats a narrow mismatched one below it.
    mixture = BetaMixture(Beta(1, 1), Beta(100, 300), 0.3)
    low, middle, high = mixture.clean_probability([0.01, 0.25, 0.7])
    assert low == pytest.approx(middle, abs=1e-3)
    assert middle < 0.2
    assert high > 0.99


@pytest.mark.parametrize(("rate", "expected"), [(0.0, 1.0), (1.0, 0.0)])
def test_a_pool_of_one_kind_is_all_of_it(rate, expected):
    mixture = BetaMixture(Beta(*MATCHED), Beta(*MISMATCHED), rate)
    assert (mixture.clean_probability([0.0, 0.5, 1.0]) == expected).all()


# The fit


@pytest.mark.parametrize("prior", ["anchor", "init"])
@pytest.mark.parametrize("rate", [0.1, 0.4, 0.7])
def test_a_simulated_pool_gives_back_its_parameters(prior, rate):
    scores, truth = simulated(rate)
    mixture = fit(scores, prior=prior)
    assert mixture.fallback == ""
    assert mixture.noise_rate == pytest.approx(truth.mean(), abs=0.02)
    for found, expected in ((mixture.matched, MATCHED), (mixture.mismatched, MISMATCHED)):
        assert found.mean == pytest.approx(stats.beta.mean(*expected), abs=0.015)
        assert (found.a, found.b) == pytest.approx(expected, rel=0.12)
    assert_usable(mixture)


@pytest.mark.parametrize("prior", ["anchor", "init"])
@pytest.mark.parametrize("rate", [0.1, 0.4, 0.7])
def test_probabilities_mean_what_they_say(prior, rate):
    scores, truth = simulated(rate)
    trusted = {"matched": drawn(MATCHED, 5000, 1), "mismatched": drawn(MISMATCHED, 5000, 2)}
    probability = fit(scores, prior=prior, **trusted).clean_probability(scores)
    for low in np.arange(0, 1, 0.2):
        within = (probability >= low) & (probability < low + 0.2)
        assert (~truth[within]).mean() == pytest.approx(probability[within].mean(), abs=0.06)


def test_the_fit_is_near_the_best_likelihood():
    scores, _ = simulated(0.4)
    pool = histogram(scores)
    found = fit(scores, prior="init")
    truth = BetaMixture(Beta(*MATCHED), Beta(*MISMATCHED), 0.4)
    expected = np.log(
        0.6 * stats.beta.pdf(scores, *MATCHED) + 0.4 * stats.beta.pdf(scores, *MISMATCHED)
    ).sum()
    assert truth.log_likelihood(pool) == pytest.approx(expected, rel=1e-3)
    assert found.log_likelihood(pool) > truth.log_likelihood(pool) - 2


def test_em_goes_on_until_it_rests_or_has_had_its_iterations():
    """From trusted pairs far from the pool's, where one iteration is not nearly enough."""
    scores, _ = simulated(0.4, matched=(12, 6), mismatched=(2, 12))
    trusted = {"matched": drawn((12, 3), 100, 1), "mismatched": drawn((4, 12), 100, 2)}
    likelihoods = [
        fit(scores, prior="init", max_iterations=count, **trusted).log_likelihood(histogram(scores))
        for count in (1, 2, 4, 8, 500, 1000)
    ]
    assert sorted(likelihoods) == likelihoods
    assert likelihoods[0] + 10 < likelihoods[3]
    assert likelihoods[4] == likelihoods[5]


def test_the_size_of_the_pool_does_not_move_an_unanchored_fit():
    pool = histogram(simulated(0.4)[0])
    trusted = {
        "matched": histogram(drawn(MATCHED, 200, 1)),
        "mismatched": histogram(drawn(MISMATCHED, 200, 2)),
    }
    rates = [
        fit_mixture(k * pool, **trusted, prior="init", max_iterations=10, tolerance=1e-2).noise_rate
        for k in (1, 1000)
    ]
    assert rates[0] == pytest.approx(rates[1], rel=1e-9)


def test_anchors_hold_the_components_near_the_trusted_pairs():
    """Trusted pairs that score above the pool's: `init` leaves them, `anchor` goes halfway."""
    scores, _ = simulated(0.4, matched=(12, 6), mismatched=(2, 12))
    trusted = {"matched": drawn((12, 3), 100, 1), "mismatched": drawn((2, 12), 100, 2)}
    init, anchor = (fit(scores, prior=prior, **trusted) for prior in ("init", "anchor"))
    assert init.matched.mean == pytest.approx(12 / 18, abs=0.01)
    assert init.matched.mean + 0.02 < anchor.matched.mean < 12 / 15 - 0.02


def test_anchors_tell_apart_what_the_pool_alone_does_not():
    scores, truth = simulated(0.1, count=400, matched=(5, 3), mismatched=(3, 4))
    trusted = {"matched": drawn((5, 3), 300, 1), "mismatched": drawn((3, 4), 300, 2)}
    mixture = fit(scores, prior="anchor", **trusted)
    assert mixture.noise_rate == pytest.approx(truth.mean(), abs=0.1)


# Guards


def reason(mixture):
    assert_usable(mixture)
    return mixture.fallback


@pytest.mark.parametrize("prior", ["anchor", "init"])
@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_a_pool_of_one_kind_falls_back_to_the_trusted_pairs(prior, rate):
    # Apart enough that a component can vanish at all.
    far = {"matched": (30.0, 3.0), "mismatched": (3.0, 30.0)}
    trusted = {name: drawn(shapes, 200, 1) for name, shapes in far.items()}
    mixture = fit(simulated(rate, 5000, **far)[0], prior=prior, **trusted)
    assert reason(mixture) == "one component weighs under 1 %"
    assert mixture.noise_rate == pytest.approx(rate, abs=0.01)
    assert mixture.matched == Beta.fit(histogram(trusted["matched"]))
    kept = mixture.clean_probability(drawn(far["matched" if rate == 0 else "mismatched"], 1000, 5))
    assert (kept > 0.5).mean() == pytest.approx(1 - rate, abs=0.02)


@pytest.mark.parametrize("prior", ["anchor", "init"])
def test_trusted_groups_that_cross_are_told(prior):
    mixture = fit(
        simulated(0.4)[0],
        prior=prior,
        matched=drawn(MISMATCHED, 50),
        mismatched=drawn(MATCHED, 50),
    )
    assert reason(mixture) == "trusted matched pairs score no higher than mismatched ones"


def test_trusted_groups_that_score_alike_are_told():
    same = drawn((4, 4), 50)
    mixture = fit(simulated(0.4)[0], matched=same, mismatched=same)
    assert reason(mixture) == "trusted matched pairs score no higher than mismatched ones"


def test_components_that_cross_in_the_em_are_told():
    """A wide matched component, drawn down to scores that neither trusted group has."""
    pool = np.concatenate([drawn((50, 50), 1000), drawn((5, 95), 1000, 1)])
    wide, narrow = drawn((1.2, 1), 50), drawn((50, 50), 50)
    mixture = fit(pool, prior="init", matched=wide, mismatched=narrow)
    assert reason(mixture) == "the components cross"
    assert mixture.matched == Beta.fit(histogram(wide))


def test_a_pool_of_one_beta_is_not_split():
    """In the middle between the trusted groups, where both components live on half of it."""
    mixture = fit(drawn((5, 5), 2000), prior="init")
    assert reason(mixture) == "two components explain the pool no better than one"
    assert mixture.matched == Beta.fit(histogram(drawn(MATCHED, 200, 1)))
    assert mixture.mismatched == Beta.fit(histogram(drawn(MISMATCHED, 200, 2)))


def test_an_empty_pool_leaves_the_trusted_pairs_alone():
    mixture = fit([])
    assert reason(mixture) == ""
    assert mixture.noise_rate == 0.5
    assert mixture.matched == Beta.fit(histogram(drawn(MATCHED, 200, 1)))


@pytest.mark.parametrize("prior", ["anchor", "init"])
@pytest.mark.parametrize("score", [0.0, 0.3, 0.5, 1.0])
def test_a_pool_of_equal_scores_is_usable(prior, score):
    mixture = fit(np.full(500, score), prior=prior)
    assert_usable(mixture)


@pytest.mark.parametrize("prior", ["anchor", "init"])
@pytest.mark.parametrize("pair", [(0.9, 0.1), (1.0, 0.0), (0.51, 0.5)])
def test_one_trusted_pair_of_each_kind_is_enough_to_go_on(prior, pair):
    scores, truth = simulated(0.4)
    mixture = fit(scores, prior=prior, matched=pair[:1], mismatched=pair[1:])
    assert_usable(mixture)
    if pair == (0.9, 0.1):
        assert mixture.noise_rate == pytest.approx(truth.mean(), abs=0.03)


@pytest.mark.parametrize("prior", ["anchor", "init"])
def test_saturated_trusted_scores_are_usable(prior):
    """A meta network sure of its own trusted pairs: all at the very ends."""
    scores, truth = simulated(0.4, matched=(20, 1), mismatched=(1, 20))
    mixture = fit(scores, prior=prior, matched=np.ones(100), mismatched=np.zeros(100))
    assert reason(mixture) == ""
    assert mixture.noise_rate == pytest.approx(truth.mean(), abs=0.03)


pools = st.lists(st.floats(0, 1), max_size=40)
groups = st.lists(st.floats(0, 1), min_size=1, max_size=10)


@given(pool=pools, matched=groups, mismatched=groups, prior=st.sampled_from(["anchor", "init"]))
@often
def test_any_input_gives_a_usable_mixture(pool, matched, mismatched, prior):
    assert_usable(fit(pool, matched=matched, mismatched=mismatched, prior=prior))
