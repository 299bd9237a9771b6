"""What is shipped: versions, archives, and how quickly the package is there."""

import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.version import Version

REPOSITORY = Path(__file__).parents[1]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CHANGELOG = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
CITATION = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))


def headings():
    """Versions of the changelog, from its top, with what stands below each."""
    parts = CHANGELOG.split("\n## [")[1:]
    return [(part.partition("]")[0], part.partition("\n")[2].strip()) for part in parts]


def test_the_version_follows_the_changelog():
    """See "Releases" in CONTRIBUTING.md."""
    version = Version(PROJECT["version"])
    (first, changes), *released = headings()
    assert first == "Unreleased"
    versions = [Version(name) for name, _ in released]
    assert versions == sorted(versions, reverse=True)
    if changes:
        assert version.is_devrelease
        assert not versions or version > versions[0]
    else:
        assert version == versions[0]


def test_the_citation_is_valid_and_of_this_version():
    assert CITATION["version"] == PROJECT["version"]
    assert CITATION["license"] == PROJECT["license"]
    # What version 1.2.0 of the format requires, and the keys that it knows of those in use.
    assert CITATION["cff-version"] == "1.2.0"
    assert {"title", "message", "authors"} <= CITATION.keys()
    assert CITATION["type"] in ("software", "dataset")
    known = {"cff-version", "message", "title", "type", "license", "version", "authors"}
    known |= {
        "keywords",
        "references",
        "abstract",
        "date-released",
        "doi",
        "repository-code",
        "url",
    }
    assert CITATION.keys() <= known
    for entry in (CITATION, *CITATION["references"]):
        for author in entry["authors"]:
            assert author.keys() in ({"name"}, {"family-names", "given-names"})
    for reference in CITATION["references"]:
        assert {"type", "title", "authors"} <= reference.keys()
        assert isinstance(reference.get("year", 0), int)


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """Names in the wheel and in the source archive, without the folder that the latter has."""
    root = tmp_path_factory.mktemp("source")
    ignored = shutil.ignore_patterns(
        ".*", "__pycache__", "*.egg-info", "build", "dist", "runs", "demo"
    )
    shutil.copytree(REPOSITORY, root / "maskmend", ignore=ignored)
    code = "from setuptools import build_meta as b; b.build_sdist('..'); b.build_wheel('..')"
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=root / "maskmend",
        check=True,
        capture_output=True,
    )
    with zipfile.ZipFile(next(root.glob("*.whl"))) as wheel:
        inside = set(wheel.namelist())
    with tarfile.open(next(root.glob("*.tar.gz"))) as source:
        outside = {name.partition("/")[2] for name in source.getnames()}
    return inside, outside


def sources(folder):
    return {
        str(path.relative_to(REPOSITORY))
        for path in (REPOSITORY / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and "egg-info" not in str(path)
    }


def test_the_wheel_holds_the_package_and_nothing_else(archives):
    wheel, _ = archives
    package = {name.removeprefix("src/") for name in sources("src")}
    assert {name for name in wheel if ".dist-info/" not in name} == package
    assert {
        "maskmend/py.typed",
        "maskmend/configs/demo.yaml",
        "maskmend/reproduce/settings.yaml",
    } <= package
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in wheel)


def test_the_source_archive_holds_what_the_tests_need(archives):
    _, source = archives
    needed = {
        path.name
        for path in REPOSITORY.iterdir()
        if path.is_file() and not path.name.startswith(".")
    }
    assert {"CITATION.cff", "LICENSE", "Makefile", "constraints-minimal.txt"} <= needed
    for folder in ("src", "tests", "docs", "experiments", "benchmarks"):
        needed |= sources(folder)
    assert needed <= source


def test_importing_takes_no_time_and_no_torch():
    code = (
        "import sys, time\n"
        "start = time.process_time()\n"
        "import maskmend\n"
        "maskmend.__all__\n"
        "print(time.process_time() - start)\n"
        "assert 'torch' not in sys.modules\n"
    )
    tries = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        for _ in range(3)  # the quickest: the machine may have other work
    ]
    assert min(float(done.stdout) for done in tries) < 0.3


def test_the_minimal_set_is_what_the_project_asks_for():
    """A line for each requirement, at the lowest version that it admits."""
    lines = (REPOSITORY / "constraints-minimal.txt").read_text().splitlines()
    minimal = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    asked = [*PROJECT["dependencies"]]
    for extra in ("bundle", "dicom", "lvsc", "test"):
        asked += PROJECT["optional-dependencies"].get(extra, [])
    lowest = dict(one.split(">=") for one in asked if ">=" in one)
    assert lowest.keys() == minimal.keys()
    off = {name for name in lowest if Version(minimal[name]) != Version(lowest[name])}
    assert off <= {"torch"}  # see CONTRIBUTING.md
