"""What the settings of the data come to on this machine."""

from __future__ import annotations

from nccleaner.config import DataConfig
from nccleaner.pipeline.backbones import decoders_of


def test_by_default_as_many_processes_decode_as_there_are_cores_for_this_one(monkeypatch):
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")
    assert decoders_of(DataConfig()) == 1
    assert decoders_of(DataConfig(workers=0)) == 0
    assert decoders_of(DataConfig(workers=3)) == 3
