"""The two networks, and their weights on disk."""

import io
import json
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import instr_lib as il
from instr_lib import report
from instr_lib.models import Front

NETWORKS = {"original": il.OriginalCNN, "compact": il.CompactCNN}


@pytest.fixture(params=NETWORKS)
def network(request, random_network) -> nn.Module:
    return random_network(NETWORKS[request.param])


def parameters(model) -> int:
    return sum(p.numel() for p in model.parameters())


def test_original_is_the_reports_table():
    rows = [row for row in il.layer_table(il.OriginalCNN()) if row[0] not in ("ReLU", "Flatten")]
    assert tuple(rows) == report.LAYERS


def test_original_has_the_reports_number_of_parameters():
    assert parameters(il.OriginalCNN()) == report.PARAMETERS == 855_948
    assert sum(row[2] for row in il.layer_table(il.OriginalCNN())) == 855_948


def test_compact_is_compact():
    assert 200_000 < parameters(il.CompactCNN()) <= 300_000


def test_layer_table_leaves_the_network_alone(network):
    before = {k: v.clone() for k, v in network.state_dict().items()}
    network.train()
    il.layer_table(network)
    assert network.training
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


def test_decibels_in_logits_out(network, mels):
    logits = network(torch.from_numpy(mels)[:, None])
    assert (logits.shape, logits.dtype) == ((3, 12), torch.float32)
    assert not torch.allclose(logits[0], logits[1])


@torch.no_grad()
def test_pooling_before_relu_equals_after(network, mels):
    """Both are monotone, so the report's order gives the same logits, bit for bit."""
    by_name = OrderedDict(network.layers.named_children())
    for n in range(1, 6 if isinstance(network, il.CompactCNN) else 5):
        by_name[f"pool{n}"], by_name[f"relu{n}"] = by_name[f"relu{n}"], by_name[f"pool{n}"]
    swapped = nn.Sequential(*by_name.values())
    assert [type(layer) for layer in swapped][2:4] == [nn.ReLU, nn.MaxPool2d]
    mel = torch.from_numpy(mels[:1])[:, None]
    assert torch.equal(swapped(network.front(mel)), network(mel))


def test_silence_is_zero_at_the_networks_input():
    """To -80 dB belongs 0, exactly; to 0 dB 1; beyond the scale nothing changes any more."""
    db = torch.tensor([-90.0, -80.0, -40.0, 0.0, 5.0]).reshape(1, 1, 1, 5)
    assert Front()(db).flatten().tolist() == [0, 0, 0.5, 1, 1]


def test_original_sees_the_same_enlarged_picture_three_times(mels):
    mel = torch.from_numpy(mels[:1])[:, None]
    picture = il.OriginalCNN().front(mel)
    assert picture.shape == (1, 3, 400, 400)
    enlarged = F.interpolate((mel + 80) / 80, (400, 400), mode="bilinear", align_corners=False)
    for channel in range(3):
        assert torch.allclose(picture[:, channel], enlarged[:, 0], atol=1e-6)


# Weights on disk


def test_weights_come_back_bit_for_bit(network, mels, tmp_path):
    network.train()  # the mode is not part of the weights
    path = il.save_model(network, tmp_path / "new" / "weights.safetensors", seed=3)
    loaded = il.load_model(path)
    assert type(loaded) is type(network)
    assert not loaded.training
    assert loaded.state_dict().keys() == network.state_dict().keys()
    assert all(torch.equal(v, loaded.state_dict()[k]) for k, v in network.state_dict().items())
    assert np.array_equal(il.predict(loaded, mels), il.predict(network, mels))
    assert not list(tmp_path.glob("**/*.part"))


def test_what_is_known_about_the_weights_is_beside_them(tmp_path):
    path = il.save_model(il.CompactCNN(), tmp_path / "weights.safetensors", epochs=5, macro_f1=0.9)
    assert il.model_info(path) == {"architecture": "compact", "epochs": 5, "macro_f1": 0.9}
    assert json.loads((tmp_path / "weights.json").read_text()) == il.model_info(path)


def test_published_weights_are_found_by_name(random_network, tmp_path, monkeypatch):
    monkeypatch.setenv("INSTR_MODELS", str(tmp_path))
    for name, kind in NETWORKS.items():
        network = random_network(kind)
        il.save_model(network, tmp_path / f"{name}.safetensors", name=name)
        assert torch.equal(il.load_model(name).layers.linear.weight, network.layers.linear.weight)
        assert il.model_info(name)["name"] == name


def test_every_cut_of_the_weights_is_refused(tmp_path):
    path = il.save_model(il.CompactCNN(), tmp_path / "weights.safetensors")
    whole = path.read_bytes()
    for length in (0, 4, 8, 100, 1000, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(il.WeightsError, match=r"weights\.safetensors"):
            il.load_model(path)


def test_weights_with_nan_are_refused(tmp_path):
    network = il.CompactCNN()
    with torch.no_grad():
        network.layers.conv1.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(il.WeightsError, match="NaN"):
        il.load_model(il.save_model(network, tmp_path / "weights.safetensors"))


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def pickled_by_torch(bomb) -> bytes:
    file = io.BytesIO()
    torch.save(bomb, file)
    return file.getvalue()


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pt"])
@pytest.mark.parametrize("save", [pickle.dumps, pickled_by_torch])
def test_nothing_unpickles(save, name, tmp_path):
    marker, path = tmp_path / "exploded", tmp_path / name
    pickle.loads(pickle.dumps(Bomb(marker)))
    assert marker.exists()  # the bomb is a real one
    marker.unlink()
    path.write_bytes(save(Bomb(marker)))
    with pytest.raises(il.WeightsError):
        il.load_model(path)
    assert not marker.exists()


def test_only_our_networks_are_saved(tmp_path):
    with pytest.raises(il.InstrError, match=r"OriginalCNN|CompactCNN|architecture"):
        il.save_model(nn.Linear(2, 2), tmp_path / "weights.safetensors")
