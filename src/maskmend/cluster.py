"""Cohorts on Ray: each worker loads the run once, and patients go to whoever is free.

Workers write masks; the caller alone writes the table. A patient whose worker dies goes to another.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from maskmend.config import AdaptationConfig
from maskmend.data.source import name_of, shown
from maskmend.errors import ConfigError
from maskmend.prediction import Predictor
from maskmend.table import Row

_TRIES = 3
"""Workers that a patient may take with it."""

Predict = Callable[[Predictor, Sequence[Path], Path, AdaptationConfig], list[Row]]


def predict_on_ray(
    predict: Predict,
    model: Predictor,
    patients: Sequence[Sequence[Path]],
    out: Path,
    settings: AdaptationConfig,
    workers: int | None,
) -> Iterator[Row]:
    """Predict patients with several workers, on this machine or on the cluster that is joined.

    Args:
        predict: What a worker does with the images of a patient.
        model: What was loaded from a folder that all workers see.
        patients: Images of each.
        out: Folder of the masks, seen by all workers.
        settings: How to adapt.
        workers: How many; by default one a GPU, without GPUs one a core.

    Returns:
        Rows as patients are finished; the first that is asked for starts the work.

    Raises:
        ConfigError: Ray is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise ConfigError("engine: ray is not installed; pip install 'maskmend[ray]'") from error
    return _joined(ray, _hand_out(ray, predict, model, patients, out, settings, workers), workers)


def _joined(ray: Any, rows: Iterator[Row], workers: int | None) -> Iterator[Row]:
    """Rows that are made on a cluster, which is left again if it was not joined before."""
    started = not ray.is_initialized()
    if started:
        quiet = {"include_dashboard": False, "log_to_driver": False}
        try:
            ray.init(num_cpus=workers, **quiet)
        except ValueError:  # a cluster that runs already is not told how many cores it has
            ray.init(**quiet)
    try:
        yield from rows
    finally:
        if started:
            ray.shutdown()


def _hand_out(
    ray: Any,
    predict: Predict,
    model: Predictor,
    patients: Sequence[Sequence[Path]],
    out: Path,
    settings: AdaptationConfig,
    workers: int | None,
) -> Iterator[Row]:
    gpu = model.device.type == "cuda"
    there = max(1, int(ray.cluster_resources().get("GPU" if gpu else "CPU", 1)))
    # A worker that no room is left for would wait for ever, and its patient with it.
    count = min(len(patients), workers or there, there)
    threads = max(1, torch.get_num_threads() // max(1, count))
    kind = ray.remote(num_cpus=1, num_gpus=int(gpu), max_restarts=0)(_Worker)

    def hire() -> Any:
        return kind.remote(model.loader(), threads)

    idle = [hire() for _ in range(count)]
    waiting = [(0, paths) for paths in patients]
    busy: dict[Any, tuple[Any, int, Sequence[Path]]] = {}
    while waiting or busy:
        while idle and waiting:
            worker, (tries, paths) = idle.pop(), waiting.pop(0)
            task = worker.predict.remote(predict, paths, out, settings)
            busy[task] = (worker, tries, paths)
        (task,), _ = ray.wait(list(busy), num_returns=1)
        worker, tries, paths = busy.pop(task)
        try:
            rows = ray.get(task)
        except ray.exceptions.RayActorError as error:
            idle.append(hire())
            if tries + 1 < _TRIES:
                waiting.append((tries + 1, paths))
                continue
            reason = str(error).strip().splitlines()[0]
            rows = [_given_up(path, reason) for path in paths]
        else:
            idle.append(worker)
        yield from rows


def _given_up(path: Path, reason: str) -> Row:
    message = f"{shown(path)}: {_TRIES} workers died on it ({reason}); predict it alone to see why"
    return Row(name_of(path), "failed", message=message)


class _Worker:
    """A process with the run in memory."""

    def __init__(self, load: Callable[[], Predictor], threads: int):
        torch.set_num_threads(threads)
        self.model = load()

    def predict(
        self, predict: Predict, paths: Sequence[Path], out: Path, settings: AdaptationConfig
    ) -> list[Row]:
        """Masks of a patient are written, their rows returned."""
        return predict(self.model, paths, out, settings)
