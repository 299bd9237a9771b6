"""The page of results: the paper's numbers beside ours, and what is open left open.

python -m maskmend.reproduce docs/results/reproduction docs/results/reproduction.md
"""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from maskmend.atomic import write_atomically
from maskmend.config import Config
from maskmend.config_file import changes, config_from
from maskmend.reproduce import paper
from maskmend.reproduce.study import read_settings

OPEN = "open"
"""What was not run; nothing is estimated."""


def write_page(results: Path, page: Path) -> Path:
    """Write the page from the JSON files of a folder.

    Args:
        results: Folder that `maskmend reproduce` filled, wholly or in part. What somebody wrote
            about a target, in TARGET.txt, is put below its numbers.
        page: The Markdown file; pictures are linked relative to it.
    """
    found = {
        target: json.loads(path.read_text(encoding="utf-8"))
        for target in _SECTIONS
        if (path := results / f"{target}.json").exists()
    }
    scales = sorted({about["scale"] for about in found.values()})
    title = f", {scales[0]} scale" if len(scales) == 1 else ""
    parts = [f"# The paper's tables and figures, reproduced{title}\n", _PREFACE]
    parts += [_settings(scale) for scale in scales]
    for target, about in found.items():
        title, describe = _SECTIONS[target]
        parts.append(f"\n## {title}\n\n{describe(about['numbers'])}")
        remark = results / f"{target}.txt"
        if remark.exists():
            parts.append(f"\n{remark.read_text(encoding='utf-8').strip()}\n")
        parts.append(f"\n{_made_with(target, about, results, page)}\n")
        for picture in sorted(results.glob(f"{target}*.png")):
            link = _link(picture, page)
            parts.append(f"\n![{picture.stem}]({link})\n")
    if left := [title for target, (title, _) in _SECTIONS.items() if target not in found]:
        parts.append("\n## Not run yet\n\n" + "".join(f"- {title}\n" for title in left))
    write_atomically(page, "".join(parts))
    return page


_PREFACE = """
Made by `maskmend reproduce all --data DIR --out DIR` with the configurations in
`src/maskmend/reproduce/settings.yaml`. "Paper says" is Valvano et al., at 224 x 224 and on three
folds of which one was published; ours stand beside it, with the scale that they were run at. Dice
and IoU in points by volume, on the images' own grid; standard deviations in brackets; `open` was
not run.
"""


def _settings(scale: str) -> str:
    """In what the scale's training is not the paper's."""
    here = config_from(read_settings()["scales"][scale]["config"])
    rows = [(f"`{name}`", *map(str, pair)) for name, pair in changes(Config(), here).items()]
    return (
        "\nHow long the paper trained is not said. So that training ends, the scale"
        f" `{scale}` is not as the paper in:\n\n"
        + _markdown(("setting", "the paper, or our default", "here"), rows)
    )


def _table1(numbers: dict[str, Any]) -> str:
    rows = []
    for name, (mean, sd) in paper.TABLE1.items():
        rows.append((name, f"{mean:.1f} ({sd})", _spread(numbers.get(name))))
    rows += [(name, "", _spread(numbers.get(name))) for name in ("ours", "ours, guarded")]
    return _markdown(("Dice, first data set", "paper says", "here"), rows)


def _figure2(numbers: dict[str, Any]) -> str:
    return (
        "The case that gained most, the median one, and the one that lost most, by mean Dice of the"
        " volume, which stands beside its middle slice.\n"
    )


def _figure3(numbers: dict[str, Any]) -> str:
    rows = []
    for key in numbers or ["paper, acdc", "ours, acdc"]:
        _, dataset = key.split(", ")
        known = "lvsc" if dataset in ("lvsc", "acdc-myo") else dataset
        for metric, factor in (("dice", 100), ("iou", 100), ("hausdorff_mm", 1)):
            own = numbers.get(key, {}).get(metric)
            theirs = paper.FIGURE3.get((known, metric))
            said = " → ".join(f"{mean:.1f} ({sd})" for mean, sd in theirs) if theirs else ""
            said = f"LVSC: {said}" if said and known != dataset else said
            if own is None:
                rows.append((key, metric, said, OPEN, OPEN, OPEN))
                continue
            spreads = [f"{factor * own[w]['mean']:.1f} ({factor * own[w]['sd']:.0f})"
                       for w in ("before", "after")]  # fmt: skip
            tail = [f"{factor * own[f'worst_tenth_{w}']:.1f}" for w in ("before", "after")]
            rows.append(
                (key, metric, said, " → ".join(spreads), f"{own['p_value']:.2g}", " → ".join(tail))
            )
    heading = ("preset, data", "metric", "paper says", "here", "p", "worst tenth")
    note = (
        "LVSC is read, but has not been at hand: the myocardium of ACDC stands in for it, and the"
        " paper's numbers beside that are LVSC's.\n\n"
    )
    return note + _markdown(heading, rows)


