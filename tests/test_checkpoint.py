import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from maskmend import checkpoint
from maskmend.atomic import write_atomically
from maskmend.build import build
from maskmend.checkpoint import (
    load_networks,
    load_optimizer,
    load_run,
    network_tensors,
    optimizer_tensors,
    quiet_generator,
    read_tensors,
    write_tensors,
)
from maskmend.config_file import config_from, to_yaml
from maskmend.errors import RunError


def config(width=4):
    return config_from(
        {
            "preprocess": {"size": 32},
            "segmentor": {"width": width, "depth": 3},
            "discriminator": {"widths": [4, 4], "strides": [2, 2]},
            "adaptor": {"widths": [4, 4]},
        }
    )


@pytest.fixture
def run(tmp_path):
    with quiet_generator(5):
        networks = build(config())
    networks.segmentor(torch.randn(4, 1, 32, 32))  # moves the statistics
    write_atomically(tmp_path / checkpoint.CONFIG, to_yaml(config()))
    write_tensors(tmp_path / checkpoint.WEIGHTS, network_tensors(networks))
    return tmp_path


def error_of(function, *arguments):
    with pytest.raises(RunError) as caught:
        function(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_run_comes_back_bit_for_bit_in_evaluation_mode(run):
    with quiet_generator(5):
        original = build(config())
    saved, _ = read_tensors(run / checkpoint.WEIGHTS)
    load_networks(original, saved, run)
    _, networks = load_run(run)
    restored = network_tensors(networks)
    assert restored.keys() == saved.keys()
    assert all(torch.equal(restored[name], saved[name]) for name in saved)
    assert not any(m.training for network in networks.modules().values() for m in network.modules())
    image = torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        assert torch.equal(networks.segmentor(image), original.segmentor.eval()(image))
    assert saved["segmentor.encoder.0.1.running_mean"].any()


def test_loading_leaves_the_global_generator_alone(run):
    before = torch.get_rng_state()
    load_run(run)
    assert torch.equal(torch.get_rng_state(), before)


def test_metadata_and_kinds_of_tensors_come_back(tmp_path):
    tensors = {
        "half": torch.randn(3).to(torch.bfloat16),
        "count": torch.tensor(7),
        "turned": torch.randn(2, 3).T,
        "part": torch.arange(6.0)[::2],
    }
    path = tmp_path / "x.safetensors"
    write_tensors(path, {**tensors, "again": tensors["half"]}, step=3, history=[{"loss": 0.1}])
    back, metadata = read_tensors(path)
    assert all(torch.equal(back[name], tensor) for name, tensor in tensors.items())
    assert torch.equal(back["again"], tensors["half"])
    assert metadata == {"step": 3, "history": [{"loss": 0.1}]}


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.999])
def test_truncated_weights(run, share):
    path = run / checkpoint.WEIGHTS
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    assert error_of(load_run, run).startswith(f"{path}: truncated or no safetensors file")


def test_missing_weights_configuration_or_folder(run):
    (run / checkpoint.WEIGHTS).unlink()
    assert error_of(load_run, run).startswith(f"{run / checkpoint.WEIGHTS}: missing")
    (run / checkpoint.CONFIG).unlink()
    assert str(run / checkpoint.CONFIG) in error_of(load_run, run)
    assert str(run / "none") in error_of(load_run, run / "none")


def test_foreign_weights_name_the_tensor(run):
    write_atomically(run / checkpoint.CONFIG, to_yaml(config(width=8)))
    message = error_of(load_run, run)
    assert message.startswith(f"{run / checkpoint.WEIGHTS}: weights of another network")
    assert "segmentor." in message


@pytest.mark.parametrize("change", ["lacks", "adds"])
def test_one_tensor_too_few_or_too_many(run, change):
    path = run / checkpoint.WEIGHTS
    tensors, _ = read_tensors(path)
    if change == "lacks":
        del tensors["segmentor.head.bias"]
    else:
        tensors["segmentor.odd"] = torch.zeros(2)
    write_tensors(path, tensors)
    message = error_of(load_run, run)
    assert ("segmentor.head.bias is absent" if change == "lacks" else "segmentor.odd") in message


def test_foreign_weights_change_nothing(run):
    with quiet_generator(9):
        networks = build(config())
    before = {name: t.clone() for name, t in network_tensors(networks).items()}
    tensors, _ = read_tensors(run / checkpoint.WEIGHTS)
    del tensors["segmentor.head.bias"]
    error_of(load_networks, networks, tensors, run)
    assert all(torch.equal(t, before[name]) for name, t in network_tensors(networks).items())


class _Payload:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def test_a_pickle_is_refused_unread(run):
    marker = run / "executed"
    payload = pickle.dumps(_Payload(marker))
    path = run / checkpoint.WEIGHTS
    path.write_bytes(payload)
    assert str(path) in error_of(load_run, run)
    torch.save({"a": torch.zeros(1)}, path)
    assert str(path) in error_of(load_run, run)
    assert not marker.exists()
    pickle.loads(payload)
    assert marker.exists()  # the payload does work


def gradient_steps(model, optimizer, seed, times):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(times):
        optimizer.zero_grad()
        model(torch.randn(5, 3, generator=generator)).square().mean().backward()
        optimizer.step()


def test_the_next_step_after_a_round_trip_is_bit_equal(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    gradient_steps(model, optimizer, 1, 3)
    path = tmp_path / checkpoint.CHECKPOINT
    write_tensors(path, {**optimizer_tensors(optimizer, "adam"), "adamant.0.step": torch.ones(1)})
    copies = []
    for restore in (True, False):
        other = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
        other.load_state_dict(model.state_dict())
        fresh = torch.optim.Adam(other.parameters(), 1e-2)
        if restore:
            load_optimizer(fresh, "adam", read_tensors(path)[0])
        gradient_steps(other, fresh, 2, 2)
        copies.append(other.state_dict())
    gradient_steps(model, optimizer, 2, 2)
    restored, forgetful = copies
    assert all(torch.equal(restored[name], t) for name, t in model.state_dict().items())
    assert not torch.equal(forgetful["0.weight"], model.state_dict()["0.weight"])


def test_quiet_generator_repeats_and_gives_back_even_after_an_error():
    before = torch.get_rng_state()
    draws = []
    for _ in range(2):
        with pytest.raises(KeyError), quiet_generator(3):
            draws.append(torch.rand(4))
            raise KeyError
    assert torch.equal(*draws)
    assert torch.equal(torch.get_rng_state(), before)
