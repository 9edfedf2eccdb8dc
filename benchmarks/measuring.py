"""One configuration of the noise benchmark: its shards, and what each method makes of them."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from baselines.methods import BASELINES, Baselines
from baselines.mixture import clean_posterior
from baselines.pool import Pool, Truth
from encoded import SharedFeatures
from flickr8k import TrainingPlan, build_clean, build_training, build_validation
from records import Record

from nccleaner.evaluate.detection import detection_metrics
from nccleaner.pipeline.workspace import Workspace

PRODUCT, CEILING = "nccleaner", "clean-only"
METHODS = (PRODUCT, *BASELINES, CEILING)


@dataclass(frozen=True)
class Source:
    """What all configurations share.

    Attributes:
        flickr8k: The data.
        work: For shards and runs.
        validation_images: Images to measure retrieval on.
        features: Fills feature caches.
    """

    flickr8k: Path
    work: Path
    validation_images: int
    features: SharedFeatures


@dataclass
class Configuration:
    """Noisy training shards with a run directory, and clean shards to measure retrieval on.

    Attributes:
        source: Where it all comes from.
        plan: What is in the training shards.
        options: Settings for `fit`, as words of the command line.
    """

    source: Source
    plan: TrainingPlan
    options: Sequence[str]

    def measure(self, method: str) -> Record:
        """Runs one of `METHODS` and compares what it says with the truth."""
        run: dict[str, Callable[[], Record]] = {PRODUCT: self._product, CEILING: self._ceiling}
        return run[method]() if method in run else self._baseline(method)

    def remove(self) -> None:
        """Removes shards and runs, which the plan makes again."""
        for folder in (self._run, self._clean_run, self._training):
            shutil.rmtree(folder, ignore_errors=True)

    @cached_property
    def _training(self) -> Path:
        return build_training(self.source.flickr8k, self.source.work, self.plan)

    @cached_property
    def _validation(self) -> Path:
        images = self.source.validation_images
        return build_validation(self.source.flickr8k, self.source.work, images=images) / "shards"

    @property
    def _run(self) -> Path:
        return self.source.work / f"run-{self.plan.name}"

    @property
    def _clean_run(self) -> Path:
        return self.source.work / f"run-clean-{self.plan.name}"

    @cached_property
    def _pool(self) -> Pool:
        return self._read(Workspace(self._run).features, self._training / "shards")

    @cached_property
    def _clean_pool(self) -> Pool:
        return self._read(Workspace(self._run).evaluation, self._validation)

    def _read(self, cache: Path, shards: Path) -> Pool:
        features = self.source.features
        return Pool.read(features.fill(cache, shards), device=features.device)

    @cached_property
    def _truth(self) -> Truth:
        return Truth.read(self._training / "truth.csv", self._pool.names)

    @cached_property
    def _baselines(self) -> Baselines:
        return Baselines(self._pool, self.source.features.config, self.plan.seed)

    def _baseline(self, method: str) -> Record:
        baselines = self._baselines  # features are read before the clock starts
        start = time.monotonic()
        verdict = BASELINES[method](baselines)
        seconds = time.monotonic() - start
        retrieval = verdict.retrieval(self._clean_pool)
        return {
            **self._detection(verdict.scores, verdict.clean_probability),
            **({} if retrieval is None else recalls(asdict(retrieval))),
            "seconds": seconds,
        }

    def _detection(
        self, scores: npt.NDArray[np.floating], clean_probability: npt.NDArray[np.floating]
    ) -> Record:
        """Compares scores of all pairs with the truth, which leaves out the trusted."""
        rows, mismatched = self._truth.rows, self._truth.mismatched
        found = detection_metrics(
            mismatched,
            corrected_similarity=scores[rows],
            clean_probability=clean_probability[rows],
            kept=clean_probability[rows] > 0.5,
        )
        return self._with_noise_rate(asdict(found), float(1 - clean_probability.mean()))

    def _with_noise_rate(self, found: Record, estimated: float) -> Record:
        """Adds the noise rate of all pairs, trusted ones included, none of which is mismatched."""
        true = float(self._truth.mismatched.sum()) / len(self._pool.names)
        dropped = (found["dropped_mismatched"] + found["dropped_matched"]) / found["pairs"]
        return {
            **found,
            "dropped": dropped,
            "all_noise_rate": true,
            "all_estimated": estimated,
            "noise_error": estimated - true,
        }

    def _product(self) -> Record:
        shards, run = self._training / "shards", self._run
        self._fill(run, shards)
        fit = self._fit(shards, run, self.options)
        summary = nccleaner("purge", "--run", run)["summary"]
        truth = self._training / "truth.csv"
        found = nccleaner("evaluate", self._validation, "--truth", truth, "--run", run)
        return {
            **self._with_noise_rate(found["detection"], summary["mismatched_before"]["value"]),
            **recalls(found["retrieval"]),
            "seconds": fit["seconds"],
            "training_s": fit["training_s"],
        }

    def _ceiling(self) -> Record:
        """The same networks where nothing was mismatched; they then score the noisy pairs.

        All are believed, the few probes too that `fit` plants. Detection is by the cosine.
        """
        run, shards = self._clean_run, self._training / "clean"
        build_clean(self._training, shards)
        self._fill(run, shards)
        probe = max(0.05, 10 / self.plan.trusted)
        few = (f"trusted.probe={probe}", f"trusted.meta={0.8 - probe}", "purify.exchanged=1e-9")
        alone = (*few, "purify.belief=full")
        fit = self._fit(shards, run, [*self.options, *(f"--set={setting}" for setting in alone)])
        noisy, output = self._training / "shards", Workspace(run / "noisy")
        self.source.features.fill(output.features, noisy)
        nccleaner("score", noisy, "--run", run, "--output", output.root)
        found = nccleaner("evaluate", self._validation, "--run", run)
        scores = pa.concat_tables(map(pq.read_table, sorted(output.scores.glob("*.parquet"))))
        assert scores["key"].to_pylist() == [key for _, key in self._pool.names]
        similarity = scores["similarity"].to_numpy()
        return {
            **self._detection(similarity, clean_posterior(similarity)),
            **recalls(found["retrieval"]),
            "seconds": fit["seconds"],
            "training_s": fit["training_s"],
        }

    def _fit(self, shards: Path, run: Path, options: Sequence[str]) -> dict[str, Any]:
        trusted, seed = self._training / "trusted.csv", f"--seed={self.plan.seed}"
        return nccleaner("fit", shards, "--meta", trusted, "--run", run, seed, *options)

    def _fill(self, run: Path, shards: Path) -> None:
        self.source.features.fill(Workspace(run).features, shards)
        self.source.features.fill(Workspace(run).evaluation, self._validation)


def recalls(retrieval: Record) -> Record:
    """The figures of retrieval without the counts, which say nothing of a method."""
    return {name: value for name, value in retrieval.items() if name not in ("images", "captions")}


def nccleaner(*arguments: str | Path) -> dict[str, Any]:
    """Runs a command, shows what it tells of itself, and returns its machine-readable last line."""
    words = [*map(str, arguments), "--json"]
    print("$", shlex.join(["nccleaner", *words]), file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "nccleaner_cli.main", *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"nccleaner {words[0]} failed with exit code {done.returncode}.")
    last: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return last
