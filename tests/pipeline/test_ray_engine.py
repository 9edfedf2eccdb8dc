"""The Ray engine on a cluster of two nodes: the same bytes, whatever dies on the way."""

from __future__ import annotations

import hashlib
import pickle
import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
import ray
import torch
from ray.cluster_utils import Cluster
from rayjobs import UNITS, Numbering

import nccleaner
from nccleaner.errors import (
    InputError,
    MissingDependencyError,
    NccleanerError,
    ShardError,
    UsageError,
)
from nccleaner.pipeline import ray_actor, ray_engine
from nccleaner.pipeline.engines import LocalEngine, open_engine
from nccleaner.pipeline.ray_actor import Home
from nccleaner.pipeline.ray_engine import RayEngine, _threads

TESTS = Path(__file__).resolve().parents[1]
SMALL = {"object_store_memory": 100_000_000, "include_dashboard": False}

# Sockets and files of Ray, which its own processes close when they end.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head and another node, a CPU each; the other one has what Ray is told to be a GPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(TESTS))  # the jobs of the tests
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **SMALL})
        cluster.add_node(num_cpus=1, num_gpus=1, object_store_memory=100_000_000)
        patch.setenv("RAY_ADDRESS", cluster.address)
        cluster.wait_for_nodes()
        yield cluster
        cluster.shutdown()


@pytest.fixture(scope="module")
def engine(cluster: Cluster) -> Iterator[RayEngine]:
    with RayEngine() as engine:
        yield engine


def check_numbers(folder: Path, items: range) -> None:
    names = {path.name for path in folder.iterdir() if path.name.isdigit()}
    assert names == {str(item) for item in items}
    assert all((folder / str(item)).read_text() == str(item**2) for item in items)
    assert not list(folder.glob(".*"))


def test_results_come_in_order_from_both_nodes(engine: RayEngine, tmp_path: Path) -> None:
    items, told = range(12), []
    results = list(engine.run(Numbering(tmp_path, item_s=0.3), items, told.append))
    assert [result["item"] for result in results] == list(items)
    assert len({result["node"] for result in results}) == 2
    assert all(result["main"] for result in results)  # decoders need signals
    processes = {str(result["process"]) for result in results}
    for word in ("opened", "closed"):
        assert {p.name.partition("-")[2] for p in tmp_path.glob(f"{word}-*")} == processes
    assert sum(told) == len(items) * UNITS
    check_numbers(tmp_path, items)


def test_progress_is_told_within_an_item(engine: RayEngine, tmp_path: Path) -> None:
    told: list[int] = []
    list(engine.run(Numbering(tmp_path, item_s=4), range(1), told.append))
    assert sum(told) == UNITS
    assert len(told) > 2


def test_a_killed_process_loses_and_doubles_nothing(engine: RayEngine, tmp_path: Path) -> None:
    items, told = range(6), []
    job = Numbering(tmp_path, item_s=0.3, deaths={0: 1, 3: 2})
    results = list(engine.run(job, items, told.append))
    assert [result["item"] for result in results] == list(items)
    assert len(list(tmp_path.glob("died-*"))) == 3
    assert sum(told) == len(items) * UNITS
    check_numbers(tmp_path, items)


def test_a_killed_node_loses_and_doubles_nothing(
    cluster: Cluster, engine: RayEngine, tmp_path: Path
) -> None:
    node = cluster.add_node(num_cpus=1, object_store_memory=100_000_000)
    cluster.wait_for_nodes()
    items, told = range(12), []
    results = []
    for result in engine.run(Numbering(tmp_path, item_s=1), items, told.append):
        results.append(result)
        if node is not None and node.node_id in [result["node"] for result in results]:
            cluster.remove_node(node, allow_graceful=False)
            node = None
    assert node is None
    assert [result["item"] for result in results] == list(items)
    assert len({result["node"] for result in results}) == 3
    assert sum(told) == len(items) * UNITS
    check_numbers(tmp_path, items)


def test_an_item_that_kills_again_and_again_is_named(engine: RayEngine, tmp_path: Path) -> None:
    job = Numbering(tmp_path, deaths={2: 9})
    with pytest.raises(NccleanerError, match=r"at number 2 died, 3 times") as caught:
        list(engine.run(job, range(4), lambda _: None))
    assert caught.value.next_step
    assert len(list(tmp_path.glob("died-2-*"))) == 3
    # The next run does it, and clears what the killed ones left.
    list(engine.run(Numbering(tmp_path), range(4), lambda _: None))
    check_numbers(tmp_path, range(4))


@pytest.mark.parametrize("error", [ShardError("Shard 00001 is bad.", "Mend it."), KeyError("key")])
def test_errors_arrive_as_they_were_raised(
    engine: RayEngine, tmp_path: Path, error: Exception
) -> None:
    with pytest.raises(type(error)) as caught:
        list(engine.run(Numbering(tmp_path, fails={1: error}), range(4), lambda _: None))
    assert type(caught.value) is type(error)
    assert (caught.value.args, vars(caught.value)) == (error.args, vars(error))


