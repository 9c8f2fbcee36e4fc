"""The attribution prior: the penalty is as defined, and training with it moves relevance to own cells."""

import numpy as np
import pytest
import torch

import instr_lib as il
from instr_lib.errors import DatasetError, TrainingError
from instr_lib.explain import prior
from instr_lib.music.randomisation import DomainRandomisation, render_stems
from instr_lib.truth import source_maps, stems


@pytest.fixture(scope="module")
def source_map(clips, tmp_path_factory):
    file = tmp_path_factory.mktemp("sources") / "sources.npy"
    return source_maps.dominant_source_map(clips, file, n_jobs=2, progress=False)


def test_dominant_sources_are_those_of_the_stems(clips, source_map, synth):
    assert source_map.shape == (120, 128, 431) and source_map.dtype == np.uint8
    for row in (0, 61, 119):
        score = clips.score(row)
        shares = stems.ownership(synth.render_stems(score))
        expected = np.zeros((128, 431), np.uint8)
        for share, index in zip(shares, score.instruments, strict=True):
            expected[share >= stems.OWNERSHIP_THRESHOLD] = index + 1
        assert np.array_equal(source_map[row], expected)


def test_source_maps_are_cached_and_belong_to_their_data(clips, synth, tmp_path):
    few = il.generate(tmp_path / "few", 3, n_jobs=1, progress=False)
    file = tmp_path / "sources.npy"
    first = np.array(source_maps.dominant_source_map(few, file, n_jobs=1, progress=False))
    stamp = file.stat().st_mtime_ns
    assert (
        np.array_equal(first, source_maps.dominant_source_map(few, file, n_jobs=1, progress=False))
        and file.stat().st_mtime_ns == stamp
    )
    with pytest.raises(DatasetError, match="another dataset"):
        source_maps.dominant_source_map(clips, file, progress=False)


def test_penalty_is_that_of_the_heatmap(clips, source_map, random_network):
    """Computed from ``il.relevance``, which differs only by a factor, the logit."""
    model = random_network(il.CompactCNN, 1)
    several = [i for i in range(120) if clips.labels[i].sum() > 1][:6]
    mels = torch.from_numpy(clips.mels(several))[:, None]
    penalty = prior.AttributionPrior(source_map, weight=2.0, composite="epsilon_plus")
    torch.manual_seed(0)
    value = float(penalty(model, clips, several, mels).detach())
    torch.manual_seed(0)
    rng, expected = np.random.default_rng(torch.randint(2**31, ()).item()), 0.0
    logits = il.networks.evaluation.logits(model, mels[:, 0].numpy())
    for n, clip in enumerate(several):
        instruments = np.flatnonzero(clips.labels[clip])
        target = int(rng.choice(instruments))
        heat = il.relevance(model, mels[n].numpy(), [target], "epsilon_plus")[0] / logits[n, target]
        heat = heat.clip(min=0)
        mass = {i: (heat * (source_map[clip] == i + 1)).sum() / heat.sum() for i in instruments}
        own, other = max(mass[target], 1e-3), max(1e-3, *(mass[i] for i in instruments if i != target))
        expected += -np.log(own) + 0.5 * np.logaddexp(0, 4 * np.log(other / own))
    assert value == pytest.approx(2 * expected, rel=1e-3)


def test_clips_with_one_instrument_have_no_penalty(clips, source_map, random_network):
    alone = [i for i in range(120) if clips.labels[i].sum() == 1][:3]
    mels = torch.from_numpy(clips.mels(alone))[:, None]
    assert float(prior.AttributionPrior(source_map)(random_network(il.CompactCNN), clips, alone, mels)) == 0


@pytest.mark.slow
def test_training_on_the_penalty_lowers_it(clips, source_map):
    model = il.load_model("compact").requires_grad_(True)
    several = [i for i in range(120) if clips.labels[i].sum() > 1][:4]
    mels = torch.from_numpy(clips.mels(several))[:, None]
    penalty, optimizer = prior.AttributionPrior(source_map), torch.optim.Adam(model.parameters(), 2e-5)
    losses = []
    for _ in range(8):
        torch.manual_seed(0)  # the same instruments are drawn
        loss = penalty(model, clips, several, mels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.slow
def test_a_run_with_a_penalty_resumes_and_ends_with_its_last_epoch(clips, source_map, tmp_path):
    settings, index = il.TrainSettings(2, 8, 3e-4), np.arange(16)
    penalty = prior.AttributionPrior(source_map)

    def run(folder, settings=settings, penalty=penalty):
        model = il.load_model("compact")
        history = il.train(model, clips, index, index, settings, folder, progress=False, penalty=penalty)
        return model.state_dict(), history

    whole, history = run(tmp_path / "whole")

    class Stop(Exception):
        pass

    def interrupted(model, ds, batch, mels, calls=[]):  # noqa: B006
        calls.append(batch)
        if len(calls) == 4:  # in the second epoch
            raise Stop
        return penalty(model, ds, batch, mels)

    class Interrupted:
        __call__ = staticmethod(interrupted)
        __repr__ = staticmethod(lambda: repr(penalty))

    with pytest.raises(Stop):
        run(tmp_path / "cut", penalty=Interrupted())
    again, _ = run(tmp_path / "cut")
    assert all(torch.equal(whole[key], again[key]) for key in whole)
    about = il.describe_run(clips, settings, history, penalty)
    assert about["best_epoch"] == 2 and "epsilon_plus_alpha2_beta1" in about["settings"]["penalty"]
    with pytest.raises(TrainingError, match="penalty"):
        run(tmp_path / "cut", penalty=prior.AttributionPrior(source_map, weight=0.1))


def test_dominant_sources_of_varied_clips_are_those_of_their_own_stems(need_soundfont, tmp_path):
    varied = DomainRandomisation(registers=True, levels=True, overrides=True, reverb=True)
    ds = il.generate(tmp_path / "varied", 6, variation=varied, progress=False)
    sources = source_maps.dominant_source_map(ds, tmp_path / "sources.npy", n_jobs=1, progress=False)
    for i in range(6):
        shares = il.ownership(render_stems(ds.plan(i)))
        for share, instrument in zip(shares, ds.score(i).instruments, strict=True):
            assert np.array_equal(sources[i] == instrument + 1, share >= 0.8)


def test_the_penalty_knows_networks_with_fewer_frames(clips, source_map, random_network):
    """If all cells are one instrument's, it is nearly 0 if that one is drawn, and large if the other one is."""
    model = random_network(il.RobustCNN)
    several = [int(np.flatnonzero(clips.labels.sum(1) == 2)[0])]
    everywhere = np.stack([np.full_like(source_map[0], 1 + np.flatnonzero(label)[0]) for label in clips.labels])
    mels = torch.from_numpy(clips.mels(several))[:, None]
    torch.manual_seed(0)
    penalty = prior.AttributionPrior(everywhere)
    values = [penalty(model, clips, several, mels).item() for _ in range(12)]
    assert min(values) < 0.01 and max(values) > 3
