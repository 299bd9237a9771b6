"""Runs what a page shows, from its first block to its last, in a folder that holds a small run.

Every ```python and ```sh block of a page is run, in the order of the page, by one reader: names
and files of a block are there in those that follow. What a reader is taken to have:

    DATA, hearts        one folder of ten procedural patients: images/, masks/, patients.csv
    IMAGE.nii.gz        one of their images, also called image.nii.gz;
                        `IMAGE.nii.gz ...` stands for those of the first three patients
    hearts.yaml         a configuration
    runs/hearts         a run, trained and calibrated, unless the page itself trains it

Configurations that a page trains have their networks, images and iterations made tiny. A line
`<!-- not run: REASON -->` above a block spares it, but its `maskmend` calls must still be calls
that the command line takes, and its Python must compile. A block in an HTML comment is run and not
shown, for what a page needs and its reader has. A block with title="NAME" is also written to the
file NAME.
"""

import contextlib
import dataclasses
import re
import shlex
import shutil
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

from maskmend.cli import app, main
from maskmend.config_file import config_from

RUN, SHOWN = {"python", "sh"}, {"", "bibtex", "csv", "text", "yaml"}
IMAGES = sorted(
    f"hearts/images/heart{n:03d}_frame{frame}.nii.gz" for n in range(3) for frame in ("01", "10")
)

_BLOCK = re.compile(
    r"(?:<!-- not run: (?P<reason>.+?) -->\s*\n)?"
    r"^(?P<indent> *)```(?P<language>\w*)(?P<options>[^\n]*)\n(?P<code>.*?)^ *```$",
    flags=re.MULTILINE | re.DOTALL,
)
_TINY = {
    "preprocess": {"size": 32, "spacing_mm": 10.0},
    "segmentor": {"width": 4, "depth": 2},
    "discriminator": {"widths": (4, 8), "strides": (2, 2)},
    "adaptor": {"widths": (4,)},
    "training": {"iterations": 20, "batch": 4, "validate_every": 10, "learning_rate": 1e-2},
    "adaptation": {"steps": 2, "draws": 1, "student_iterations": 2},
}


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    page: Path
    line: int
    """Of its first line in the page, from 1."""
    language: str
    code: str
    file: str | None
    """The file that the page says it is."""
    not_run: str | None
    """Why it is not run."""

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, from top to bottom."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _BLOCK.finditer(text):
        title = re.search(r'title="([^"]+)"', match["options"])
        found.append(
            Block(
                page,
                text.count("\n", 0, match.start("code")) + 1,
                match["language"],
                textwrap.dedent(match["code"]),
                title and title[1],
                match["reason"],
            )
        )
    return found


def tiny_version(config):
    """A configuration with small images and networks, and few iterations; the rest is kept."""
    tree = dataclasses.asdict(config)
    return config_from({**tree, **{name: {**tree[name], **few} for name, few in _TINY.items()}})


def run_page(page: Path) -> None:
    """Run the blocks of a page in the working directory, which `reader` fixtures make."""
    names = {"__name__": "__main__"}
    for block in blocks(page):
        if block.file and not block.not_run:
            Path(block.file).parent.mkdir(parents=True, exist_ok=True)
            Path(block.file).write_text(block.code, encoding="utf-8")
        if block.language == "python":
            # Blank lines before it, so that a traceback tells the line of the page.
            code = compile("\n" * (block.line - 1) + block.code, str(page), "exec")
            if not block.not_run:
                exec(code, names)
        elif block.language == "sh":
            _run_commands(block)


def _run_commands(block: Block) -> None:
    for line in block.code.replace("\\\n", " ").splitlines():
        words = shlex.split(_with_images(line), comments=True)
        if not words:
            continue
        command, *arguments = words
        redirected = arguments[-2:-1] == [">"]
        target, arguments = (arguments[-1], arguments[:-2]) if redirected else (None, arguments)
        arguments = [path for word in arguments for path in _expanded(word)]
        if command != "maskmend":
            assert block.not_run, (
                f"{block}: only maskmend can be run, not {command}; mark the block"
            )
        elif block.not_run:
            app.parse_args(arguments, exit_on_error=False, print_error=False)
        elif target:
            with Path(target).open("w", encoding="utf-8") as file, contextlib.redirect_stdout(file):
                _maskmend(arguments, block)
        else:
            _maskmend(arguments, block)


def _with_images(line: str) -> str:
    return line.replace("IMAGE.nii.gz ...", " ".join(IMAGES))


def _expanded(word: str) -> list[str]:
    """The files that a pattern stands for, as a shell finds them."""
    return sorted(str(path) for path in Path().glob(word)) if "*" in word else [word]


def _maskmend(arguments: list[str], block: Block) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    if ended.value.code == 1 and arguments[0] == "predict":
        # A network this small may find an empty mask, which is told; but no image may fail.
        rows = pd.read_csv(Path(arguments[arguments.index("--out") + 1]) / "predictions.csv")
        assert "failed" not in set(rows["status"]), f"{block}: {rows['message'].tolist()}"
    else:
        assert ended.value.code == 0, f"{block}: maskmend {shlex.join(arguments)}"


def copy_reader(made: Path, page: Path, folder: Path) -> None:
    """Lay out what the page's reader has."""
    trains = re.search(r"""(out=Path\("|--out )runs/hearts\b""", page.read_text(encoding="utf-8"))
    ignored = shutil.ignore_patterns("runs") if trains else None
    shutil.copytree(made, folder, symlinks=True, dirs_exist_ok=True, ignore=ignored)
