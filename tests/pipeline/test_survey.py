from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from purged import strings

from nccleaner.output.manifests import write_manifest
from nccleaner.pipeline import survey as module
from nccleaner.pipeline.reporter import SilentReporter
from nccleaner.pipeline.survey import Draw, Survey
from nccleaner.purify.decide import Decision
from nccleaner.records import MISMATCHED, MISSING_IMAGE, OK

CUT_OFF = Decision("corrected_similarity", 0.5, "threshold")


def make_scores(shard: str, pairs: int, *, seed: int, rejects: int = 0) -> pa.Table:
    rng = np.random.default_rng(seed)
    count = pairs + rejects
    scores = {
        name: pa.array(rng.random(count), pa.float32(), mask=np.arange(count) >= pairs)
        for name in ("similarity", "corrected_similarity", "clean_probability")
    }
    return pa.table(
        {
            "shard": pa.array([shard] * count),
            "key": pa.array([f"{number:05d}" for number in range(count)]),
            **scores,
            "fitted": pa.array(rng.random(count) < 0.7),
            "status": pa.array([OK] * pairs + [MISSING_IMAGE] * rejects),
        }
    )


def write(clean: Path, scores: pa.Table, keep: np.ndarray | None = None) -> None:
    if keep is None:
        keep = CUT_OFF.keeps(scores["corrected_similarity"].fill_null(-2).to_numpy())
    write_manifest(
        clean,
        shard=scores["shard"][0].as_py(),
        metadata=pa.table({"key": scores["key"]}),
        scores=scores,
        keep=keep,
        reasons=strings([MISMATCHED if s == OK else s for s in scores["status"].to_pylist()]),
        uids=strings([None] * len(scores)),
        first_row=0,
        stamp="",
    )


def survey(clean: Path, *, decision: Decision = CUT_OFF, seed: int = 0) -> Survey:
    found = Survey(decision, problems={"00001": "cut"}, seed=seed)
    found.read(clean, 0, SilentReporter())
    return found


@pytest.fixture
def scores(tmp_path) -> list[pa.Table]:
    tables = [make_scores(f"{n:05d}", 300, seed=n, rejects=n) for n in range(4)]
    for table in tables:
        write(tmp_path, table)
    return tables


def ok(tables: list[pa.Table]) -> dict[str, np.ndarray]:
    pairs = pa.concat_tables(tables).filter(pa.compute.field("status") == OK)
    return {name: pairs[name].to_numpy() for name in pairs.column_names}


def test_every_sample_is_counted_once(tmp_path, scores):
    found = survey(tmp_path)
    assert [outcome.samples for outcome in found.outcomes] == [300, 301, 302, 303]
    assert [outcome.problem for outcome in found.outcomes] == ["", "cut", "", ""]
    for number, (outcome, table) in enumerate(zip(found.outcomes, scores, strict=True)):
        above = (table["corrected_similarity"].fill_null(-2).to_numpy() >= 0.5).sum()
        assert outcome.kept == above
        assert outcome.mismatched == 300 - above
        assert dict(outcome.rejects) == ({MISSING_IMAGE: number} if number else {})


def test_bars_hold_all_pairs_by_their_clean_probability(tmp_path, scores):
    found, pairs = survey(tmp_path), ok(scores)
    for of_bars, weights in (
        (found.matched, pairs["clean_probability"]),
        (found.mismatched, 1 - pairs["clean_probability"]),
    ):
        places = np.minimum((pairs["corrected_similarity"] * len(of_bars)).astype(int), 19)
        assert np.allclose(of_bars, np.bincount(places, weights, len(of_bars)), atol=1e-3)
    assert found.counts == {True: pairs["fitted"].sum(), False: (~pairs["fitted"]).sum()}


