"""The configuration on the command line: options, `--set` and files become one `RunConfig`.

Names, defaults, bounds and help texts are those of `nccleaner.config`; none is repeated here.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from nccleaner.config import RunConfig, overlay, read_preset
from nccleaner.errors import UsageError

LIST_SETTINGS = "`nccleaner fit --settings` lists them all."

_Function = Callable[..., Any]


def settings() -> dict[str, FieldInfo]:
    """All fields of the configuration by their full name, for example `train.epochs`."""
    found: dict[str, FieldInfo] = {}
    for name, field in RunConfig.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            found |= {f"{name}.{inner}": field for inner, field in section.model_fields.items()}
        else:
            found[name] = field
    return found


def describe(field: FieldInfo) -> str:
    """A field's help text with its default."""
    if field.default is None:
        return field.description or ""
    return f"{field.description}  [default: {field.default}]"


def list_settings(config: RunConfig) -> list[tuple[str, str]]:
    """Lists all settings by full name: help text, default, and the value where it is another."""
    listed = []
    for name, field in settings().items():
        value: object = config
        for part in name.split("."):
            value = getattr(value, part)
        now = "" if value == field.default else f"  [now: {value}]"
        listed.append((name, describe(field) + now))
    return listed


def setting_option(flag: str, name: str) -> Callable[[_Function], _Function]:
    """An option for one field; its value is None where it is not given.

    Like all that makes the configuration it is eager, so that `--settings` sees it.

    Args:
        flag: For example `--epochs`.
        name: For example `train.epochs`.
    """
    field = settings()[name]
    return click.option(
        flag, _parameter(name), type=_click_type(field), is_eager=True, help=describe(field)
    )


def take_settings(arguments: dict[str, Any]) -> dict[str, object]:
    """Takes the values of `setting_option`s that were given out of a command's arguments."""
    values = {name: arguments.pop(_parameter(name), None) for name in settings()}
    return {name: value for name, value in values.items() if value is not None}


def parse_assignment(text: str) -> tuple[str, object]:
    """Splits `train.epochs=5`; the value is JSON, or text where it is no JSON.

    Raises:
        UsageError: There is no `=`, or no such setting.
    """
    name, equals, value = (part.strip() for part in text.partition("="))
    if not equals:
        raise UsageError(
            f"--set {text}: expected NAME=VALUE, for example train.epochs=5.", LIST_SETTINGS
        )
    if name not in settings():
        raise _unknown(f"--set {text}", name)
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def build_config(
    preset: str | None,
    file: Path | None,
    assignments: Sequence[str],
    options: Mapping[str, object],
) -> RunConfig:
    """Makes the configuration: the preset, over it the file, over it `--set` and the options.

    Args:
        preset: One of those that come with nccleaner; None for the defaults.
        file: JSON or TOML, in sections as `RunConfig` has them.
        assignments: `NAME=VALUE`, as given to `--set`.
        options: Values of options by the name of their field.

    Raises:
        UsageError: A preset that does not exist, a file that cannot be read, a setting that does
            not exist, is out of bounds, or is given twice.
    """
    from_file = _read_file(file) if file else {}
    _validate(from_file, str(file))
    values = overlay(read_preset(preset) if preset else {}, from_file)
    given = dict(options)
    for text in assignments:
        name, value = parse_assignment(text)
        if name in given:
            raise UsageError(f"{name} is given twice.", "Give it once, by its option or by --set.")
        given[name] = value
    for name, value in given.items():
        section, _, field = name.rpartition(".")
        (values.setdefault(section, {}) if section else values)[field] = value
    return _validate(values, "")


def _parameter(name: str) -> str:
    return name.replace(".", "_")


def _click_type(field: FieldInfo) -> click.ParamType[Any]:
    if get_origin(field.annotation) is Literal:
        return click.Choice(get_args(field.annotation))
    if field.annotation is int:
        return click.INT
    return click.STRING


def _read_file(path: Path) -> dict[str, Any]:
    readers: dict[str, Callable[[str], object]] = {".json": json.loads, ".toml": tomllib.loads}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise UsageError(
            f"{path}: expected a name that ends in .json or .toml.", "Rename or convert the file."
        )
    try:
        values = reader(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}.", "Check the path.") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: cannot be read: {error}.", "Correct the file.") from error
    if not isinstance(values, dict):
        raise UsageError(f"{path}: expected sections, found a {type(values).__name__}.")
    return values


def _validate(values: Mapping[str, object], source: str) -> RunConfig:
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
    name = ".".join(map(str, first["loc"]))
    if first["type"] == "extra_forbidden":
        raise _unknown(source, name)
    prefix = f"{source}: " if source else ""
    expected = first["msg"].removeprefix("Value error, ")
    raise UsageError(f"{prefix}{name}: {expected}; got {first['input']!r:.80}.", LIST_SETTINGS)


def _unknown(source: str, name: str) -> UsageError:
    close = difflib.get_close_matches(name, settings(), n=1)
    guess = f"Did you mean {close[0]}? " if close else ""
    return UsageError(f"{source}: there is no setting {name!r}.", guess + LIST_SETTINGS)
