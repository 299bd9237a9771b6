"""The reference pages, written from the code: commands, configuration, Python."""

import re
from dataclasses import is_dataclass
from typing import Any, Literal, get_args, get_origin

import maskmend
from maskmend.cli import app
from maskmend.config import Config

_GROUPS = {
    "Predicting": ["load", "Model", "Prediction", "predict_files"],
    "The method": ["adapt", "Adapted", "AdaptationConfig", "Prior", "DiscriminatorPrior"],
    "Training and scoring": ["train", "build", "Networks", "Config", "read_config", "evaluate"],
    "Errors": ["MaskmendError", "InputError", "ConfigError", "RunError"],
}


def commands() -> str:
    """Every verb of the command line, with its arguments and flags."""
    text = app.generate_docs()
    # The site has a table of contents of its own.
    text = re.sub(r"## Table of Contents\n.*?(?=\*\*Commands\*\*)", "", text, flags=re.DOTALL)
    return text.replace("# maskmend\n", "# Commands\n", 1).replace("```console", "```text")


def configuration() -> str:
    """Every field of the configuration, with its choices, its default and its help."""
    config = Config()
    lines = [
        "# Configuration",
        "",
        "A run is described by one YAML file. `maskmend config` prints all of it, with the paper's",
        "values but for `adaptation.steps`; a file needs to hold only what differs, and",
        "`--set section.field=value` changes a field on the command line.",
        "",
        *_fields(config, sections=False),
    ]
    for name, section in config.__pydantic_fields__.items():
        value = getattr(config, name)
        if is_dataclass(value):
            about = [type(value).__doc__ or "", section.description or ""]
            lines += ["", f"## {name}", "", " ".join(filter(None, about)), ""]
            lines += _fields(value, sections=True)
    return "\n".join(lines) + "\n"


def api() -> str:
    """Every public name of the package; mkdocstrings reads their docstrings."""
    lines = ["# Python", "", "After `import maskmend as mm` these are there as `mm.load`, ..."]
    grouped = {name for names in _GROUPS.values() for name in names}
    others = [name for name in maskmend.__all__ if name not in grouped]
    for heading, names in {**_GROUPS, "More": others}.items():
        lines += ["", f"## {heading}"] if names else []
        for name in names:
            # Where it is defined, for `maskmend.adapt` is a module as well.
            lines += ["", f"::: maskmend.{maskmend._HOMES[name]}.{name}"]
    return "\n".join(lines) + "\n"


def _fields(section: Any, *, sections: bool) -> list[str]:
    """One item a field; those that are sections themselves only if asked for."""
    items = []
    for name, field in type(section).__pydantic_fields__.items():
        value = getattr(section, name)
        if is_dataclass(value) and not sections:
            continue
        facts = []
        if get_origin(field.annotation) is Literal:
            facts.append(f"*[choices: {', '.join(map(str, get_args(field.annotation)))}]*")
        default = "as there" if is_dataclass(value) else f"`{_in_yaml(value)}`"
        facts.append(f"*[default:* {default}*]*")
        items.append(f"* `{name}`: {_help(type(section), name)} {' '.join(facts)}")
    return items


def _help(section: type, name: str) -> str:
    """The docstring of a field, which pydantic keeps with the class that has it."""
    classes = [one for one in section.__mro__ if name in getattr(one, "__pydantic_fields__", ())]
    texts = [one.__pydantic_fields__[name].description for one in classes]
    return " ".join(next(filter(None, texts)).split())


def _in_yaml(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return str(value).lower().replace("none", "null")
    return str(list(value) if isinstance(value, tuple) else value)
