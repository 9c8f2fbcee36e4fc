"""Hidden channels: the definitions against zennit-crp and on paper, the cache, names that must not be earned by luck."""

import copy

import numpy as np
import pytest
import torch
from crp.attribution import CondAttribution
from torch import nn
from zennit.canonizers import SequentialMergeBatchNorm
from zennit.composites import EpsilonPlus

import instr_lib as il
from instr_lib.errors import InputError
from instr_lib.explain import concepts, dissection, maximisation
from instr_lib.explain.attribution import ClipTrace


@pytest.fixture(scope="module")
def network(random_network):
    return random_network(il.CompactCNN)


@pytest.fixture(scope="module")
def mel(mels):
    """Something everywhere: of silence's equal cells no winner can be told."""
    return np.random.default_rng(0).uniform(-70, -10, (128, 431)).astype(np.float32)


@pytest.fixture(scope="module")
def data(need_soundfont, tmp_path_factory):
    return il.generate(tmp_path_factory.mktemp("clips") / "train", 24, n_jobs=1, progress=False)


def close(one, other, tolerance=1e-5):
    one, other = np.asarray(one, float), np.asarray(other, float)
    return one.shape == other.shape and np.abs(one - other).max() <= tolerance * np.abs(other).max()


def by_crp(layers, x, condition):
    """Heatmap and attribution by zennit-crp, in float64; batch normalisation's eps moved into its variance."""
    layers = copy.deepcopy(layers).double().eval()
    for norm in layers:
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_var, norm.eps = norm.running_var + norm.eps, 0
    x = x.double().clone().requires_grad_()
    rules = EpsilonPlus(canonizers=[SequentialMergeBatchNorm()])
    names = [name for name, layer in layers.named_children() if isinstance(layer, nn.Conv2d)]
    found = CondAttribution(layers)(x, [condition], rules, record_layer=names, exclude_parallel=False)
    return x.grad[0].sum(0).numpy(), {name: found.relevances[name][0] for name in names}


def heard(network, mels, layer) -> np.ndarray:
    """What PyTorch's own layers give after batch normalisation, (n, channels, h, w)."""
    x = network.preprocess(torch.from_numpy(mels)[:, None])
    with torch.no_grad():
        for name, module in network.layers.named_children():
            x = module(x)
            if name == layer.replace("conv", "bn"):
                return x.numpy()


@pytest.mark.parametrize("layer, channel", [("conv5", 17), ("conv3", 40), ("conv1", 3)])
def test_conditional_relevance_equals_zennit_crp(network, mel, layer, channel):
    exact = copy.deepcopy(network).double()
    x = exact.preprocess(torch.from_numpy(mel)[None, None].double())
    expected, _ = by_crp(network.layers, x, {"y": [4], layer: [channel]})
    parts, _ = concepts.concept_relevance(exact, mel, 4, layer, [channel])
    assert close(parts[0], expected)
    assert not close(parts[0], by_crp(network.layers, x, {"y": [4]})[0], 0.1)


def test_channel_relevance_equals_zennit_crp(network, mel):
    exact = copy.deepcopy(network).double()
    x = exact.preprocess(torch.from_numpy(mel)[None, None].double())
    _, recorded = by_crp(network.layers, x, {"y": [7]})
    for layer, maps in recorded.items():
        assert close(concepts.channel_relevance(exact, mel, 7, layer), maps.sum((1, 2)))


@pytest.mark.parametrize("kind, layer", [(il.CompactCNN, "conv2"), (il.OriginalCNN, "conv4")])
def test_parts_and_rest_are_the_whole(random_network, mel, kind, layer):
    model = random_network(kind)
    top = np.argsort(-np.abs(concepts.channel_relevance(model, mel, "Violin", layer)))[[0, 1, 5]]
    parts, rest = concepts.concept_relevance(model, mel, "Violin", layer, top)
    assert close(parts.sum(0) + rest, il.relevance(model, mel[None], ["Violin"])[0], 1e-4)
    assert all(np.abs(part).sum() > 0 for part in parts)
    assert concepts.concept_relevance(model, mel, "Violin", layer, [])[0].shape == (0, 128, 431)


