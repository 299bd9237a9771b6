"""A model that somebody brings, whatever file it came in.

Axes: slice, channel or class, height, width.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import torch
from torch import nn

from maskmend.data.volume import Volume
from maskmend.errors import RunError
from maskmend.outputs import Activation
from maskmend.prediction import Shown

Allowed: TypeAlias = Callable[..., Any] | tuple[Callable[..., Any], str]
"""A type or function that may be in a pickle, with its name there if that is another."""


class ImageWay(Protocol):
    """How a model's images are prepared."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of what the network was trained on; slices may be others."""

    def prepare(self, channels: Sequence[Volume]) -> Shown:
        """Slices of an image, whose channels lie on one grid; raises InputError."""


@dataclass(frozen=True, kw_only=True, eq=False)
class BroughtModel:
    """A model, ready to be adapted."""

    path: Path
    """Where it came from."""
    digest: str
    """SHA-256 of all that its masks depend on."""
    network: nn.Module
    """Images to logits: what adaptation goes through."""
    channels: int
    """Of its images."""
    structures: Mapping[int, str]
    """Name of each label but the background's 0."""
    images: ImageWay
    activation: Activation = "softmax"
    members: Sequence[nn.Module] = ()
    """The networks of an ensemble, each images to logits."""
    exact: nn.Module | None = None
    """Images to logits just as the tool that trained it computes them, to the last bit, where that
    is another function; the labels are those of these logits."""


@contextmanager
def reading(path: Path, remedy: str) -> Iterator[None]:
    """Say in one line, as a RunError, why a file of a model cannot be read."""
    try:
        yield
    except RunError:
        raise
    except Exception as error:  # a damaged file can raise anything
        said = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise RunError(f"{path}: cannot be read ({said}); {remedy}") from error


def load_pickled(path: Path, allowed: Sequence[Allowed] = ()) -> Any:
    """What torch saved, on the CPU, without running code from the file.

    Args:
        path: The file.
        allowed: Types and functions beside torch's own that may be in it.

    Raises:
        RunError: It is damaged, or holds objects that would run code; the first is named.
    """
    if not path.is_file():
        raise RunError(f"{path}: missing; copy the model's folder whole")
    with reading(path, "copy it again"):
        try:
            with torch.serialization.safe_globals(list(allowed)):
                return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            foreign = _foreign(path, allowed)
            if not foreign:
                raise
            raise RunError(
                f"{path}: needs {foreign[0]}, and reading that would run code of the file; save it"
                " again with weights and plain values alone"
            ) from error


def _foreign(path: Path, allowed: Sequence[Allowed]) -> list[str]:
    try:
        with torch.serialization.safe_globals(list(allowed)):
            return torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # no zip file, or a damaged one
        return []
