import json
from operator import attrgetter
from pathlib import Path

import pytest
from click.testing import CliRunner

from nccleaner.config import RunConfig, preset_names
from nccleaner.errors import UsageError
from nccleaner_cli.main import cli
from nccleaner_cli.settings import build_config, parse_assignment, settings, take_settings


def test_nothing_given_is_the_default():
    assert build_config(None, None, [], {}) == RunConfig()


def test_every_setting_is_listed_with_its_default():
    output = CliRunner().invoke(cli, ["fit", "--settings"]).output
    listed = {line.split()[0] for line in output.splitlines() if not line.startswith(" ")}
    assert listed == set(settings())
    assert "Same inputs, seed and device give the same scores." in " ".join(output.split())


def test_help_takes_defaults_from_the_configuration():
    output = " ".join(CliRunner().invoke(cli, ["fit", "--help"]).output.split())
    assert f"[default: {RunConfig().train.epochs}]" in output
    assert f"[default: {RunConfig().encoders.image}]" in output


def test_options_go_over_a_file(tmp_path: Path):
    file = tmp_path / "config.toml"
    file.write_text('seed = 7\n[train]\nepochs = 5\nmargin = 0.3\n[encoders]\ntext = "gru"\n')
    config = build_config(None, file, ["train.margin=0.4"], {"train.epochs": 9})
    assert (config.seed, config.train.epochs, config.train.margin) == (7, 9, 0.4)
    assert config.encoders.text == "gru"
    as_json = tmp_path / "config.json"
    as_json.write_text(config.model_dump_json())
    assert build_config(None, as_json, [], {}) == config


def test_a_preset_goes_under_the_file_and_the_file_under_options(tmp_path: Path):
    file = tmp_path / "config.toml"
    file.write_text("[train]\nmargin = 0.3\nlearning_rate = 0.5\n")
    preset = RunConfig.preset("paper")
    config = build_config("paper", file, ["train.margin=0.4"], {})
    assert (config.train.margin, config.train.learning_rate) == (0.4, 0.5)
    assert config.train.meta_learning_rate == preset.train.meta_learning_rate
    assert config.train.meta_learning_rate != RunConfig().train.meta_learning_rate
    assert (config.encoders, config.model) == (preset.encoders, preset.model)


def test_a_preset_that_does_not_exist():
    with pytest.raises(UsageError, match="no preset 'big'") as caught:
        build_config("big", None, [], {})
    assert "clip, paper, small" in caught.value.next_step


def test_the_list_shows_what_the_other_options_make_of_it(tmp_path: Path):
    file = tmp_path / "config.json"
    file.write_text('{"train": {"margin": 0.25}}')
    arguments = ["--preset", "paper", "--config", str(file), "--set", "data.workers=3"]

    def shown(words):
        result = CliRunner().invoke(cli, ["fit", *words])
        assert result.exit_code == 0
        return " ".join(result.output.split())

    output = shown(["--settings", *arguments, "--seed", "5"])
    config = RunConfig.preset("paper", train={"margin": 0.25}, data={"workers": 3}, seed=5)
    for name in ("seed", "train.margin", "data.workers", "encoders.image"):
        assert f"[now: {attrgetter(name)(config)}]" in output
    changed = [
        name for name in settings() if attrgetter(name)(config) != attrgetter(name)(RunConfig())
    ]
    assert output.count("[now: ") == len(changed)
    assert shown(["s", "--meta", "t.csv", *arguments, "--seed=5", "--settings"]) == output
    assert "[now: " not in shown(["--settings"])


def test_the_list_refuses_what_fit_would_refuse():
    result = CliRunner().invoke(cli, ["fit", "--settings", "--preset", "big"])
    assert result.exit_code == 2
    assert "no preset 'big'" in result.stderr


def test_help_names_every_preset():
    output = CliRunner().invoke(cli, ["fit", "--help"]).output
    option = output.split("--preset NAME")[1].split("--seed")[0]
    assert [name for name in preset_names() if name not in option] == []


def test_values_are_json_or_else_text():
    assert parse_assignment("train.epochs=5") == ("train.epochs", 5)
    assert parse_assignment("encoders.text=./my=model") == ("encoders.text", "./my=model")
    assert parse_assignment("encoders.image_weights=null") == ("encoders.image_weights", None)


def test_options_that_were_given_are_taken_by_the_name_of_their_field():
    arguments = {"train_epochs": 3, "encoders_text": None, "meta": "t.csv"}
    assert take_settings(arguments) == {"train.epochs": 3}
    assert arguments == {"meta": "t.csv"}


@pytest.mark.parametrize(
    ("assignments", "said"),
    [
        (["train.epoch=3"], "Did you mean train.epochs?"),
        (["train=3"], "no setting 'train'"),
        (["epochs"], "expected NAME=VALUE"),
        (["train.epochs=0"], "train.epochs: Input should be greater than or equal to 1; got 0"),
        (["train.epochs=many"], "train.epochs: Input should be a valid integer"),
        (["trusted.meta=0.9"], "must add up to 1, not 1.6"),
        (["train.epochs=3", "train.epochs=4"], "train.epochs is given twice"),
    ],
)
def test_wrong_settings(assignments, said):
    with pytest.raises(UsageError) as caught:
        build_config(None, None, assignments, {})
    assert said in str(caught.value)
    assert caught.value.next_step


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("c.toml", "[train]\nepoch = 3", "there is no setting 'train.epoch'"),
        ("c.json", json.dumps({"train": [1]}), "c.json: train: Input should be"),
        ("c.json", "[1]", "expected sections, found a list"),
        ("c.json", "{", "cannot be read"),
        ("c.yaml", "", "ends in .json or .toml"),
    ],
)
def test_wrong_files(tmp_path: Path, name, content, said):
    (tmp_path / name).write_text(content)
    with pytest.raises(UsageError) as caught:
        build_config(None, tmp_path / name, [], {})
    assert said in str(caught.value)


def test_a_missing_file(tmp_path: Path):
    with pytest.raises(UsageError, match="No such file"):
        build_config(None, tmp_path / "none.json", [], {})


def test_the_command_line_says_it_and_exits_with_2():
    arguments = ["fit", "shards", "--meta", "trusted.csv", "--set", "train.epoch=3"]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 2
    assert result.stderr == (
        "Error: --set train.epoch=3: there is no setting 'train.epoch'.\n"
        "Next: Did you mean train.epochs? `nccleaner fit --settings` lists them all.\n"
    )