def test_matrix_equals_one_by_one(network, data):
    stats = maximisation.channel_stats(network, data, [0, 1, 2, 3, 4], batch_size=2, progress=False)
    assert len(stats.clips) == data.labels[:5].sum() and list(stats.relevance) == [f"conv{n}" for n in range(1, 6)]
    for row in (0, len(stats.clips) - 1):
        clip, index = stats.clips[row], stats.classes[row]
        assert data.labels[clip, index] == 1
        trace = ClipTrace(network, data.mels([clip]))
        for layer, found in stats.relevance.items():
            maps = trace.back(trace.start([int(index)]), until=layer)[0].flatten(1).numpy()
            assert np.abs(found[row] - maps.sum(1)).max() < 1e-3 * np.abs(maps.sum(1)).max()
            assert np.abs(stats.peak[layer][row] - maps.max(1)).max() < 1e-3 * np.abs(maps).max()
            # At the place the map has its peak, or one that float32 cannot tell from it.
            there = np.take_along_axis(maps, stats.neuron[layer][row][:, None], 1)[:, 0]
            assert np.abs(there - maps.max(1)).max() < 1e-3 * np.abs(maps).max()
            n = int(np.flatnonzero(stats.examined == clip)[0])
            active = heard(network, data.mels([clip]), layer)[0]
            assert np.allclose(stats.activation[layer][n], active.max((1, 2)).clip(min=0), atol=1e-4)
            there = np.take_along_axis(active.reshape(len(active), -1), stats.active_neuron[layer][n][:, None], 1)[:, 0]
            assert np.allclose(there.clip(min=0), stats.activation[layer][n], atol=1e-4)
    shares = stats.shares("conv4")
    assert np.allclose(shares.sum(1), 1) and shares.min() >= 0
    order, mean = stats.ranking("conv4", int(stats.classes[0]))
    assert sorted(order) == list(range(96)) and (np.diff(mean) <= 0).all()
    assert (np.abs(stats.stability("conv4")) <= 1).all()


def test_matrix_is_kept_under_a_hash(network, random_network, data, tmp_path):
    first = maximisation.channel_stats(network, data, [0, 1], cache=tmp_path, progress=False)
    (file,) = tmp_path.iterdir()
    again = maximisation.channel_stats(network, data, [0, 1], cache=tmp_path, progress=False)
    assert all(np.array_equal(first.neuron[layer], again.neuron[layer]) for layer in first.neuron)
    assert np.array_equal(first.classes, again.classes) and list(first.peak) == list(again.peak)
    maximisation.channel_stats(random_network(il.CompactCNN, 1), data, [0, 1], cache=tmp_path, progress=False)
    maximisation.channel_stats(network, data, [0, 2], cache=tmp_path, progress=False)
    assert len(list(tmp_path.iterdir())) == 3
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(InputError, match="delete it"):
        maximisation.channel_stats(network, data, [0, 1], cache=tmp_path, progress=False)


@pytest.mark.parametrize("kind", [il.CompactCNN, il.OriginalCNN])
@pytest.mark.parametrize("layer", ["conv1", "conv2", "conv4"])
def test_nothing_outside_the_receptive_field_matters(random_network, mel, kind, layer):
    """Change everything outside: the activation stays. Change any edge of the inside: it does not."""
    model = random_network(kind)
    neuron = {"conv1": 20_031, "conv2": 4_321, "conv4": 200 if kind is il.CompactCNN else 900}[layer]
    field = concepts.receptive_field(model, layer, neuron)

    def activation(mel):
        x = model.preprocess(torch.from_numpy(mel)[None, None])
        with torch.no_grad():
            for name, module in model.layers.named_children():
                x = module(x)
                if name == layer:
                    return x[0].flatten(1)[:, neuron].numpy()

    noise = np.random.default_rng(1).uniform(-70, -10, mel.shape).astype(np.float32)
    other = noise.copy()
    other[field] = mel[field]
    before = activation(mel)
    assert np.allclose(activation(other), before, atol=1e-5)
    bands, frames = field
    slack = 0 if kind is il.CompactCNN else 2  # of an enlarged picture the outermost cells may hardly count
    for edge in (
        (slice(bands.start, bands.start + 1 + slack), frames),
        (slice(bands.stop - 1 - slack, bands.stop), frames),
        (bands, slice(frames.start, frames.start + 1 + slack)),
        (bands, slice(frames.stop - 1 - slack, frames.stop)),
    ):
        changed = mel.copy()
        changed[edge] = noise[edge]
        assert not np.allclose(activation(changed), before, atol=1e-6)


