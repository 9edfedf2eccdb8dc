"""The presets: data that the configuration accepts, and nothing in them that is the default."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from nccleaner.config import RunConfig, overlay, preset_names, read_preset
from nccleaner.errors import UsageError


def flat(sections: dict) -> dict[str, object]:
    """Settings by full name."""
    found = {}
    for name, value in sections.items():
        inner = flat(value) if isinstance(value, dict) else {"": value}
        found |= {f"{name}.{key}".rstrip("."): setting for key, setting in inner.items()}
    return found


def test_the_presets_are_those_that_the_documentation_names():
    assert preset_names() == ["clip", "paper", "small"]


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_is_accepted_and_says_only_what_differs(name):
    config, default = (
        flat(config.model_dump(mode="json")) for config in (RunConfig.preset(name), RunConfig())
    )
    stated = flat(read_preset(name))
    assert stated
    assert {key: config[key] for key in stated} == stated
    assert {key for key in config if config[key] != default[key]} == set(stated)


def test_settings_go_over_a_preset():
    config = RunConfig.preset("paper", seed=3, train={"epochs": 2})
    assert (config.seed, config.train.epochs) == (3, 2)
    assert config.model == RunConfig.preset("paper").model
    assert config.train.learning_rate == RunConfig.preset("paper").train.learning_rate
    with pytest.raises(ValidationError):
        RunConfig.preset("paper", train={"epoch": 2})


@pytest.mark.parametrize("name", ["big", "", "../config", "small.toml"])
def test_a_preset_that_does_not_exist_lists_those_that_do(name):
    with pytest.raises(UsageError, match="no preset") as caught:
        RunConfig.preset(name)
    assert "clip, paper, small" in caught.value.next_step


def test_sections_are_merged_and_neither_is_changed():
    values, over = {"train": {"epochs": 1, "margin": 0.1}, "seed": 1}, {"train": {"epochs": 2}}
    assert overlay(values, over) == {"train": {"epochs": 2, "margin": 0.1}, "seed": 1}
    assert (values["train"]["epochs"], over) == (1, {"train": {"epochs": 2}})
    assert overlay(values, {"train": 5})["train"] == 5  # for the configuration to refuse
