"""What the page says in sentences."""

from maskmend.prediction import DOUBTFUL
from maskmend.report.entries import Entry, Folder

_STEADIED = (
    "Steadied",
    "a good mask that was left as it is but for its edge and for specks: the mean of what the"
    " network makes of the image moved by a few pixels.",
)


def score_of(folder: Folder) -> str:
    """What the score is called."""
    return "Predicted Dice" if folder.method == "guarded" else "Realism"


def how(folder: Folder) -> str:
    """How the masks were made, in a line."""
    match folder.method:
        case "guarded":
            return "Guarded mending: a mask is changed only where that promises enough."
        case "paper" if folder.settings.get("steps") == 0:
            return "Plain inference: nothing was adapted."
        case "paper":
            steps = folder.settings.get("steps")
            number = "as many steps as it took" if steps == "auto" else f"{steps} steps"
            one = folder.settings.get("instance", "patient")
            return f"The adaptor was tuned on each {one}, for {number}."
    return ""


def verdict(folder: Folder) -> str:
    """What became of the images."""
    counts, n = folder.counts, len(folder.entries)
    parts = []
    if counts["mended"]:
        parts.append(f"{counts['mended']} of {n} masks {_were(counts['mended'])} mended")
    if counts["steadied"]:
        parts.append(f"{counts['steadied']} {_were(counts['steadied'])} steadied")
    if counts["left alone"]:
        rest = f"{counts['left alone']} {_were(counts['left alone'])} left as the network made them"
        parts.append(rest)
    text = " and ".join(filter(None, (", ".join(parts[:-1]), *parts[-1:])))
    sentences = [f"{text}."] if text else []
    if counts["check"]:
        looks = "needs" if counts["check"] == 1 else "need"
        sentences.append(f"{counts['check']} {looks} a look.")
    else:
        sentences.append("None was flagged.")
    if counts["failed"]:
        sentences.append(f"{counts['failed']} could not be segmented.")
    return " ".join(sentences)


def why(entry: Entry) -> str:
    """Why a mask is what it is."""
    if entry.reason or entry.outcome == "failed":
        return entry.reason
    if not entry.steps:
        return "the plain mask"
    steps = "1 step" if entry.steps == 1 else f"{entry.steps} steps"
    if entry.outcome == "left alone":
        return f"{steps} of adaptation changed nothing"
    return f"adapted in {steps}"


def reading(folder: Folder) -> list[tuple[str, str]]:
    """Terms of the page, and what they mean."""
    if folder.method == "guarded":
        score = (
            "Predicted Dice",
            "how well a mask is expected to overlap with what an expert would draw, from 0 to 1,"
            " learnt from the validation patients of the training. Images unlike those may be"
            f" misjudged. Below {DOUBTFUL} a mask is flagged.",
        )
    else:
        score = (
            "Realism",
            "the mask discriminator's score, higher for masks that look like real ones. It sees"
            " shapes: a realistic mask can still be the wrong one.",
        )
    terms = [
        ("Mended", "the mask differs from what the network makes without adaptation."),
        *([_STEADIED] if folder.method == "guarded" else []),
        ("Left alone", "it is what the network makes without adaptation."),
        ("Look at it", "the mask is empty, cut by the edge of what the network sees, or doubtful."),
        score,
        ("Changed", "voxels with another label, as a share of those that either mask covers."),
        (
            "Change of the image",
            "what the segmentor was shown, less what it was shown for the mask before: where"
            " adaptation made the image darker or brighter.",
        ),
    ]
    if folder.evaluation is not None:
        dice = "overlap with the reference, in points: 100 is the same mask, 0 none in common."
        terms.append(("Dice", dice))
    return terms


def _were(count: int) -> str:
    return "was" if count == 1 else "were"
