import faiss
import pytest

from nccleaner.errors import UsageError
from nccleaner.output.index.kinds import KINDS, choose_kind, plan_index

GB = 10**9


@pytest.mark.parametrize(
    ("count", "memory_bytes", "kind"),
    [
        (0, 0, "flat"),
        (9_999, 0, "flat"),
        (10_000, GB, "hnsw"),
        (10_000, 10_000 * (4 * 1024 + 256), "hnsw"),
        (10_000, 10_000 * (4 * 1024 + 256) - 1, "ivf-flat"),
        (999_999, GB, "ivf-flat"),
        (1_000_000, GB, "ivf-pq"),
        (1_000_000, 5 * GB, "hnsw"),
    ],
)
def test_the_kind_follows_size_and_memory(count, memory_bytes, kind):
    assert choose_kind(count, 1024, memory_bytes=memory_bytes) == kind


@pytest.mark.parametrize("dim", [8, 16, 100, 256, 1024])
@pytest.mark.parametrize("count", [256, 5_000, 3_000_000, 10**9])
@pytest.mark.parametrize("kind", KINDS)
def test_faiss_makes_every_plan(kind, count, dim):
    plan = plan_index(kind, count=count, dim=dim, memory_bytes=GB)
    index = faiss.index_factory(dim, plan.factory, faiss.METRIC_INNER_PRODUCT)
    assert index.d == dim
    assert plan.has_lists == (faiss.try_extract_index_ivf(index) is not None)


@pytest.mark.parametrize("count", [1, 38, 400, 20_000, 1_000_000, 10**9])
def test_each_list_is_learned_from_enough_vectors_that_fit_in_memory(count):
    plan = plan_index("ivf-flat", count=count, dim=1024, memory_bytes=GB)
    index = faiss.index_factory(1024, plan.factory, faiss.METRIC_INNER_PRODUCT)
    assert plan.sample <= count
    assert 2 * plan.sample * 4 * 1024 <= GB
    assert index.nlist == 1 or plan.sample / index.nlist >= 39
    assert index.nlist <= max(1, 4 * count**0.5)


def test_too_few_vectors_to_train_on_are_refused():
    with pytest.raises(UsageError, match="256 pairs at least, and 255 are kept"):
        plan_index("ivf-pq", count=255, dim=64, memory_bytes=GB)
    with pytest.raises(UsageError, match="1 pairs at least"):
        plan_index("ivf-flat", count=0, dim=64, memory_bytes=GB)