def _figure4(numbers: dict[str, Any]) -> str:
    rows = []
    for name in numbers or ["acdc"]:
        own = numbers.get(name)
        if own is None:
            rows.append((name, *[OPEN] * 4))
            continue
        means = [
            f"{100 * own['means'][kind]['mean']:.1f}" for kind in ("plain", "denoiser", "adapted")
        ]
        rows.append((name, *means, f"{own['discriminator against DAE']['p_value']:.2g}"))
    heading = ("Dice", "baseline", "DAE", "discriminator", "p of the last two")
    return "The paper: both gain alike, with no significant difference.\n\n" + _markdown(
        heading, rows
    )


def _convergence(numbers: dict[str, Any]) -> str:
    rows: list[tuple[str, ...]] = [
        ("paper says, full", "1", "1", "1", "1"),
        ("paper says, memorising", "0", "0", "4", "0"),
    ]
    for key in numbers or ["paper, full", "paper, memorising"]:
        own = numbers.get(key, {})
        cells = [own.get(f"{p}_loss_{k}") for p in ("train", "val") for k in ("real", "predicted")]
        rows.append((key, *(OPEN if cell is None else f"{cell:.2f}" for cell in cells)))
    heading = ("run", "training: real", "fake", "validation: real", "fake")
    note = (
        "Mean (score - label)² at the last look; 1 is equilibrium, 4 a real mask taken for fake"
        " (the paper plots half of it). The memorising discriminator has no spectral norm,"
        " augmentation or fake anchors, and it learns fast from the masks of one patient.\n\n"
    )
    return note + _markdown(heading, rows)


def _supplement1(numbers: dict[str, Any]) -> str:
    rows = [(k, str(n["volumes"]), str(n["gained"]), str(n["lost"])) for k, n in numbers.items()]
    note = (
        "Those that gained most, so the counts of all volumes stand beside them. Dice is of the"
        " volume, the picture its middle slice.\n\n"
    )
    heading = ("preset, data", "volumes", "gained", "lost")
    return note + _markdown(heading, rows or [("", OPEN, OPEN, OPEN)])


def _cost(numbers: dict[str, Any]) -> str:
    rows = []
    for preset in numbers or ["paper", "ours"]:
        own = numbers.get(preset)
        if own is None:
            rows.append((preset, *[OPEN] * 3))
            continue
        weights = sum(own["weights_mb"].values())
        seconds = 50 * own["seconds_a_patient_a_step"]
        rows.append((preset, f"{weights:.1f}", f"{seconds:.1f}", str(own["best_steps"])))
    theirs = (
        "paper says",
        str(paper.WEIGHTS_MB),
        f"about {paper.SECONDS_A_PATIENT}",
        "50; over 100 worse",
    )
    heading = ("", "weights, MB", "seconds a patient, 50 steps", "best number of steps")
    return _markdown(heading, [theirs, *rows])


_SECTIONS: dict[str, tuple[str, Callable[[dict[str, Any]], str]]] = {
    "table1": ("Table 1: ablation", _table1),
    "figure2": ("Figure 2: an example", _figure2),
    "figure3": ("Figure 3: before and after", _figure3),
    "figure4": ("Figure 4: discriminator and denoising autoencoder", _figure4),
    "convergence": ("Supplement, figures 2 and 3: equilibrium and memorisation", _convergence),
    "supplement1": ("Supplement, figure 1: corrected examples", _supplement1),
    "cost": ("Section 4.1: memory, time, steps", _cost),
}


def _made_with(target: str, about: dict[str, Any], results: Path, page: Path) -> str:
    environment = about["environment"]
    files = ", ".join(
        f"[{kind}]({_link(results / f'{target}.{kind}', page)})" for kind in ("csv", "json")
    )
    trained = [run["trained"] for run in about["runs"].values()]
    machines = sorted({f"{one['device']} (commit {one['commit']})" for one in trained})
    splits = sorted({run["split"] for run in about["runs"].values()})
    tested = sorted({run["patients"]["test"] for run in about["runs"].values()})
    return (
        f"Scale {about['scale']}, seed {about['seed']}, folds {about['folds']} (split"
        f" {', '.join(splits)}; {', '.join(map(str, tested))} test patients each); trained on"
        f" {', '.join(machines)}, put together on {environment['device']} (commit"
        f" {environment['commit']}): {files}."
    )


def _link(path: Path, page: Path) -> str:
    return Path(os.path.relpath(path, page.parent)).as_posix()


def _spread(own: dict[str, Any] | None) -> str:
    return f"{own['mean']:.1f} ({own['sd']:.0f})" if own else OPEN


def _markdown(heading: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [heading, ("---",) * len(heading), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
