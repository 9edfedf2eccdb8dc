"""What cut-offs cost by the trusted pairs, on pools whose truth is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from nccleaner.purify.by_trusted import ByTrusted, Standing
from nccleaner.purify.decide import Cuts, Grid, Known, ScoreCounts
from nccleaner.purify.fit_judge import fit_judge
from nccleaner.purify.heads import Prior
from nccleaner.purify.judge import Judge, Labelled
from nccleaner.purify.near_misses import NearMisses
from nccleaner.purify.noise import CUTOFF, NoiseRate
from nccleaner.purify.posterior import Posterior
from nccleaner.purify.promise import promise_precision
from nccleaner.purify.shares import highest_share

CUT_OFF = 0.55
NOBODY = Known(0, 0)


def one_evidence(matched, rng):
    """Logits of scores whose two densities have the ratio s : 1 - s; the head leaves them so."""
    scores = rng.beta(0.8 + matched, 1.8 - matched)
    return np.log(scores / (1 - scores))[:, None]


def normal_evidence(matched, rng):
    """Two normal distributions."""
    return rng.normal(size=(len(matched), 1)) + np.where(matched, 1.3, -1.3)[:, None]


def standing_of(rate, *, seed, count=2000, labelled=120, evidence=one_evidence, noise=None):
    """A pool, its scores and its truth, and the judge of it."""
    rng = np.random.default_rng(seed)
    truth = rng.random(count) > rate
    pool = evidence(truth, rng)
    matched = np.arange(labelled) % 2 == 0
    judge = fit_judge(
        [evidence(matched, rng)],
        np.zeros(labelled, np.float32),
        matched,
        pool_evidence=[pool],
        priors=[Prior.equal(pool.shape[1])],
        seed=seed,
        noise=noise,
    )
    scores = judge.corrected_similarity([pool])
    passing = float((scores >= CUTOFF).mean())
    return Standing(judge, count, passing, counts_of(judge, scores)), scores, truth


def counts_of(judge, scores):
    counts = ScoreCounts("corrected_similarity")
    counts.add(scores, judge.clean_probability(scores))
    return counts


def witness(*standings, known=NOBODY):
    return ByTrusted("corrected_similarity", standings, known=known, labelled=120, seed=0)


def cuts_of(values, *scores):
    """The cut-offs with what they keep."""
    kept = [[(np.float32(value) <= of).sum() for value in values] for of in scores]
    return Cuts(np.array(values, dtype=float), np.array(kept, dtype=np.int64))


def price(value, standing, scores, known=NOBODY):
    return witness(standing, known=known).prices(cuts_of([value], scores))[0]


def truth_at(value, scores, truth):
    kept = scores >= np.float32(value)
    return (~truth).mean(), (~truth)[kept].mean(), kept[truth].mean()


@pytest.fixture(scope="module")
def pool():
    return standing_of(0.3, seed=100, labelled=600)


def test_a_price_is_near_the_truth_and_inside_its_interval(pool):
    cost = price(CUT_OFF, *pool[:2])

    for interval, fact in zip(cost, truth_at(CUT_OFF, *pool[1:]), strict=True):
        assert interval.low <= interval.value <= interval.high
        assert interval.value == pytest.approx(fact, abs=0.08)
    assert price(CUT_OFF, *pool[:2]) == cost


def frozen_noise(rate, *, seed, trusted=60, pool=2000):
    """The noise rate by evidence of its own."""
    rng = np.random.default_rng(10_000 + seed)
    matched, mismatched = 0.9, 0.12
    passing = rng.binomial(pool, (1 - rate) * matched + rate * mismatched) / pool
    shares = (rng.binomial(trusted, share) / trusted for share in (matched, mismatched))
    return NoiseRate(passing, *shares, trusted)


@pytest.mark.parametrize("noise", [lambda rate, seed: None, frozen_noise])
@pytest.mark.parametrize("evidence", [one_evidence, normal_evidence])
def test_intervals_cover_the_truth_about_as_often_as_they_say(evidence, noise):
    count = 100
    covered = np.zeros(3)
    for seed in range(count):
        rate = 0.1 + 0.5 * seed / count
        standing, scores, truth = standing_of(
            rate, seed=seed, evidence=evidence, noise=noise(rate, seed=seed)
        )
        facts = truth_at(CUT_OFF, scores, truth)
        for part, interval in enumerate(price(CUT_OFF, standing, scores)):
            covered[part] += interval.low <= facts[part] <= interval.high

    # Measured are 92 to 99 % of 200; fewer than 85 of 100 would be rare.
    assert (covered >= 85).all(), covered / count


def test_a_noise_rate_that_is_known_is_what_the_price_rests_on():
    known = NoiseRate(passing=0.7, matched_passing=0.9, mismatched_passing=0.1, trusted=400)
    judged, scores, _ = standing_of(0.5, seed=3, noise=known)
    for noise in (known, judged.judge.noise):
        judge = replace(judged.judge, noise=noise)

        before = price(CUT_OFF, judged._replace(judge=judge), scores).before

        assert before.value == pytest.approx(noise.value)
        by_draws = np.quantile(noise.draws(20_000, np.random.default_rng(1)), [0.025, 0.975])
        assert (before.low, before.high) == pytest.approx(tuple(by_draws), abs=0.01)


def test_mismatched_pairs_that_pass_are_drawn_with_the_rate_that_they_say():
    """Drawn apart, their product would seem more certain than it is."""
    standing, scores, _ = standing_of(0.5, seed=3, noise=frozen_noise(0.5, seed=3))
    unheard = replace(standing.judge.noise, trusted=1)  # beside what the labelled pairs say

    by_both, by_labelled = (
        price(CUT_OFF, standing._replace(judge=replace(standing.judge, noise=noise)), scores).after
        for noise in (unheard, None)
    )

    assert by_both.high - by_both.low > 0.95 * (by_labelled.high - by_labelled.low)


@pytest.mark.parametrize("noise", [None, NoiseRate(0.6, 0.9, 0.2, 120)])
def test_pairs_like_the_labelled_ones_are_not_doubted(noise):
    for seed, rate in enumerate([0.05, 0.2, 0.4, 0.6, 0.8, 0.95]):
        standing, _, _ = standing_of(rate, seed=seed, noise=noise)
        assert not witness(standing).is_contradicted()


@pytest.mark.parametrize("truth", [0.0, 1.0])
def test_sets_that_are_all_matched_or_mismatched_are_doubted_as_seldom_as_said(truth):
    doubted = [witness(standing_of(truth, seed=seed)[0]).is_contradicted() for seed in range(100)]
    assert sum(doubted) <= 5


@pytest.mark.parametrize("passing", [0.99, 0.01])
def test_where_more_or_fewer_pass_than_labelled_ones_do_estimates_are_doubted(pool, passing):
    standing = pool[0]._replace(passing=passing)

    assert witness(standing).is_contradicted()
    assert not witness(standing._replace(pairs=3)).is_contradicted(), "three may all pass by chance"
    assert not witness(standing._replace(pairs=0), pool[0]).is_contradicted()


def test_a_noise_rate_that_no_mixture_explains_is_doubted(pool):
    judge = replace(pool[0].judge, noise=NoiseRate(0.99, 0.8, 0.2, 600))
    assert witness(pool[0]._replace(judge=judge)).is_contradicted()


def test_keeping_everything_loses_nothing(pool):
    cost = price(0.0, *pool[:2])

    assert cost.recall.value == pytest.approx(1, abs=0.01)
    assert cost.after.value == pytest.approx(cost.before.value, abs=0.01)


def test_keeping_nothing_finds_nothing(pool):
    cost = price(1.0, *pool[:2])

    assert cost.after is None
    assert cost.recall.value == 0


def test_where_no_labelled_mismatched_pair_reaches_there_may_be_none(pool):
    standing, scores, _ = pool
    labelled = standing.judge.labelled
    above_all = float(labelled.corrected_similarity[~labelled.matched].max()) + 1e-6

    after = price(above_all, standing, scores).after

    assert after.low == 0
    assert after.value > 0


def test_pairs_that_people_labelled_are_counted_as_what_they_are(pool):
    standing, scores, _ = pool
    alone = price(CUT_OFF, standing, scores)
    kept = (scores >= CUT_OFF).sum()

    cost = price(CUT_OFF, standing, scores, known=Known(500, 100))

    assert cost.before.value == pytest.approx((2000 * alone.before.value + 100) / 2600)
    assert cost.after.high == pytest.approx(kept * alone.after.high / (kept + 500))
    good = 2000 * (1 - alone.before.value)
    assert cost.recall.value == pytest.approx((good * alone.recall.value + 500) / (good + 500))


def test_standings_add_up_by_their_pairs(pool):
    clean, of_clean, _ = standing_of(0.05, seed=7, count=6000)
    of_pool = pool[1]

    both = witness(pool[0], clean).prices(cuts_of([CUT_OFF], of_pool, of_clean))[0]

    alone = price(CUT_OFF, pool[0], of_pool), price(CUT_OFF, clean, of_clean)
    mean = (2000 * alone[0].before.value + 6000 * alone[1].before.value) / 8000
    assert both.before.value == pytest.approx(mean)
    empty = Standing(clean.judge, 0, 0.0, counts_of(clean.judge, np.empty(0)))
    nothing = cuts_of([CUT_OFF], of_pool, np.empty(0, np.float32))
    assert witness(pool[0], empty).prices(nothing)[0] == alone[0]


def handmade(good, bad, *, repeats=1, grows=True, pairs=1000, passing=0.6, noise=None):
    """A standing whose labelled pairs have the scores given."""
    scores = np.float32([*good, *bad])
    labelled = Labelled(np.arange(len(scores)) < len(good), scores, scores, scores, repeats, grows)
    judge = Judge((), (), False, 0.0, noise, labelled)
    return Standing(judge, pairs, passing, counts_of(judge, np.empty(0)))


GOOD, BAD = [0.9] * 90 + [0.3] * 10, [0.1] * 80 + [0.6] * 16 + [0.8] * 4


def test_a_bound_is_put_together_from_exact_bounds():
    cuts = Cuts(np.array([0.7, 0.55]), np.array([[500, 600]]))
    by = witness(handmade(GOOD, BAD))

    bounds = by.bounds(cuts, by.mismatched(cuts))

    assert by.mismatched(cuts).tolist() == [[4, 20]]
    most, least = highest_share([90, 20], 100, miss=0.0125)
    rate = (most - 0.6) / (most - least)
    reach = highest_share([4, 20], 100, miss=0.025)
    assert bounds == pytest.approx(1 - 1000 * rate * reach / [500, 600])


def heeding(standing, scores):
    """The standing where the pool decides; scores and counts are of a pool like it or another."""
    found = NearMisses(Posterior(0.5, 0.5), 0.4, np.linspace(0.3, 0.5, 50))
    judge = standing.judge.heeding(found)
    return Standing(judge, len(scores), 0.6, counts_of(judge, scores))


def test_where_there_are_near_misses_clean_probabilities_say_what_is_mismatched():
    scores = np.random.default_rng(0).beta(2, 1, 3000).astype(np.float32)
    unlike = heeding(handmade(GOOD, BAD), scores)
    wrong = 1 - unlike.judge.clean_probability(scores).astype(float)
    by, values = witness(unlike), [0.9, 0.55]

    for value, cost in zip(values, by.prices(cuts_of(values, scores)), strict=True):
        kept = scores >= np.float32(value)
        assert cost.before.value == pytest.approx(wrong.mean(), abs=1e-4)
        assert cost.after.value == pytest.approx(wrong[kept].mean(), abs=1e-4)
        assert cost.recall.value == pytest.approx((1 - wrong)[kept].sum() / (1 - wrong).sum())
        for interval in cost:
            assert interval.low < interval.value < interval.high


def test_pairs_outside_the_pool_have_a_noise_rate_of_their_own():
    alike = np.full(1000, 0.99, np.float32)
    cost = price(CUT_OFF, heeding(handmade(GOOD, BAD), alike), alike)

    assert cost.before.value == pytest.approx(1 - Posterior(0.5, 0.5)([0.99])[0], abs=1e-4)
    assert cost.before.high < 0.12


def test_nothing_is_promised_where_there_are_near_misses():
    cuts = Cuts(np.array([0.7, 0.55]), np.array([[560, 700]]))
    plain = handmade(GOOD, BAD)
    by = witness(heeding(plain, np.zeros(1000)))

    assert by.holds_near_misses()
    assert not witness(plain).holds_near_misses()
    assert by.bounds(cuts, by.mismatched(cuts)).tolist() == [0, 0]


def test_a_bound_leaves_room_for_a_share_of_the_noise_rate_of_its_own():
    noise = NoiseRate(passing=0.6, matched_passing=0.9, mismatched_passing=0.1, trusted=400)
    cuts = Cuts(np.array([0.7]), np.array([[500]]))
    by = witness(handmade(GOOD, BAD, noise=noise))

    bound = by.bounds(cuts, by.mismatched(cuts))

    most, least = highest_share([360, 40], 400, miss=0.0125)
    rate = (most - 0.6) / (most - least)
    assert bound == pytest.approx(1 - 1000 * rate * highest_share(4, 100, miss=0.025) / 500)


def test_mismatched_pairs_made_of_one_trusted_pair_tell_as_much_as_one():
    cuts = Cuts(np.array([0.7]), np.array([[500]]))
    once = witness(handmade(GOOD, BAD))
    thrice = witness(handmade(GOOD, BAD * 3, repeats=3))

    assert thrice.bounds(cuts, thrice.mismatched(cuts)) == pytest.approx(
        once.bounds(cuts, once.mismatched(cuts))
    )
    first, other = (by.prices(cuts)[0] for by in (once, thrice))
    for one, two in zip(first, other, strict=True):
        assert one == pytest.approx(two, abs=0.02)


def test_more_labels_would_not_mean_more_exchanged_pairs():
    cuts = Cuts(np.array([0.7]), np.array([[500]]))
    by = witness(handmade(GOOD, BAD, grows=False))

    bound = by.bounds(cuts, by.mismatched(cuts), times=100)

    most = highest_share(9000, 10_000, miss=0.0125)
    least = highest_share(20, 100, miss=0.0125)
    rate = (most - 0.6) / (most - least)
    assert bound == pytest.approx(1 - 1000 * rate * highest_share(4, 100, miss=0.025) / 500)


def test_what_would_do_supposes_no_more_exchanged_pairs():
    """A share of 0 of 100 exchanged pairs may still be 3.6 %, whatever else is labelled."""
    fixed = handmade(GOOD, [0.1] * 100, passing=0.64, grows=False)
    grown = handmade(GOOD, [0.1] * 100, passing=0.64)
    scores = np.concatenate([np.linspace(0.8, 0.9, 640), np.linspace(0.05, 0.1, 360)])

    refusals = [
        promise_precision(
            witness(standing), [counts_of(standing.judge, scores.astype(np.float32))], target
        )
        for standing in (fixed, grown)
        for target in (0.981, 0.982, 0.99)
    ]

    few, more, never, *others = (refusal.needed for refusal in refusals)
    assert few < more
    assert never is None
    assert all(needed is not None for needed in others)


def test_few_pairs_of_another_standing_hardly_touch_a_bound():
    other = handmade([0.9] * 20, [0.1] * 20, pairs=1)
    alone, both = witness(handmade(GOOD, BAD)), witness(handmade(GOOD, BAD), other)
    cuts = Cuts(np.array([0.7]), np.array([[500]]))
    with_other = Cuts(cuts.values, np.array([[500], [1]]))

    bound = both.bounds(with_other, both.mismatched(with_other))

    assert bound == pytest.approx(alone.bounds(cuts, alone.mismatched(cuts)), abs=3e-3)


def test_the_labelled_pairs_are_expected_to_be_like_what_is_believed_of_all():
    cuts = Cuts(np.array([0.7, 0.0]), np.array([[500, 1000], [100, 200]]))
    by = witness(handmade(GOOD, BAD), handmade(GOOD, BAD[:50]))

    expected = by.expected(Grid(cuts, np.array([[30, 300], [10, 40]])))

    assert expected.tolist() == [[10, 100], [12.5, 50]]
