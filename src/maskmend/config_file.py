"""Configurations as YAML files and on the command line: read, changed, compared, written.

Nothing here imports torch, so that `--help` stays instant.
"""

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints, overload

import yaml
from pydantic import TypeAdapter, ValidationError

from maskmend.config import AdaptationConfig, Config, ModelConfig, PriorConfig
from maskmend.errors import ConfigError

AnyConfig = TypeVar("AnyConfig", Config, PriorConfig, ModelConfig)


@overload
def read_config(path: Path, overrides: Sequence[str] = ()) -> Config: ...
@overload
def read_config(
    path: Path, overrides: Sequence[str] = (), *, kind: type[AnyConfig]
) -> AnyConfig: ...
def read_config(path: Path, overrides: Sequence[str] = (), *, kind: Any = Config) -> Any:
    """Read a YAML configuration; a key that it leaves out has its default.

    Args:
        path: The YAML file.
        overrides: "section.field=value" each, the value in YAML; they win over the file.
        kind: Of configuration.

    Raises:
        ConfigError: The file cannot be read, a key is unknown (the nearest known one is named) or a
            value is of the wrong type or range.
    """
    tree = read_tree(path)
    for override in overrides:
        set_field(tree, override)
    return config_from(tree, source=str(path), kind=kind)


def read_tree(path: Path) -> dict[str, Any]:
    """The sections and fields that a YAML file names, unchecked.

    Raises:
        ConfigError: It cannot be read, or names none.
    """
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: no such configuration file; check the path, or print one by maskmend config"
        ) from None
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror}); name a YAML file that can be"
        ) from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"{path}: cannot be read as YAML: {reason}; compare with maskmend config"
        ) from error
    tree = {} if tree is None else tree
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected sections with fields, got {type(tree).__name__}")
    return tree


@overload
def config_from(tree: Mapping[str, Any], *, source: str = ...) -> Config: ...
@overload
def config_from(
    tree: Mapping[str, Any], *, source: str = ..., kind: type[AnyConfig]
) -> AnyConfig: ...
def config_from(
    tree: Mapping[str, Any], *, source: str = "configuration", kind: Any = Config
) -> Any:
    """A configuration from nested mappings; raises ConfigError as `read_config` does."""
    try:
        return TypeAdapter(kind).validate_python(tree)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ConfigError(f"{source}: {_explain(first, kind)}") from error


def adaptation_of(
    base: AdaptationConfig, given: Mapping[str, Any], *, judged: bool
) -> AdaptationConfig:
    """A model's settings of adaptation, but for the fields that are given and not None.

    Args:
        base: The model's.
        given: Fields by name.
        judged: Whether a discriminator can score its masks. If not, plain inference reports their
            entropy, which changes nothing.

    Raises:
        ConfigError: There is no such field, or its value is wrong.
    """
    fields = {name: value for name, value in given.items() if value is not None}
    if not judged and fields.get("steps") == 0:
        fields.setdefault("prior", "entropy")
    tree = {"adaptation": dataclasses.asdict(base) | fields}
    return config_from(tree, source="settings").adaptation


def to_yaml(config: Config | PriorConfig) -> str:
    """The whole configuration, defaults written out, as `read_config` reads it."""
    return yaml.safe_dump(_plain(dataclasses.asdict(config)), sort_keys=False)


def changes(before: AnyConfig, after: AnyConfig) -> dict[str, tuple[Any, Any]]:
    """Fields in which two configurations differ, by "section.field", with both values."""
    left: dict[str, Any] = _flat(dataclasses.asdict(before))
    right: dict[str, Any] = _flat(dataclasses.asdict(after))
    both = {**right, **left}  # labels come and go
    pairs = {key: (left.get(key), right.get(key)) for key in both}
    return {key: (was, becomes) for key, (was, becomes) in pairs.items() if was != becomes}


def differences(before: AnyConfig, after: AnyConfig) -> list[str]:
    """The same for people, as "section.field: before -> after"."""
    return [f"{key}: {was} -> {now}" for key, (was, now) in changes(before, after).items()]


def set_field(tree: dict[str, Any], override: str) -> None:
    """Put "section.field=value" into nested mappings; raises ConfigError if it is not that."""
    key, equals, value = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {override}: expected section.field=value")
    *sections, field = key.strip().split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"--set {override}: {section} is a field, not a section")
    try:
        tree[field] = yaml.safe_load(value)
    except yaml.YAMLError:
        raise ConfigError(f"--set {override}: the value is not valid YAML") from None


def _explain(error: Any, kind: Any) -> str:
    """One line for one of pydantic's errors."""
    where = [str(part) for part in error["loc"]]
    name = ".".join(where) or "configuration"
    if error["type"] == "unexpected_keyword_argument":
        known = [field.name for field in dataclasses.fields(_section(kind, where[:-1]))]
        near = difflib.get_close_matches(where[-1], known, n=1, cutoff=0.0)[0]
        return f"unknown key {name}; did you mean {'.'.join([*where[:-1], near])}?"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "value_error":
        return f"{name}: {message}" if where else message
    return f"{name}: {message}; got {error['input']!r}"


def _section(kind: Any, where: Sequence[str]) -> Any:
    """The dataclass at a path of field names, some of which may be None by default."""
    for name in where:
        hint = get_type_hints(kind)[name]
        kind = next(one for one in get_args(hint) or (hint,) if dataclasses.is_dataclass(one))
    return kind


def _plain(value: Any) -> Any:
    """Tuples to lists, which YAML reads back safely."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _flat(tree: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        is_section = isinstance(value, dict) and not prefix.endswith("structures.")
        flat |= _flat(value, f"{prefix}{key}.") if is_section else {f"{prefix}{key}": value}
    return flat
