"""The two networks, and their weights on disk."""

import hashlib
import io
import json
import os
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import instr_lib as il
from instr_lib.networks.models import Preprocess
from instr_lib.samples import original_report

NETWORKS = {"original": il.OriginalCNN, "compact": il.CompactCNN}


@pytest.fixture(params=NETWORKS)
def network(request, random_network) -> nn.Module:
    return random_network(NETWORKS[request.param])


def parameters(model) -> int:
    return sum(p.numel() for p in model.parameters())


def test_original_is_the_reports_table():
    rows = [row for row in il.layer_table(il.OriginalCNN()) if row[0] not in ("ReLU", "Flatten")]
    assert tuple(rows) == original_report.LAYERS


def test_original_has_the_reports_number_of_parameters():
    assert parameters(il.OriginalCNN()) == original_report.PARAMETERS == 855_948
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
    assert torch.equal(swapped(network.preprocess(mel)), network(mel))


def test_silence_is_zero_at_the_networks_input():
    """To -80 dB belongs 0, exactly; to 0 dB 1; beyond the scale nothing changes any more."""
    db = torch.tensor([-90.0, -80.0, -40.0, 0.0, 5.0]).reshape(1, 1, 1, 5)
    assert Preprocess()(db).flatten().tolist() == [0, 0, 0.5, 1, 1]


def test_original_sees_the_same_enlarged_picture_three_times(mels):
    mel = torch.from_numpy(mels[:1])[:, None]
    picture = il.OriginalCNN().preprocess(mel)
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
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert il.model_info(path) == {"architecture": "compact", "sha256": sha256, "epochs": 5, "macro_f1": 0.9}
    assert json.loads((tmp_path / "weights.json").read_text()) == il.model_info(path)


def test_more_is_added_beside_the_weights(tmp_path):
    path = il.save_model(il.CompactCNN(), tmp_path / "weights.safetensors", epochs=5)
    before = il.model_info(path)
    assert il.add_info(path, test={"value": 0.5, "low": None}, epochs=6) == il.model_info(path)
    assert il.model_info(path) == {**before, "epochs": 6, "test": {"value": 0.5, "low": None}}
    assert il.load_model(path)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["weights.json", "weights.safetensors"]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), np.float32(1), Path()])
def test_what_json_cannot_hold_changes_nothing(bad, tmp_path, hashes):
    path = il.save_model(il.CompactCNN(), tmp_path / "weights.safetensors", epochs=5)
    before = hashes(tmp_path)
    for write in (lambda **k: il.add_info(path, **k), lambda **k: il.save_model(il.CompactCNN(), path, **k)):
        with pytest.raises(il.WeightsError, match=r"weights\.json.*None"):
            write(curve=[{"val_f1": bad}])
        assert hashes(tmp_path) == before


def test_a_kill_while_adding_leaves_the_old_description(tmp_path, monkeypatch):
    path = il.save_model(il.CompactCNN(), tmp_path / "weights.safetensors", epochs=5)
    before = il.model_info(path)
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        il.add_info(path, epochs=6)
    monkeypatch.undo()
    assert il.model_info(path) == before


def test_all_descriptions_of_a_folder(tmp_path):
    assert il.models_info(tmp_path) == il.models_info(tmp_path / "missing") == {}
    for name, kind in (("compact-1", il.CompactCNN), ("original", il.OriginalCNN), ("compact", il.CompactCNN)):
        il.save_model(kind(), tmp_path / f"{name}.safetensors", seed=name[-1])
    assert list(il.models_info(tmp_path)) == ["original", "compact", "compact-1"]
    assert il.models_info(tmp_path)["compact-1"] == il.model_info(tmp_path / "compact-1.safetensors")


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


def refused(path, *words):
    """Both readers refuse a description, naming it and the remedy."""
    for read in (il.model_info, il.load_model):
        with pytest.raises(il.WeightsError) as raised:
            read(path)
        for word in (str(path.with_suffix(".json")), "restore", "train again", *words):
            assert word in str(raised.value)


def test_every_cut_of_the_description_is_refused(tmp_path):
    path = il.save_model(il.CompactCNN(), tmp_path / "weights.safetensors", data={"clips": 5})
    whole = path.with_suffix(".json").read_text().rstrip()
    for length in range(len(whole)):
        path.with_suffix(".json").write_text(whole[:length])
        refused(path)


@pytest.mark.parametrize(
    "text", ["[]", "null", '"architecture sha256"', "{}", '{"sha256": "%s"}', '{"architecture": "compact"}']
)
def test_descriptions_of_nothing_are_refused(text, tmp_path):
    path = il.save_model(il.CompactCNN(), tmp_path / "weights.safetensors")
    path.with_suffix(".json").write_text(text.replace("%s", il.model_info(path)["sha256"]))
    refused(path, "does not say which weights")


def test_a_description_of_other_weights_is_refused(tmp_path):
    """As after a kill between the two files, or a copy of only one."""
    first, second = (il.save_model(il.CompactCNN(), tmp_path / f"{n}.safetensors") for n in "ab")
    first.with_suffix(".json").write_text(second.with_suffix(".json").read_text())
    refused(first, "other weights", "a.safetensors")
    with pytest.raises(il.WeightsError, match=r"a\.json"):
        il.add_info(first, test=1)
    with pytest.raises(il.WeightsError, match=r"a\.json"):
        il.models_info(tmp_path)
    first.unlink()
    with pytest.raises(il.WeightsError, match=r"a\.json.*not beside it.*restore"):
        il.model_info(first)


def test_weights_alone_are_enough_to_listen(tmp_path, mels, random_network):
    path = il.save_model(random_network(il.CompactCNN), tmp_path / "weights.safetensors")
    expected = il.predict(il.load_model(path), mels)
    path.with_suffix(".json").unlink()
    assert np.array_equal(il.predict(il.load_model(path), mels), expected)


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
