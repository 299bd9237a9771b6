"""A configuration that trains and adapts in a moment, and a run folder of it."""

import dataclasses
import json

import torch

from maskmend.build import build
from maskmend.checkpoint import (
    CONFIG,
    SPLIT,
    WEIGHTS,
    network_tensors,
    quiet_generator,
    write_tensors,
)
from maskmend.config_file import config_from, to_yaml
from maskmend.data.layouts import find_cohort
from maskmend.data.slices import split_of
from maskmend.data.split import Split

_SECTIONS = {
    "data": {"layout": "folder"},
    "preprocess": {"size": 32, "spacing_mm": 10},  # 320 mm: more than the tests' images show
    "segmentor": {"width": 4, "depth": 2},
    "discriminator": {"widths": [4, 8], "strides": [2, 2]},
    "adaptor": {"widths": [4]},
    "adaptation": {"student_iterations": 2},
}


def tiny(*, seed=0, **sections):
    """The configuration, but for the fields of sections that are given."""
    changed = {name: {**_SECTIONS.get(name, {}), **fields} for name, fields in sections.items()}
    return config_from({**_SECTIONS, **changed, "seed": seed})


GUARDED = tiny(adaptation={"method": "guarded", "precision": "32-true"})


def random_segmentor(config=GUARDED):
    """The same at every call."""
    with quiet_generator(0):
        return build(config).segmentor.eval()


def write_run(folder, config, data=None):
    """A run folder with random weights, under which every class is found; with data, its split."""
    with quiet_generator(0):
        networks = build(config)
    with torch.no_grad():
        networks.segmentor.head.bias += torch.tensor([0.0, 0.3, 0.2, 0.1])
    (folder / CONFIG).write_text(to_yaml(config))
    write_tensors(folder / WEIGHTS, network_tensors(networks))
    if data is not None:
        write_split(folder, **split_of(find_cohort(data), config).to_dict())
    return folder


def write_split(folder, **uses):
    """The patients of a run; of uses that are not named there are none."""
    nobody = {field.name: () for field in dataclasses.fields(Split)}
    (folder / SPLIT).write_text(json.dumps(Split.from_dict(nobody | uses).to_dict()))
