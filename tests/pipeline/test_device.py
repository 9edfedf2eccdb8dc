"""Where the training tables are, and what their pairs say wherever they are."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from handmade import META, POOL, PROBES, TABLES, Listener, small, train

from nccleaner.pipeline import device as module
from nccleaner.pipeline.device import DeviceTables, fits
from nccleaner.purify.frozen import FrozenEvidence, FrozenPool

WIDTHS = 16 + 16
ROWS = len(TABLES.features.images)


def test_features_fit_with_the_copies_that_the_frozen_evidence_makes():
    tables = 2 * ROWS * WIDTHS  # float16
    copies = 3 * 4 * (POOL + PROBES) * WIDTHS
    assert fits(TABLES, free_bytes=2 * (tables + copies))
    assert not fits(TABLES, free_bytes=2 * (tables + copies) - 2)


def test_evidence_does_not_depend_on_portions(monkeypatch):
    data = DeviceTables.on(TABLES, "cpu")
    frozen = FrozenEvidence.fit(
        FrozenPool.of(data.frozen(data.pool)),
        weights=torch.ones(len(data.pool)),
        references=64,
        neighbours=5,
        shrinkage=1.0,
        generator=torch.Generator().manual_seed(0),
    )
    at_once = data.evidence(frozen, data.pool)
    monkeypatch.setattr(module, "_BLOCK_PAIRS", 37)
    torch.testing.assert_close(data.evidence(frozen, data.pool), at_once)
    assert at_once.shape == (POOL + PROBES, 3)


def test_on_a_cpu_the_tables_are_where_they_were_built():
    data = DeviceTables.on(TABLES, "cpu")
    assert data.features.images.data_ptr() == TABLES.features.images.data_ptr()
    assert data.at_features() is data
    images, texts = data.features.of(TABLES.meta.matched)
    first = POOL + PROBES
    assert torch.equal(images, TABLES.features.images[first : first + META])
    assert torch.equal(texts, TABLES.features.texts[first : first + META])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_features_that_stay_outside_the_gpu_teach_the_same(tmp_path, monkeypatch):
    results = []
    for name, room in (("inside", True), ("outside", False)):
        monkeypatch.setattr(module, "fits", lambda *_, room=room, **__: room)
        config = small(train={"precision": "float32"})
        fitted = train(tmp_path / name, Listener(), replace(TABLES), config, device="cuda")
        results.append(fitted.probe_auroc)
    assert results[0] == pytest.approx(results[1], abs=0.02)