def test_references_are_where_a_channel_peaks(data):
    network = il.load_model("compact")  # a random one likes silence as well as sound
    stats = maximisation.channel_stats(network, data, range(12), progress=False)
    channel = int(stats.peak["conv3"].max(0).argmax())
    found = maximisation.reference_samples(network, stats, "conv3", channel, count=3)
    assert len({neuron.clip for neuron in found}) == 3 == len(found)
    assert found[0].value == stats.peak["conv3"][:, channel].max() and found[0].value >= found[1].value
    part = concepts.concept_relevance(network, data.mels([found[0].clip])[0], found[0].instrument, "conv3", [channel])[0][0]
    assert np.abs(part[found[0].field]).max() > 0
    busy = int(stats.activation["conv2"].max(0).argmax())
    (active,) = maximisation.reference_samples(network, stats, "conv2", busy, by="activation", count=1)
    assert active.instrument is None and active.value == stats.activation["conv2"][:, busy].max()
    index = int(stats.classes[0])
    ours = maximisation.reference_samples(network, stats, "conv5", channel, instrument=index)
    assert all(neuron.instrument == index for neuron in ours)
    sound = il.Synth().render(data.score(found[0].clip))
    assert 0 < len(maximisation.crop_sound(sound, found[0].field)) < len(sound) / 5


def test_ways_are_relevance_between_channels(network, mel):
    found = concepts.attribution_graph(network, mel, "Trumpet", width=2)
    assert [way.source for way in found[:2]] == [("", 6)] * 2 and len(found) == 2 + 4 * 4
    shares = concepts.channel_relevance(network, mel, 6, "conv5")
    with torch.no_grad():
        logit = float(network(torch.from_numpy(mel)[None, None])[0, 6])
    for way in found[:2]:
        assert way.relevance == pytest.approx(shares[way.target[1]] / logit, rel=1e-3)
    # Through one channel of conv5 to one of conv4: what zennit-crp records there if it is conditioned on the former.
    x = network.preprocess(torch.from_numpy(mel)[None, None])
    source, target = found[2].source[1], found[2].target[1]
    _, recorded = by_crp(network.layers, x, {"y": [6], "conv5": [source]})
    assert found[2].relevance == pytest.approx(float(recorded["conv4"][target].sum()) / logit, rel=1e-3)


def test_a_silenced_channel_says_nothing(network, mel):
    deaf = concepts.ablate_channels(network, "conv2", [3, 7])
    x = deaf.layers[:8](deaf.preprocess(torch.from_numpy(mel)[None, None]))
    assert not x[0, [3, 7]].any() and x[0, 4].any()
    assert network.layers.bn2.weight[3] != 0


@pytest.mark.parametrize(
    "work, message",
    [
        (lambda m, d: concepts.channel_relevance(m, d.mels([0])[0], 0, "conv9"), "no layer 'conv9': choose one of conv1"),
        (lambda m, d: concepts.concept_relevance(m, d.mels([0])[0], 0, "conv1", [16]), "no channel 16: choose 0 to 15"),
        (lambda m, d: concepts.ablate_channels(m, "conv1", [-1]), "no channel -1"),
        (lambda m, d: concepts.receptive_field(m, "conv1", 128 * 431), "no place"),
        (lambda m, d: maximisation.channel_stats(m, d, []), "no clips"),
        (lambda m, d: dissection.label_channels(m, d, range(5)), "too few"),
        (lambda m, d: maximisation.channel_stats(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ELU()), d, [0]), "ELU"),
    ],
)
def test_bad_questions_are_refused(network, data, work, message):
    with pytest.raises(InputError, match=message):
        work(network, data)


def test_an_instrument_that_never_plays_has_no_channels(network, data):
    clip = next(i for i in range(len(data)) if not data.labels[i, 6])
    stats = maximisation.channel_stats(network, data, [clip], progress=False)
    with pytest.raises(InputError, match="Trumpet plays in none"):
        stats.ranking("conv5", "Trumpet")
    with pytest.raises(InputError, match="by 'relevance' or by 'activation'"):
        maximisation.reference_samples(network, stats, "conv5", 0, by="beauty")


# Names


def test_auc_on_paper():
    from scipy.stats import rankdata

    # One no of four is above the lower yes, so of 2 x 4 pairs 7 are in order; ties count half.
    active = np.array([[1.0, 5], [2, 5], [3, 5], [5, 5], [4, 5], [6, 5]])
    labels = np.array([[False, False, False, False, True, True]])
    found = dissection.auc(rankdata(active, axis=0), labels)
    assert np.allclose(found, [[7 / 8, 0.5]])
    assert np.isnan(dissection.auc(rankdata(active, axis=0), np.zeros((1, 6), bool))).all()


