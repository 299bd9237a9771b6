"""A prior on disk: what is written comes back, and what is damaged is named."""

import json

import numpy as np
import pytest
import torch

from maskmend.checkpoint import CONFIG, WEIGHTS
from maskmend.config import PriorConfig
from maskmend.config_file import config_from
from maskmend.errors import RunError
from maskmend.foreign.fitting import Fitter, FittingData
from maskmend.foreign.prior_folder import PRIOR, load_prior, save_prior

SECTIONS = {
    "preprocess": {"size": 32, "spacing_mm": 10},
    "discriminator": {"widths": [4, 8], "strides": [2, 2]},
    "fitting": {"iterations": 2, "batch": 2, "look_every": 1},
}


@pytest.fixture(scope="module")
def prior():
    masks = torch.from_numpy(np.random.default_rng(0).integers(4, size=(5, 32, 32), dtype=np.uint8))
    data = FittingData(masks=masks[:3], held_out_masks=masks[3:])
    fitter = Fitter(config_from(SECTIONS, kind=PriorConfig), data, None, torch.device("cpu"))
    fitter.run(lambda loss: None, lambda row: None)
    return fitter.prior()


def test_what_is_written_comes_back(prior, tmp_path):
    save_prior(prior, tmp_path / "prior")
    again = load_prior(tmp_path / "prior")
    masks = torch.randn(3, 4, 32, 32).softmax(1)
    assert torch.equal(again.realism(masks), prior.realism(masks))
    assert (again.config, again.enough, again.history) == (
        prior.config,
        prior.enough,
        prior.history,
    )
    assert len(again.digest) == 64


def test_the_loss_is_none_for_what_is_realistic_enough(prior):
    masks = torch.randn(3, 4, 32, 32).softmax(1)
    scores = prior.realism(masks)
    expected = (prior.enough - scores).clamp(min=0).square() / 2
    torch.testing.assert_close(prior(masks), expected)


def spoil(path, content):
    path.unlink() if content is None else path.write_bytes(content)


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        (CONFIG, None, "no such prior folder; make one with `maskmend fit-prior`"),
        (CONFIG, b"fitting: {iteration: 3}", "did you mean fitting.iterations?"),
        (PRIOR, None, "the prior is not fitted to its end"),
        (PRIOR, b"{}", "is damaged; copy it again or fit anew"),
        (PRIOR, b"{", "is damaged; copy it again or fit anew"),
        (WEIGHTS, None, "missing"),
        (WEIGHTS, b"pickle", "truncated or no safetensors file"),
    ],
)
def test_a_folder_that_is_no_prior_is_named_in_one_line(prior, tmp_path, file, content, said):
    save_prior(prior, tmp_path)
    spoil(tmp_path / file, content)
    with pytest.raises(RunError, match=said.replace(".", r"\.").replace("?", r"\?")) as error:
        load_prior(tmp_path)
    assert str(error.value).startswith(str(tmp_path))
    assert "\n" not in str(error.value)


def test_weights_of_another_prior_are_refused(prior, tmp_path):
    save_prior(prior, tmp_path)
    config = (tmp_path / CONFIG).read_text().replace("- 8", "- 6")
    (tmp_path / CONFIG).write_text(config)
    with pytest.raises(RunError, match="weights of another network"):
        load_prior(tmp_path)


def test_the_folder_says_with_what_it_was_made(prior, tmp_path):
    save_prior(prior, tmp_path)
    told = json.loads((tmp_path / PRIOR).read_text())
    assert {"maskmend", "torch", "enough", "history"} <= told.keys()
    assert told["enough"] == told["history"][-1]["val_score_real"]