def test_the_nearest_are_the_nearest(tmp_path, scores):
    found, pairs = survey(tmp_path), ok(scores)
    for kind, mine in (("below", lambda s: s < 0.5), ("above", lambda s: s >= 0.5)):
        expected = np.sort(
            np.abs(pairs["corrected_similarity"] - 0.5)[mine(pairs["corrected_similarity"])]
        )[: module.GALLERY_PAIRS]
        drawn = found.draws[kind].pairs
        distances = [abs(pair["corrected_similarity"] - 0.5) for pair in drawn]
        assert np.allclose(distances, expected, atol=1e-7)
        assert all(pair["kept"] == (kind == "above") for pair in drawn)


def test_galleries_hold_what_they_say(tmp_path, scores):
    found = survey(tmp_path)
    sure = [pair["clean_probability"] for pair in found.draws["surely_mismatched"].pairs]
    assert 0 < len(sure) <= module.GALLERY_PAIRS
    assert max(sure) <= module.SURE
    sure = [pair["clean_probability"] for pair in found.draws["surely_matched"].pairs]
    assert min(sure) >= 1 - module.SURE
    sample = [(pair["shard"], pair["key"]) for pair in found.draws["random"].pairs]
    assert len(set(sample)) == len(sample) == 300
    assert {shard for shard, _ in sample} == {"00000", "00001", "00002", "00003"}


def test_a_sample_is_drawn_evenly(tmp_path, scores):
    means = [
        np.mean(
            [pair["clean_probability"] for pair in survey(tmp_path, seed=s).draws["random"].pairs]
        )
        for s in range(10)
    ]
    everything = ok(scores)["clean_probability"]
    error = everything.std() / np.sqrt(300 * 10)
    assert abs(np.mean(means) - everything.mean()) < 4 * error
    assert len(set(means)) == 10


def test_the_same_seed_draws_the_same(tmp_path, scores):
    first, second = survey(tmp_path), survey(tmp_path)
    assert {k: d.pairs for k, d in first.draws.items()} == {
        k: d.pairs for k, d in second.draws.items()
    }


def test_pairs_that_somebody_decided_are_marked(tmp_path):
    table = make_scores("00000", 50, seed=0)
    keep = CUT_OFF.keeps(table["corrected_similarity"].to_numpy())
    keep[:2] = ~keep[:2]
    write(tmp_path, table, keep)
    decided = {p["key"] for p in survey(tmp_path).draws["random"].pairs if p["by_person"]}
    assert decided == {"00000", "00001"}


def test_pairs_come_from_enough_shards_and_no_more(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_MIN_PAIRS", 60)
    for number in range(12):
        write(tmp_path, make_scores(f"{number:05d}", 5, seed=number))
    found = survey(tmp_path)
    assert len(found.pictured) == 12, "eight shards have 40 pairs, too few"
    monkeypatch.setattr(module, "_MIN_PAIRS", 20)
    found = survey(tmp_path)
    assert len(found.pictured) == 8
    assert {pair["shard"] for pair in found.draws["random"].pairs} == set(found.pictured)
    assert found.matched.sum() + found.mismatched.sum() == pytest.approx(60), "all are counted"
    assert set(survey(tmp_path, seed=1).pictured) != set(found.pictured)


def test_cosines_are_arranged_by_themselves(tmp_path, scores):
    found = survey(tmp_path, decision=Decision("similarity", 0.2, "threshold"))
    assert found.score == "similarity"
    assert (found.edges[0], found.edges[-1]) == (-1, 1)
    assert found.matched[:10].sum() == 0, "these are all positive"
    distances = [abs(pair["similarity"] - 0.2) for pair in found.draws["above"].pairs]
    assert distances == sorted(distances)


def test_a_draw_keeps_the_lowest_ranks_whatever_the_portions():
    ranks = np.random.default_rng(0).random(100)
    pairs = pa.table({"key": [str(number) for number in range(100)]})
    draw = Draw(7)
    for start in range(0, 100, 9):
        draw.add(pairs.slice(start, 9), ranks[start : start + 9])
    assert [int(pair["key"]) for pair in draw.pairs] == np.argsort(ranks)[:7].tolist()
    assert Draw(7).pairs == []