def test_moments_follow_the_score():
    score = il.Score((il.Note(0, 60, 80, 1.0, 1.0), il.Note(6, 72, 80, 3.0, 1.0)))
    mel = np.full((128, 431), -80, np.float32)
    mel[:, 100:200], mel[40, 250:350] = -30, -10
    times = np.array([0.5, 1.02, 1.5, 2.1, 3.02, 3.7])
    found = dissection.frame_labels(score, mel, times)
    assert found["onset"].tolist() == [-1, 1, 0, -1, 1, 0]
    assert found["release"].tolist() == [-1, -1, 0, 1, -1, 0]
    assert found["high"].tolist() == [-1, -1, 0, -1, -1, 1]
    assert found["Acoustic Grand Piano"].tolist() == [-1, 1, 1, -1, 0, 0]
    assert found["Trumpet"].tolist() == [-1, 0, 0, -1, 1, 1]
    assert found["Violin"].tolist() == [-1, 0, 0, -1, 0, 0]
    assert found["noisy"][2] == 1 and found["noisy"][4] == 0


def test_activations_are_the_loudest_band_after_relu(network, data):
    mels = data.mels(range(3))
    found = dissection.activations(network.train(), mels, batch_size=2)
    assert network.training  # left as it was
    network.eval()
    for layer, channels in concepts.convolutions(network).items():
        expected = heard(network, mels, layer).max(2).clip(min=0).transpose(0, 2, 1)
        assert found[layer].shape == expected.shape and expected.shape[2] == channels
        assert np.abs(found[layer] - expected).max() < 1e-4 * expected.max()


def test_columns_of_a_map_know_their_time(network):
    for layer, steps in (("conv1", 431), ("conv3", 107), ("conv5", 26)):
        times = dissection.step_times(network, layer, steps)
        step = times[1] - times[0]
        assert np.allclose(np.diff(times), step) and -step < times[0] < 2 * step and 4.4 < times[-1] < 5.1


def test_names_are_earned_by_meaning_and_not_by_luck(network, data, monkeypatch):
    """A channel that follows trumpets is called so; channels that wander on their own are not."""

    def made_up(model, mels):
        rng, found = np.random.default_rng(0), {}
        for layer, channels in concepts.convolutions(model).items():
            steps = 26
            wander = rng.normal(size=(len(mels), steps, channels)).cumsum(1)
            found[layer] = wander.astype(np.float32)
        times = dissection.step_times(model, "conv5", 26)
        for row, mel in enumerate(mels):
            clip = next(i for i in range(len(data)) if np.array_equal(data.mels([i])[0], mel))
            label = dissection.frame_labels(data.score(clip), mel, times)["Trumpet"]
            found["conv5"][row, :, 11] = (label == 1) + 0.1 * rng.normal(size=26)
        return found

    monkeypatch.setattr(dissection, "activations", made_up)
    monkeypatch.setattr(dissection, "step_times", lambda model, layer, steps: np.linspace(0.1, 4.8, steps))
    names = dissection.label_channels(network, data, range(24), n_shifts=10_000, progress=False)
    assert len(names) == sum(concepts.convolutions(network).values())
    (trumpet,) = [n for n in names if (n.layer, n.channel) == ("conv5", 11)]
    assert trumpet.text == "Trumpet" and trumpet.auc > 0.9 and trumpet.q <= 0.05
    by_luck = [n for n in names if n.significant and n is not trumpet]
    assert len(by_luck) < 0.05 * len(names)


def test_ablation_tells_own_channels_from_others(network, data):
    """A network whose trumpet hears one channel alone: without it the logit falls, without others it does not."""
    model = copy.deepcopy(network)
    with torch.no_grad():
        weights = model.layers.linear.weight.reshape(12, 2, 128, 4)
        weights[6] = 0
        weights[6, :, 20] = 1
    row = dissection.ChannelLabel("conv5", 20, "Trumpet", False, 0.9, 0.001, 0.01, True)
    (effect,) = dissection.ablate(model, data, range(24), [row], progress=False)
    assert effect.instrument == 6 and effect.channels == 1
    assert effect.own.low > 0 and abs(effect.others.value) < 1e-3 and effect.difference.low > 0
    assert dissection.ablate(model, data, range(24), [row._replace(significant=False)], progress=False) == []
