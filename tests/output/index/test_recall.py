import faiss
import numpy as np
import pytest

from nccleaner.output.index.recall import ExactNearest, find_effort


def gathered(queries: np.ndarray, vectors: np.ndarray, sizes: list[int]) -> ExactNearest:
    exact = ExactNearest(queries)
    for block in np.split(vectors, np.cumsum(sizes)[:-1]):
        exact.add(block)
    return exact


@pytest.fixture
def vectors() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(500, 8)).astype(np.float32)


@pytest.fixture
def queries() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(40, 8)).astype(np.float32)


@pytest.mark.parametrize("sizes", [[500], [1, 0, 9, 490], [250, 250]])
def test_the_answers_of_exact_search_are_all_right(vectors, queries, sizes):
    flat = faiss.IndexFlatIP(8)
    flat.add(vectors)
    rows = flat.search(queries, 10)[1]
    exact = gathered(queries, vectors, sizes)
    assert exact.recall(rows, chosen=slice(None)) == 1
    wrong = rows.copy()
    wrong[:, :3] = -1
    assert exact.recall(wrong, chosen=slice(None)) == pytest.approx(0.7)


def test_recall_is_the_share_of_the_ten_nearest(vectors, queries):
    right = np.argsort(-(queries @ vectors.T).astype(np.float64), axis=1)[:, :10]
    found = np.random.default_rng(2).integers(500, size=(40, 10))
    expected = np.mean([len(set(a) & set(b)) for a, b in zip(found, right, strict=True)]) / 10
    distinct = np.array([sorted(set(row)) + [-1] * (10 - len(set(row))) for row in found])
    exact = gathered(queries, vectors, [500])
    assert exact.recall(distinct, chosen=slice(None)) == pytest.approx(expected)
    half = exact.recall(distinct[::2], chosen=slice(0, None, 2))
    other = exact.recall(distinct[1::2], chosen=slice(1, None, 2))
    assert (half + other) / 2 == pytest.approx(expected)


def test_a_vector_that_is_there_several_times_counts_whichever_is_found(queries):
    vectors = np.repeat(np.eye(8, dtype=np.float32), 30, axis=0)
    exact = gathered(queries, vectors, [240])
    best = np.argmax(queries, axis=1)
    last_ten = 30 * best[:, None] + np.arange(20, 30)
    assert exact.recall(last_ten, chosen=slice(None)) == 1


def test_fewer_than_ten_vectors(queries, vectors):
    exact = gathered(queries, vectors[:4], [4])
    assert exact.recall(np.tile(np.arange(4), (40, 1)), chosen=slice(None)) == 1


def test_the_least_effort_that_is_enough_is_chosen(vectors, queries):
    exact = gathered(queries, vectors, [500])
    right = {
        tuple(q): row for q, row in zip(queries, np.argsort(-(queries @ vectors.T)), strict=True)
    }

    def search(asked: np.ndarray, effort: int) -> np.ndarray:
        """Finds `effort` of the ten, 8 at most."""
        rows = np.array([right[tuple(query)][:10] for query in asked])
        rows[:, min(effort, 8) :] = -1
        return rows

    assert find_effort(search, exact, efforts=[1, 2, 4], target=0.4) == (4, pytest.approx(0.4))
    assert find_effort(search, exact, efforts=[1, 5, 9, 17], target=0.5) == (5, pytest.approx(0.5))
    assert find_effort(search, exact, efforts=[4, 8, 16], target=0.95) == (8, pytest.approx(0.8))


def test_no_more_effort_is_tried_when_it_gains_nothing(vectors, queries):
    exact = gathered(queries, vectors, [500])
    right = np.argsort(-(queries @ vectors.T), axis=1)[:, :10]
    tried = []

    def search(asked: np.ndarray, effort: int) -> np.ndarray:
        tried.append(effort)
        places = [np.flatnonzero((queries == query).all(axis=1))[0] for query in asked]
        rows = right[places].copy()
        rows[:, min(effort, 6) :] = -1
        return rows

    assert find_effort(search, exact, efforts=[2**n for n in range(12)], target=0.95) == (
        8,
        pytest.approx(0.6),
    )
    assert tried == [1, 2, 4, 8, 16, 32, 8]
