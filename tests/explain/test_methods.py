"""Other ways to explain a network: what Captum is asked, against what it must come to."""

import numpy as np
import pytest
import torch

import instr_lib as il
from instr_lib.explain import methods

MELS = np.random.default_rng(0).uniform(-70, -10, (2, 128, 431)).astype(np.float32)


@pytest.fixture(scope="module")
def network(random_network):
    return random_network(il.CompactCNN)


@pytest.mark.parametrize("name", [name for name in methods.METHODS if name != "occlusion"])
def test_every_method_gives_heatmaps_and_leaves_the_network_alone(name, network):
    before = {key: value.clone() for key, value in network.state_dict().items()}
    heatmaps = np.asarray(methods.METHODS[name](network, MELS, np.array([3, 7])))
    assert heatmaps.shape == MELS.shape and np.isfinite(heatmaps).all() and heatmaps.any()
    again = np.asarray(methods.METHODS[name](network, MELS, np.array([3, 7])))
    assert np.allclose(heatmaps, again, rtol=1e-4, atol=1e-4 * np.abs(heatmaps).max())
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert all(p.requires_grad for p in network.parameters())


def test_gradients_are_those_of_the_logit_by_the_cells(network):
    normalise = network.preprocess.normalise(torch.from_numpy(MELS)[:, None]).requires_grad_()
    network.layers(network.preprocess.resize(normalise))[[0, 1], [3, 7]].sum().backward()
    gradient = normalise.grad[:, 0].numpy()
    targets = network, MELS, np.array([3, 7])
    assert np.allclose(methods.METHODS["gradient"](*targets), np.abs(gradient), atol=1e-6)
    assert np.allclose(
        methods.METHODS["gradient × input"](*targets), gradient * normalise.detach()[:, 0].numpy(), atol=1e-6
    )


def test_occlusion_is_the_fall_of_the_logit(network):
    heatmaps = methods.occlusion(network, MELS[:1], np.array([3]), bands=64, frames=216)
    silent = MELS[0].copy()
    silent[:64, :216] = -80
    with torch.no_grad():
        whole, without = (float(network(torch.from_numpy(m)[None, None])[0, 3]) for m in (MELS[0], silent))
    assert heatmaps[0, 10, 10] == pytest.approx(whole - without, abs=1e-4)
    assert len(np.unique(heatmaps[0].round(5))) <= 4


def test_random_weights_are_the_same_every_time_and_not_the_networks(network):
    targets = network, MELS, np.array([3, 7])
    assert not np.allclose(
        methods.METHODS["CRP on random weights"](*targets), methods.METHODS["CRP, epsilon plus"](*targets)
    )
