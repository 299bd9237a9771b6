"""The documentation site: every page is in the navigation, every link leads on, nothing is old."""

import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

import maskmend
from docs import reference
from docs.build import lay_out, page_of, place
from maskmend.cli import app
from maskmend.config import Config

REPOSITORY = Path(__file__).parents[1]
NAVIGATION = tomllib.loads((REPOSITORY / "zensical.toml").read_text())["project"]["nav"]


def section(text, heading):
    """What a page says under a heading."""
    found = re.findall(rf"^## {heading}\n.*?(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    (only,) = found
    return only


def as_line(field):
    return " ".join(field.description.split())


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site") / "build" / "pages"
    lay_out(folder)
    return folder


def names_in(entries):
    for entry in entries:
        (value,) = entry.values()
        yield from [value] if isinstance(value, str) else names_in(value)


def test_the_navigation_names_every_page(pages):
    there = {path.relative_to(pages).as_posix() for path in pages.rglob("*.md")}
    there = {name for name in there if not name.startswith("source/")}
    named = list(names_in(NAVIGATION))

    assert there - set(named) == set(), "add them to nav in zensical.toml"
    assert set(named) - there == set(), "these pages of zensical.toml are not there"
    assert len(named) == len(set(named))


def test_every_link_between_pages_leads_somewhere(pages):
    for page in pages.rglob("*.md"):
        if "source" in page.parts:
            continue
        text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        for target in re.findall(r"\]\((?![a-z]+:|#)([^)#\s]+)", text):
            assert (page.parent / target).is_file(), f"{page.relative_to(pages)}: {target}"


def test_a_file_outside_the_pages_becomes_a_page_that_shows_it(pages):
    code = REPOSITORY / "src" / "maskmend" / "adapt.py"

    assert place(code) == Path("source/src/maskmend/adapt.py.md")
    shown = (pages / place(code)).read_text()
    assert code.read_text().rstrip() in shown
    assert "(source/src/maskmend/adapt.py.md)" in (pages / "adaptation.md").read_text()


def test_a_hidden_block_is_not_shown():
    page = REPOSITORY / "docs" / "how-to" / "train.md"
    assert "<!--\n```python" in page.read_text()
    assert "<!--" not in page_of(page)


def test_the_command_reference_has_every_verb_and_flag():
    text = reference.commands()
    verbs = [name for name in app if not name.startswith("-")]
    assert {"train", "predict", "evaluate"} <= set(verbs)
    for verb in verbs:
        part = section(text, f"maskmend {verb}")
        for argument in app[verb].assemble_argument_collection(parse_docstring=True):
            assert argument.name in part, f"{verb} {argument.name}"
            assert argument.parameter.help.split("\n")[0] in part


def test_the_configuration_reference_has_every_field_and_its_help():
    text = reference.configuration()
    for part in fields(Config):
        value = getattr(Config(), part.name)
        if not is_dataclass(value):
            assert f"* `{part.name}`:" in text
            continue
        for name, field in type(value).__pydantic_fields__.items():
            (item,) = re.findall(rf"^\* `{name}`: (.*)", section(text, part.name), re.MULTILINE)
            inherited = field.description is None  # then it is the parent's, and as good
            assert len(item.split("*[")[0]) > 10 if inherited else as_line(field) in item


def test_the_python_reference_has_every_public_name():
    shown = re.findall(r"^::: maskmend\.[\w.]+\.(\w+)$", reference.api(), re.MULTILINE)
    assert sorted(shown) == sorted(maskmend.__all__)


def test_the_site_builds_without_a_warning(pages):
    pytest.importorskip("zensical", reason="pip install '.[docs]'")
    root = pages.parents[1]
    shutil.copy(REPOSITORY / "zensical.toml", root)
    (root / "src").symlink_to(REPOSITORY / "src")
    build = [Path(sys.executable).with_name("zensical"), "build", "--strict"]

    made = subprocess.run(build, cwd=root, capture_output=True, text=True)

    assert made.returncode == 0, made.stdout + made.stderr
    site = root / "build" / "site"
    html = (site / "reference" / "api.html").read_text()
    assert set(maskmend.__all__) <= set(re.findall(r'<h3 id="maskmend\.[\w.]+\.(\w+)"', html))
    assert "Tune an adaptor in front of any network" in html  # the function, not its module
    asked = re.findall(
        r'(?:src|<link[^>]* href)="(https?:[^"]+)', (site / "index.html").read_text()
    )
    assert asked == []  # everything a page needs comes with it
