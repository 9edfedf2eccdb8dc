"""Numbers that are no numbers, and data that hold nothing to learn: a result, or a clear refusal.

The feature cache is what the networks see: where an encoder is to be bad, its cache is.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from builders import Row, write_webdataset_shard
from safetensors.numpy import load_file, save_file
from smallfit import Clipart, read_clipart, tiny, write_csv

import nccleaner
from nccleaner.errors import InputError, RunError, TrainingError, TrustedError
from nccleaner.pipeline.results import FitResult

Array = npt.NDArray[np.float16]


@dataclass(frozen=True)
class Base:
    """A fit whose run directory tests copy, and what it was made from."""

    art: Clipart
    shards: Path
    trusted: Path
    run: Path

    def copy(self, run: Path, **change: Callable[[Array], Array]) -> Path:
        """Copies the feature cache alone, changed by kind of feature."""
        shutil.copytree(self.run / "features", run / "features")
        spoil(run, **change)
        return run

    def fit(self, run: Path, **sections: object) -> FitResult:
        return nccleaner.fit(self.shards, meta=self.trusted, run=run, config=tiny(**sections))


def spoil(run: Path, **change: Callable[[Array], Array]) -> None:
    for kind, function in change.items():
        for path in (run / "features").glob(f"*/{kind}.npy"):
            features = np.load(path)
            np.save(path, function(features.copy()).astype(features.dtype))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    folder, art = tmp_path_factory.mktemp("numbers"), read_clipart()
    shards = art.write_shards(folder / "shards")
    trusted = art.write_trusted(folder / "trusted.csv")
    nccleaner.fit(shards, meta=trusted, run=folder / "run", config=tiny())
    return Base(art, shards, trusted, folder / "run")


def with_one(value: float) -> Callable[[Array], Array]:
    def change(features: Array) -> Array:
        features[3, 5] = value
        return features

    return change


def scores_of(folder: Path) -> pa.Table:
    """All scores of pairs; asserts that each is a number in its range."""
    paths = sorted((folder / "scores").glob("*.parquet"))
    table = pa.concat_tables(pq.read_table(path) for path in paths)
    pairs = table.filter(pc.equal(table["status"], "ok"))
    for column, low in (("similarity", -1), ("corrected_similarity", 0), ("clean_probability", 0)):
        values = pairs[column].to_numpy()
        assert ((values >= low) & (values <= 1)).all(), column  # false where one is NaN
    return pairs


def write_shards(folder: Path, rows: Iterable[Row]) -> Path:
    write_webdataset_shard(folder, "00000", list(rows))
    return folder


def write_labels(path: Path, keys: Sequence[str], label: int = 1) -> Path:
    return write_csv(path, ["key", "label"], [(key, label) for key in keys])


@pytest.mark.parametrize(("kind", "value"), [("image", np.nan), ("text", -np.inf)])
def test_features_that_are_not_finite_are_refused_by_fit_and_score(
    base: Base, tmp_path: Path, kind: str, value: float
) -> None:
    run = base.copy(tmp_path / "run", **{kind: with_one(value)})
    with pytest.raises(RunError, match=rf"0000[01]/{kind}\.npy is damaged") as caught:
        base.fit(run)
    assert "made anew" in (caught.value.next_step or "")

    fitted = tmp_path / "fitted"
    shutil.copytree(base.run, fitted)
    spoil(fitted, **{kind: with_one(value)})
    with pytest.raises(RunError, match=rf"{kind}\.npy is damaged"):
        nccleaner.score(fitted)
    assert not list(fitted.glob("scores/*.parquet"))
    for part in (fitted / "features").iterdir():
        shutil.rmtree(part)  # as the error says
    assert nccleaner.purge(fitted).summary.samples == len(base.art.rows)
    assert len(scores_of(fitted)) == len(base.art.rows)


@pytest.mark.parametrize("constant", [0, 1])
@pytest.mark.parametrize(("kind", "what"), [("image", "images"), ("text", "captions")])
def test_an_encoder_that_says_the_same_of_everything_is_refused(
    base: Base, tmp_path: Path, kind: str, what: str, constant: float
) -> None:
    run = base.copy(tmp_path / "run", **{kind: lambda features: features * 0 + constant})
    with pytest.raises(InputError, match=f"All .* {what} have the same features"):
        base.fit(run)


@pytest.mark.parametrize("size", [60_000, 6e-8])
def test_features_of_any_size_give_scores(base: Base, tmp_path: Path, size: float) -> None:
    run = base.copy(tmp_path / "run", image=lambda features: np.sign(features) * np.float32(size))
    base.fit(run)
    nccleaner.purge(run)
    assert len(scores_of(run)) == len(base.art.rows)


def test_scores_that_are_no_better_than_chance_are_warned_of(base: Base, tmp_path: Path) -> None:
    draws = np.random.default_rng(1)
    run = base.copy(tmp_path / "run", text=lambda features: draws.normal(size=features.shape))
    warning = base.fit(run).warning
    assert "hardly better than chance" in warning
    assert "hardly better than chance" not in base.fit(base.run).warning


@pytest.mark.parametrize("rate", ["learning_rate", "meta_learning_rate"])
def test_a_training_that_diverges_says_so(base: Base, tmp_path: Path, rate: str) -> None:
    run = base.copy(tmp_path / "run")
    with pytest.raises(TrainingError, match="Training diverged") as caught:
        base.fit(run, train={rate: 1e30})
    assert "train.learning_rate" in (caught.value.next_step or "")
    assert not (run / "run.json").exists()
    assert not (run / "checkpoints" / "best.safetensors").exists()


def test_a_scorer_whose_weights_are_no_numbers_gives_no_scores(base: Base, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(base.run, run)
    path = run / "checkpoints" / "best.safetensors"
    _spoil_weights(path)
    with pytest.raises(RunError, match="not finite"):
        nccleaner.score(run)
    assert not list(run.glob("scores/*.parquet"))


def _spoil_weights(path: Path) -> None:
    from safetensors import safe_open

    with safe_open(path, "numpy") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    name = max((n for n in tensors if n.startswith("main_net.0")), key=lambda n: tensors[n].size)
    tensors[name] = tensors[name].copy()
    tensors[name].flat[7] = np.nan
    save_file(tensors, path, metadata)


def test_all_captions_equal_are_refused(base: Base, tmp_path: Path) -> None:
    same = [Row(row.key, "a drawing", row.image) for row in base.art.rows]
    with pytest.raises(TrustedError, match="too few different images or captions"):
        nccleaner.fit(
            write_shards(tmp_path / "shards", same),
            meta=base.trusted,
            run=tmp_path / "run",
            config=tiny(),
        )


def test_all_images_equal_are_refused(base: Base, tmp_path: Path) -> None:
    image = base.art.rows[0].image
    same = [Row(row.key, row.caption, image) for row in base.art.rows]
    with pytest.raises(TrustedError, match="of 1 images"):
        nccleaner.fit(
            write_shards(tmp_path / "shards", same),
            meta=base.trusted,
            run=tmp_path / "run",
            config=tiny(),
        )


@pytest.mark.parametrize("mismatched", [False, True])
def test_pairs_of_one_kind_only_and_fewer_than_a_batch(
    base: Base, tmp_path: Path, mismatched: bool
) -> None:
    """Beside the trusted pairs there are only matched, or only mismatched ones: 42 of them."""
    art, trusted = base.art, set(base.art.trusted)
    others = art.mismatched(42) if mismatched else art.matched_untrusted(42)
    rows = [row for row in art.rows if row.key in trusted or row.key in others]
    run = tmp_path / "run"
    result = nccleaner.fit(
        write_shards(tmp_path / "shards", rows),
        meta=write_labels(tmp_path / "trusted.csv", art.trusted),
        run=run,
        config=tiny(),
    )
    assert result.pool < tiny().train.batch_size
    assert 0 <= result.noise_rate <= 1
    summary = nccleaner.purge(run).summary
    assert summary.kept + sum(summary.dropped.values()) == summary.samples == len(rows)
    scores_of(run)


def test_only_wrong_labels_or_too_few_are_refused(base: Base, tmp_path: Path) -> None:
    def fit(rows: Sequence[Row], trusted: Path) -> None:
        shards = write_shards(tmp_path / "shards", rows)
        nccleaner.fit(shards, meta=trusted, run=tmp_path / "run", config=tiny())

    art = base.art
    wrong = art.mismatched(42)
    with pytest.raises(TrustedError, match="0 of them labelled 1"):
        fit(art.rows, write_labels(tmp_path / "wrong.csv", wrong, label=0))
    with pytest.raises(TrustedError, match="usable pairs: 1, "):
        fit(art.rows[:1], write_labels(tmp_path / "one.csv", [art.rows[0].key]))
    with pytest.raises(InputError, match="0 pairs that are not trusted"):
        fit(
            [row for row in art.rows if row.key in wrong],
            write_labels(tmp_path / "all.csv", wrong),
        )


@pytest.mark.parametrize("count", [1, 2])
def test_one_pair_is_scored_purged_and_searched(base: Base, tmp_path: Path, count: int) -> None:
    shards, output = write_shards(tmp_path / "shards", base.art.rows[:count]), tmp_path / "out"
    purged = nccleaner.purge  # of other shards than those of the fit
    nccleaner.score(base.run, shards, output=output)
    assert len(scores_of(output)) == count
    for cut in ({}, {"keep_fraction": 1.0}, {"threshold": 0.0}, {"threshold": 1.0}):
        summary = purged(base.run, output=output, **cut).summary
        assert summary.samples == count
        assert summary.kept + sum(summary.dropped.values()) == count
    assert purged(base.run, output=output, threshold=0.0).summary.kept == count
    hits = nccleaner.search(base.run, "a drawing", output=output)
    assert len(hits) == count
