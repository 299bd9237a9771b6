"""Two workers on Ray do what one process does, even if one of them dies."""

import os
import signal
from pathlib import Path

import pytest

from maskmend.cluster import _joined, predict_on_ray
from maskmend.data.phantom import write_cohort
from maskmend.errors import ConfigError
from maskmend.files import predict_files
from maskmend.predict import load
from maskmend.table import PREDICTIONS, Row, read_table
from tests.tiny import tiny, write_run

ray = pytest.importorskip("ray", reason="needs the extra: pip install 'maskmend[ray]'")
# Ray's own: files and sockets that it leaves to the garbage collector, and its own deprecations.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

TINY = tiny(adaptation={"steps": 2, "precision": "32-true"})


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    root = tmp_path_factory.mktemp("hearts")
    write_cohort(root, patients=5, seed=0, size=32, spacing_mm=9.5)
    return sorted((root / "images").iterdir())


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load(write_run(tmp_path_factory.mktemp("run"), TINY), "cpu")


@pytest.fixture(scope="module")
def cluster():
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def local(model, images, tmp_path_factory):
    """What one process makes of the cohort."""
    out = tmp_path_factory.mktemp("local")
    return out, predict_files(model, images, out, model.settings())


def content(out):
    return {path.name: path.read_bytes() for path in out.glob("*_mask.nii.gz")}


def figures(rows):
    return {(r.image, r.status, str(r.realism_before), str(r.realism_after)) for r in rows}


def workers():
    """Processes of the workers."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"ray::" in path.read_bytes() and b"_Worker" in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:  # it has just ended
            continue
    return sorted(found)


def predict(model, images, out, report=lambda row: None):
    return predict_files(model, images, out, model.settings(), report, engine="ray", workers=2)


def test_two_workers_make_what_one_process_makes(cluster, model, images, local, tmp_path):
    rows = predict(model, images, tmp_path)
    assert figures(rows) == figures(local[1])
    assert content(tmp_path) == content(local[0])
    assert figures(read_table(tmp_path / PREDICTIONS)) == figures(rows)


@pytest.mark.skipif(not Path("/proc").exists(), reason="finds the workers in /proc")
def test_a_worker_that_is_killed_costs_nothing(cluster, model, images, local, tmp_path):
    killed = []

    def kill(row):
        if not killed:
            killed.append(workers()[0])
            os.kill(killed[0], signal.SIGKILL)

    rows = predict(model, images, tmp_path, kill)

    assert killed
    assert killed[0] not in workers()
    assert sorted(row.image for row in rows) == [path.name[:-7] for path in images]
    assert figures(rows) == figures(local[1])
    assert figures(read_table(tmp_path / PREDICTIONS)) == figures(rows)
    assert content(tmp_path) == content(local[0])


def test_bad_images_are_named_and_the_others_done(cluster, model, images, tmp_path):
    bad = tmp_path / "bad.nii.gz"
    bad.write_bytes(b"no image")
    rows = {row.image: row for row in predict(model, [bad, *images[:2]], tmp_path / "out")}
    assert rows["bad"].status == "failed"
    assert rows["bad"].message.startswith(f"{bad}: ")
    assert len(content(tmp_path / "out")) == 2


def deadly(model, paths, out, settings):
    if "heart001" in paths[0].name:
        os.kill(os.getpid(), signal.SIGKILL)
    return [Row(path.name[:-7], "done") for path in paths]


def test_a_patient_that_kills_every_worker_is_given_up(cluster, model, images, tmp_path):
    patients = [images[0:2], images[2:4], images[4:6]]
    rows = list(predict_on_ray(deadly, model, patients, tmp_path, model.settings(), 2))
    failed = [row for row in rows if row.status == "failed"]
    assert sorted(row.image for row in failed) == [path.name[:-7] for path in images[2:4]]
    assert all("3 workers died on it" in row.message for row in failed)
    assert not any("\n" in row.message for row in failed)
    assert len(rows) == 6


def listed(model, paths, out, settings):
    return [Row(path.name[:-7], "done") for path in paths]


def test_no_worker_waits_for_room_that_is_not_there(cluster, model, images, tmp_path):
    patients = [images[i : i + 2] for i in range(0, 8, 2)]
    rows = list(predict_on_ray(listed, model, patients, tmp_path, model.settings(), 4))
    assert len(rows) == 8


def test_a_cluster_that_runs_already_is_joined():
    """It is not to be told how many cores it has, and left as it was found."""
    asked, left = [], []

    class Running:
        is_initialized = staticmethod(lambda: False)
        shutdown = staticmethod(lambda: left.append(True))

        @staticmethod
        def init(num_cpus=None, **given):
            asked.append(num_cpus)
            if num_cpus is not None:
                raise ValueError("When connecting to an existing cluster, num_cpus must not be")

    rows = [Row("a", "done")]
    assert list(_joined(Running, iter(rows), 2)) == rows
    assert (asked, left) == ([2, None], [True])


def test_without_ray_the_remedy_is_named(model, images, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'maskmend\[ray\]'"):
        predict(model, images[:1], tmp_path)
    assert list(tmp_path.iterdir()) == []  # and what was there would be there
