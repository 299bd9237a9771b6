"""Builds the documentation site into build/site; any warning is an error.

    python docs/build.py

The pages are those that are read in the repository. A site has no room above docs/, so the pages
are first laid out in build/pages: README files that lie beside code get a place there, files of the
repository that pages link to become pages that show them, and the reference is written from the
code. zensical.toml names what the navigation shows.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from docs import reference  # noqa: E402

PAGES = REPOSITORY / "build" / "pages"
PLACES = {
    "README.md": "index.md",  # who follows a link to the front page comes home
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "benchmarks/README.md": "benchmarks.md",
    "experiments/README.md": "experiments.md",
}
"""Where pages that lie outside docs/ are put."""
GENERATED = {
    "reference/commands.md": reference.commands,
    "reference/configuration.md": reference.configuration,
    "reference/api.md": reference.api,
}
_LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)(?P<target>[^)#\s]+)")
_COMMENT = re.compile(r"^<!--.*?-->\n", flags=re.MULTILINE | re.DOTALL)
_LANGUAGES = {".py": "python", ".yaml": "yaml", ".toml": "toml", ".json": "json"}


def lay_out(pages: Path) -> None:
    """Fill a folder with all that the site shows.

    Args:
        pages: The folder; what it held is gone.
    """
    shutil.rmtree(pages, ignore_errors=True)
    files = [path for path in (REPOSITORY / "docs").rglob("*") if path.is_file()]
    for file in files:
        if file.suffix not in {".md", ".py", ".pyc"}:
            _write(pages / place(file), file.read_bytes())
    waiting = [file for file in files if file.suffix == ".md"]
    waiting += [REPOSITORY / name for name in PLACES if name != "README.md"]
    laid_out = {REPOSITORY / "README.md", *waiting}
    while waiting:
        file = waiting.pop()
        _write(pages / place(file), page_of(file).encode())
        linked = {linked for linked in _links(file) if place(linked).suffix == ".md"} - laid_out
        waiting += sorted(linked)
        laid_out |= linked
    for name, write in GENERATED.items():
        _write(pages / name, write().encode())


def place(file: Path) -> Path:
    """Where a file of the repository is in the site."""
    name = file.relative_to(REPOSITORY)
    if name.as_posix() in PLACES:
        return Path(PLACES[name.as_posix()])
    if name.parts[0] == "docs" and name.suffix not in {".py", ""}:
        return name.relative_to("docs")
    return Path("source") / f"{name}.md"


def page_of(file: Path) -> str:
    """A file as a page: Markdown with its links led to where things are, code in a block."""
    text = file.read_text(encoding="utf-8")
    if file.suffix != ".md":
        hidden = "---\nsearch:\n  exclude: true\n---\n"
        language = _LANGUAGES.get(file.suffix, "text")
        name = file.relative_to(REPOSITORY)
        return f"{hidden}# {name}\n\n````{language}\n{text.rstrip()}\n````\n"

    def led(match: re.Match[str]) -> str:
        target = _file(file, match["target"])
        if target is None:
            return match["target"]
        return Path(os.path.relpath(place(target), place(file).parent)).as_posix()

    return _LINK.sub(led, _COMMENT.sub("", text))


def _links(file: Path) -> Iterator[Path]:
    """The files of the repository that a page links to."""
    if file.suffix == ".md":
        found = _LINK.finditer(file.read_text(encoding="utf-8"))
        yield from filter(None, (_file(file, match["target"]) for match in found))


def _file(page: Path, target: str) -> Path | None:
    """The file that a link means, a folder's README; None if there is none."""
    file = (page.parent / target).resolve()
    file = file / "README.md" if file.is_dir() else file
    return file if file.is_file() and file.is_relative_to(REPOSITORY) else None


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


if __name__ == "__main__":
    lay_out(PAGES)
    zensical = Path(sys.executable).with_name("zensical")
    build = [zensical, "build", "--clean", "--strict"]
    sys.exit(subprocess.run(build, cwd=REPOSITORY).returncode)