def test_an_actor_has_the_gpu_where_there_is_one(engine: RayEngine, tmp_path: Path) -> None:
    results = list(engine.run(Numbering(tmp_path, device="auto"), range(3), lambda _: None))
    assert {result["gpus"] for result in results} == {"0"}
    assert len({result["node"] for result in results}) == 1
    results = list(engine.run(Numbering(tmp_path, device="cpu"), range(3), lambda _: None))
    assert {result["gpus"] for result in results} == {""}


def test_other_versions_on_a_node_are_refused(
    engine: RayEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_engine, "version", lambda _: "9.9")
    with pytest.raises(NccleanerError, match=r"has nccleaner .*; the command .* with 9\.9"):
        list(engine.run(Numbering(tmp_path), range(2), lambda _: None))


def test_folders_that_a_node_does_not_see_are_refused(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_actor, "_VISIBLE_S", 0.1)
    home = Home(version("nccleaner"), Path.cwd(), (tmp_path / "mark",), 0)
    with pytest.raises(InputError, match="does not see"):
        home.settle()
    (tmp_path / "mark").touch()
    home.settle()


def test_a_cluster_that_is_not_there_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with RayEngine() as engine, pytest.raises(NccleanerError, match=r"no Ray cluster at 127"):
        list(engine.run(Numbering(tmp_path), range(2), lambda _: None))


def test_without_ray_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "nccleaner.pipeline.ray_engine")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependencyError, match="ray") as caught, open_engine("ray"):
        pass
    assert "pip install 'nccleaner[ray]'" in caught.value.next_step


def test_an_engine_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UsageError, match="slurm"), open_engine("slurm"):  # type: ignore[arg-type]
        pass


def test_in_an_actor_further_jobs_are_done_there() -> None:
    assert isinstance(pickle.loads(pickle.dumps(RayEngine())), LocalEngine)


def contents(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def contents_of_run(run: Path) -> dict[str, str]:
    """What is in folders; the keep set, named after the times of files, goes by another name.

    Without the cache of embeddings, whose headers come in any order.
    """
    found = contents(run)
    return {
        "clean/keepset" if path.startswith("clean/keepset-") else path: digest
        for path, digest in found.items()
        if "/" in path and not path.startswith("embeddings/")
    }


@pytest.fixture(scope="module")
def runs(fitted, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two copies of a fit of which nothing is left but its networks."""
    folder = tmp_path_factory.mktemp("engines")
    for name in ("local", "ray"):
        shutil.copytree(fitted.run, folder / name)
        for made in ("features", "scores", "clean", "embeddings"):
            shutil.rmtree(folder / name / made, ignore_errors=True)
    return {name: folder / name for name in ("local", "ray")}


def test_a_gpu_is_not_asked_for_where_the_command_was_typed(
    cluster: Cluster, tmp_path: Path
) -> None:
    for device in ("cuda", "auto", "cpu"):
        assert _threads(Numbering(tmp_path, device=device, in_threads=True)) == 1
        assert _threads(Numbering(tmp_path, device=device)) == torch.get_num_threads()


def test_features_and_scores_have_the_same_bytes(
    cluster: Cluster, runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(runs["ray"].parent)
    for name, run in runs.items():
        assert nccleaner.score(run.name, engine=name).reading.pairs == 240
    found, wanted = contents_of_run(runs["ray"]), contents_of_run(runs["local"])
    assert {path.split("/")[0] for path in found} >= {"features", "scores"}
    assert found == wanted


def test_what_a_purge_writes_has_the_same_bytes(cluster: Cluster, runs: dict[str, Path]) -> None:
    for name, run in runs.items():
        assert nccleaner.purge(run, threshold=0.3, engine=name).summary.kept > 0
    found, wanted = contents_of_run(runs["ray"]), contents_of_run(runs["local"])
    folders = {"/".join(path.split("/")[:2]) for path in found if path.startswith("clean/")}
    assert folders > {"clean/manifest", "clean/rejected", "clean/index", "clean/keepset"}
    assert found == wanted


@pytest.mark.parametrize("form", ["webdataset", "csv", "clip-retrieval", "datacomp"])
def test_exports_have_the_same_bytes(cluster: Cluster, fitted, tmp_path: Path, form: str) -> None:
    out, found = tmp_path / "out", {}
    for name in ("local", "ray"):
        result = nccleaner.export(fitted.run, out, format=form, samples_per_shard=30, engine=name)
        found[name] = (result.parts, result.pairs, contents(out))
        shutil.rmtree(out)  # tables hold its path
    assert found["ray"] == found["local"]
