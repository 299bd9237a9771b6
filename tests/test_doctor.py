"""What the doctor finds, and when it has a remedy."""

import io
import os
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from rich.console import Console

from maskmend import doctor
from maskmend.cli import main
from maskmend.doctor import examine, table


def finding(what, **named):
    (found,) = (one for one in examine(**named) if one.what == what)
    return found


def test_it_tells_versions_device_precision_memory_and_disk(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["doctor"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    for what in ("maskmend", "torch", "device", "precision", "threads", "disk", "extra ray"):
        assert f" {what} " in said
    assert torch.__version__ in said


def test_a_cpu_has_a_remedy_and_a_gpu_has_none(monkeypatch):
    assert "--steps auto" in finding("device").remedy
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (30 * 2**30, 80 * 2**30))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Card")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    assert finding("device").found == "GPU Card, 30.0 GB of 80.0 GB free"
    assert finding("device").remedy == finding("precision").remedy == ""
    assert finding("precision").found.startswith("bfloat16 in hardware")


def test_a_gpu_that_torch_cannot_use_is_noticed(monkeypatch):
    exists = Path.exists
    driver = Path("/proc/driver/nvidia/version")
    monkeypatch.setattr(Path, "exists", lambda path: path == driver or exists(path))
    assert finding("torch").remedy.startswith("install the torch for its driver")


@pytest.mark.parametrize(
    ("threads", "cores", "remedy"),
    [(8, 2, "set OMP_NUM_THREADS=2"), (1, 4, "unset OMP_NUM_THREADS"), (4, 4, "")],
)
def test_threads_that_do_not_fit_the_cores(monkeypatch, threads, cores, remedy):
    monkeypatch.setenv("OMP_NUM_THREADS", str(threads))
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(doctor, "_cores", lambda: cores)
    found = finding("threads")
    assert found.found == f"{threads} on {cores} cores"
    assert remedy in found.remedy
    assert bool(found.remedy) == bool(remedy)


@pytest.mark.parametrize(("load", "busy"), [(0.1, False), (3.9, True)])
def test_a_busy_machine(monkeypatch, load, busy):
    monkeypatch.setattr(doctor, "_cores", lambda: 4)
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0, 0), raising=False)
    assert bool(finding("load").remedy) == busy


@pytest.mark.parametrize(("free", "little"), [(2**30, True), (2**33, False)])
def test_little_memory_and_little_disk(monkeypatch, tmp_path, free, little):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(doctor, "_free_memory", lambda: free)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: usage(2**40, 0, free // 4))
    assert bool(finding("memory").remedy) == little
    assert bool(finding("disk", folder=tmp_path).remedy) == little
    assert f"free in {tmp_path}" in finding("disk", folder=tmp_path).found


def test_a_folder_that_may_not_be_written_to(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert "may not be written to" in finding("disk", folder=tmp_path).remedy


def test_a_missing_extra_is_told_with_its_command(monkeypatch):
    def version(name):
        if name == "ray":
            raise doctor.PackageNotFoundError
        return "1"

    monkeypatch.setattr(doctor, "version", version)
    assert finding("extra ray").remedy == "if needed: pip install 'maskmend[ray]'"
    assert finding("extra dicom").found == "pydicom 1, highdicom 1"


def test_the_table_fits_into_a_narrow_terminal():
    file = io.StringIO()
    Console(file=file, width=60).print(table(examine()))
    assert max(map(len, file.getvalue().splitlines())) <= 60


def test_a_folder_that_is_not_there(capsys, tmp_path):
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--out", str(tmp_path / "gone")])
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        f"maskmend: {tmp_path / 'gone'}: is no folder; name one that is there\n"
    )
