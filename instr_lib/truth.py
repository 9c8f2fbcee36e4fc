"""Stems as ground truth: which instrument owns which cell, and how true a heatmap is by that.

Conventions: heatmaps are float (n, 128, 431), signed, one for each *pair* of a clip and an instrument that plays in it;
``owned`` are bool arrays of the same shape, the cells of which the instrument has at least ``OWNS`` of the power. A score
that is not defined for a pair (a heatmap without anything positive, an instrument that owns no cell) is NaN. Chapter 7 uses
all of it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import rankdata
from torch import nn
from tqdm.auto import tqdm

from .dataset import clip_score
from .errors import AudioError, InputError
from .evaluation import Interval, bootstrap, logits
from .instruments import INSTRUMENTS, instrument_index
from .models import load_model
from .spectrogram import FLOOR_DB, N_FRAMES, N_MELS, check_audio, log_mel, mel_power, to_db
from .synth import SAMPLE_RATE, Synth

OWNS = 0.8  # share of a cell's power from which on it is an instrument's own


def ownership(stems: np.ndarray) -> np.ndarray:
    """Each stem's share of the mel power of a cell, 0 where the mix is silent.

    Parameters
    ----------
    stems : float32 (k, 220_500)
        The sound of each instrument alone, as from :meth:`instr_lib.Synth.render_stems`.

    Returns
    -------
    float32 (k, 128, 431)
        Between 0 and 1; over the stems they add up to 1 where the mix sounds, to 0 where it does not.

    Raises
    ------
    AudioError
        If the stems are not k clips, or contain NaN.
    """
    stems = np.asarray(stems)
    if stems.ndim != 2:
        raise AudioError(f"stems must have shape (instruments, samples), not {stems.shape}")
    power = mel_power(stems)
    total = power.sum(axis=0)
    sounds = (to_db(mel_power(stems.sum(axis=0))) > FLOOR_DB) & (total > 0)
    return np.divide(power, total, out=np.zeros_like(power), where=sounds)


def check_heats(heats: np.ndarray, owned: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Heatmaps as float64 and masks as bool, if they belong together.

    Raises
    ------
    InputError
        If they are not both (n, 128, 431), or a heatmap contains NaN; the message says which.
    """
    heats, owned = np.asarray(heats, float), np.asarray(owned)
    if heats.ndim != 3 or heats.shape[1:] != (N_MELS, N_FRAMES):
        raise InputError(f"heatmaps must have shape (n, {N_MELS}, {N_FRAMES}), not {heats.shape}")
    if owned.shape != heats.shape or owned.dtype != bool:
        raise InputError(f"masks must be bool of shape {heats.shape}, not {owned.dtype} of {owned.shape}")
    if len(bad := np.flatnonzero(~np.isfinite(heats).all((1, 2)))):
        raise InputError(f"heatmap {bad[0]} contains NaN or infinity")
    return heats, owned


def mass_accuracy(heats: np.ndarray, owned: np.ndarray) -> np.ndarray:
    """Share of the positive relevance that lies on owned cells, (n,), 0 to 1.

    Relevance mass accuracy of Arras, Osman & Samek 2022, doi:10.1016/j.inffus.2021.11.008, eq. 1, for positive relevance.
    NaN for a heatmap with nothing positive.
    """
    heats, owned = check_heats(heats, owned)
    positive = heats.clip(min=0)
    return _divide((positive * owned).sum((1, 2)), positive.sum((1, 2)))


def rank_accuracy(heats: np.ndarray, owned: np.ndarray) -> np.ndarray:
    """Of as many cells as are owned, the most relevant ones: the share that is owned, (n,), 0 to 1.

    Relevance rank accuracy of Arras, Osman & Samek 2022, eq. 2. Cells of equal relevance count with the share of them
    that is owned. NaN if no cell is owned.
    """
    heats, owned = check_heats(heats, owned)
    return np.array([_rank_accuracy(heat.ravel(), own.ravel()) for heat, own in zip(heats, owned, strict=True)])


def _rank_accuracy(heat, own):
    count = int(own.sum())
    if not count:
        return np.nan
    least = np.partition(heat, -count)[-count]  # the smallest that is among the first
    above, level = heat > least, heat == least
    return (own[above].sum() + (count - above.sum()) * own[level].mean()) / count


def pointing_game(heats: np.ndarray, owned: np.ndarray) -> np.ndarray:
    """Whether the most relevant cell is owned, (n,), 0 or 1 (Zhang et al. 2018, doi:10.1007/s11263-017-1059-x).

    Several largest cells count with the share of them that is owned. NaN for a heatmap with nothing positive.
    """
    heats, owned = check_heats(heats, owned)
    peak = heats.max((1, 2), keepdims=True)
    hits = heats == peak
    return np.where(peak[:, 0, 0] > 0, (hits & owned).sum((1, 2)) / hits.sum((1, 2)), np.nan)


def average_precision(heats: np.ndarray, owned: np.ndarray) -> np.ndarray:
    """Area under the curve of precision against recall of owned cells, sorted by relevance, (n,), 0 to 1.

    The sum over thresholds of precision times the gain in recall; cells of equal relevance share a threshold. NaN if no
    cell is owned.
    """
    heats, owned = check_heats(heats, owned)
    return np.array([_average_precision(heat.ravel(), own.ravel()) for heat, own in zip(heats, owned, strict=True)])


def _average_precision(heat, own):
    if not own.any():
        return np.nan
    order = np.argsort(-heat, kind="stable")
    found = own[order].cumsum()
    last = np.append(np.flatnonzero(np.diff(heat[order])), len(order) - 1)  # of each run of equal relevance
    precision, recall = found[last] / (last + 1), found[last] / found[-1]
    return float((precision * np.diff(recall, prepend=0)).sum())


def sparseness(heats: np.ndarray) -> np.ndarray:
    """Gini index of the size of relevance, (n,): 0 all cells alike, 1 all in one cell.

    Chalasani et al. 2020, arXiv:1810.06583, use it so. NaN for a heatmap of zeros.
    """
    size = np.sort(np.abs(np.asarray(heats, float)).reshape(len(heats), -1), axis=1)
    n = size.shape[1]
    return _divide(((2 * np.arange(1, n + 1) - n - 1) * size).sum(1), n * size.sum(1))


def complexity(heats: np.ndarray) -> np.ndarray:
    """Entropy of the shares of the size of relevance, in bits, (n,): 0 for one cell (Bhatt et al. 2020, arXiv:2005.00631).

    At most log2 of the number of cells, which is 15.75. NaN for a heatmap of zeros.
    """
    size = np.abs(np.asarray(heats, float)).reshape(len(heats), -1)
    share = _divide(size, size.sum(1, keepdims=True))
    return -(share * np.log2(np.where(share > 0, share, 1))).sum(1)


def own_over_others(heats: np.ndarray, owned: np.ndarray, others: Sequence[np.ndarray]) -> np.ndarray:
    """Whether more positive relevance lies on the asked instrument's cells than on any other's, (n,), 0 or 1.

    Parameters
    ----------
    others : n bool arrays (k, 128, 431), the cells that each of the other instruments of the clip owns
        NaN where there is none, or nothing is positive.
    """
    heats, owned = check_heats(heats, owned)
    found = np.full(len(heats), np.nan)
    for n, (heat, own, other) in enumerate(zip(heats.clip(min=0), owned, others, strict=True)):
        if len(other) and heat.any():
            found[n] = float((heat * own).sum() > max((heat * one).sum() for one in other))
    return found


def _divide(a, b):
    return np.divide(a, b, out=np.full(np.broadcast(a, b).shape, np.nan), where=np.asarray(b) != 0)


class Pairs(NamedTuple):
    """Clips with their stems, and one row for each instrument that plays in one.

    Attributes
    ----------
    mels : float32 (clips, 128, 431), dB
    clips : int (n,), row of ``mels``
    classes : int (n,), instrument indices
    shares : float32 (n, 128, 431), the instrument's share of each cell's power
    others : n bool arrays (k, 128, 431), cells owned by each of the clip's other instruments
    level : float (n,), level of the instrument's stem relative to the rest of the mix, dB
    together : int (n,), how many instruments play
    """

    mels: np.ndarray
    clips: np.ndarray
    classes: np.ndarray
    shares: np.ndarray
    others: list[np.ndarray]
    level: np.ndarray
    together: np.ndarray

    @property
    def owned(self) -> np.ndarray:
        """Cells in which the instrument has at least ``OWNS`` of the power, bool (n, 128, 431)."""
        return self.shares >= OWNS


def pairs(n_clips: int, seed: int = 0, split: str = "test", synth: Synth | None = None, progress: bool = True) -> Pairs:
    """The first clips of a stream in which two instruments or more play, rendered stem by stem.

    Parameters
    ----------
    n_clips : int
        At least one. About 3 pairs come from each.
    seed, split : as for :func:`instr_lib.generate`
    synth : Synth, optional

    Raises
    ------
    InputError
        If ``n_clips`` is not positive.
    SynthError, SoundfontError
        As :class:`instr_lib.Synth`.
    """
    if n_clips < 1:
        raise InputError(f"n_clips must be at least 1, not {n_clips}")
    synth, found, index = synth or Synth(), [], -1
    with tqdm(total=n_clips, desc="clips with stems", disable=not progress) as bar:
        while len(found) < n_clips:
            index += 1
            score = clip_score(index, seed, split)
            if len(score.instruments) < 2:
                continue
            stems = synth.render_stems(score)
            found.append(pairs_of(stems.sum(0), stems, score.instruments))
            bar.update()
    return join(found)


def pairs_of(
    mix: np.ndarray,
    stems: np.ndarray,
    instruments: Sequence[int | str],
    asked: Sequence[int | str] | None = None,
) -> Pairs:
    """The pairs of one clip of your own: its mix and the stems that it was mixed of.

    Parameters
    ----------
    mix : float32 (220_500,)
    stems : float32 (k, 220_500)
    instruments : k names or indices, what plays each stem
    asked : names or indices of those to ask about; by default all

    Raises
    ------
    AudioError
        If mix or stems are not as they should be, or the stems do not add up to the mix (to a thousandth of its peak).
    InputError
        If there is not one instrument a stem, or one is asked about that does not play.
    """
    mix, stems, players = check_audio(mix), check_audio(stems), [instrument_index(i) for i in instruments]
    if stems.ndim != 2 or mix.ndim != 1:
        raise AudioError(f"a clip is a mix (samples,) and stems (instruments, samples), not {mix.shape} and {stems.shape}")
    if len(players) != len(stems) or len(set(players)) != len(players):
        raise InputError(f"{len(stems)} stems need as many different instruments, not {len(players)}: {list(instruments)}")
    error, peak = np.abs(stems.sum(0) - mix), np.abs(mix).max()
    if error.max() > 1e-3 * peak:
        raise AudioError(
            f"the stems do not add up to the mix: at {error.argmax() / SAMPLE_RATE:.2f} s they differ by {error.max():.2g} "
            f"and the mix peaks at {peak:.2g}: give all stems, as they are in the mix, without effects on their sum"
        )
    asked = players if asked is None else [instrument_index(i) for i in asked]
    for index in asked:
        if index not in players:
            here = ", ".join(INSTRUMENTS[i].name for i in players)
            raise InputError(f"{INSTRUMENTS[index].name} does not play in this clip, so no cell can be its own: {here} do")
    shares = ownership(stems)
    owned, rows = shares >= OWNS, [players.index(index) for index in asked]
    power = (stems.astype(float) ** 2).sum(1)
    rest = ((mix - stems) ** 2).sum(1, dtype=float)
    return Pairs(
        log_mel(mix)[None],
        np.zeros(len(asked), int),
        np.array(asked),
        shares[rows],
        [np.delete(owned, row, 0) for row in rows],
        10 * np.log10(np.maximum(power, 1e-12) / np.maximum(rest, 1e-12))[rows],
        np.full(len(asked), len(stems)),
    )


def join(found: Sequence[Pairs]) -> Pairs:
    """Pairs of several clips as one."""
    before = np.cumsum([0, *(len(one.mels) for one in found)])
    mels, clips, classes, shares, others, level, together = zip(*found, strict=True)
    return Pairs(
        np.concatenate(mels),
        np.concatenate([one + n for one, n in zip(clips, before, strict=False)]),
        np.concatenate(classes),
        np.concatenate(shares),
        [mask for masks in others for mask in masks],
        np.concatenate(level),
        np.concatenate(together),
    )


FRACTIONS = (0.0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


def removal_curves(
    model: torch.nn.Module, these: Pairs, heats: np.ndarray, fractions: Sequence[float] = FRACTIONS, insert: bool = False
) -> np.ndarray:
    """What becomes of the instrument's logit when its *own* power is taken out of the most relevant cells first.

    In a cell the mix keeps the power of the other stems, so nothing unheard of appears, as it does where cells are painted
    black (Samek et al. 2017, doi:10.1109/TNNLS.2016.2599820, remove them so).

    Parameters
    ----------
    model : network
    these : Pairs
    heats : float (n, 128, 431)
    fractions : of the cells that sound in the mix
    insert : bool
        Start from the mix without the instrument, and put its power back instead.

    Returns
    -------
    float (n, fractions), logits
    """
    check_heats(heats, these.owned)
    power = 10 ** (these.mels / 10)
    curves = np.empty((len(heats), len(fractions)))
    for n, (clip, index) in enumerate(zip(these.clips, these.classes, strict=True)):
        sounds = these.mels[clip] > FLOOR_DB
        order = np.argsort(-np.where(sounds, heats[n], -np.inf), axis=None, kind="stable")
        changed = np.empty((len(fractions), N_MELS, N_FRAMES), np.float32)
        for k, fraction in enumerate(fractions):
            touched = np.zeros(sounds.size, bool)
            touched[order[: round(fraction * sounds.sum())]] = True
            out = touched.reshape(sounds.shape) != insert
            kept = power[clip] * (1 - these.shares[n] * out)
            changed[k] = np.maximum(10 * np.log10(np.maximum(kept, 10 ** (FLOOR_DB / 10))), FLOOR_DB)
        curves[n] = logits(model, changed)[:, index]
    return curves


def area(curves: np.ndarray, fractions: Sequence[float] = FRACTIONS) -> np.ndarray:
    """Mean of each curve over the fractions, by trapezoids, on a scale on which its own ends are 1 and 0: (n,).

    For deletion the start is 1 and the end 0, for insertion the other way round; NaN where they are the same.
    """
    low, high = np.minimum(curves[:, 0], curves[:, -1]), np.maximum(curves[:, 0], curves[:, -1])
    return np.trapezoid(_divide(curves - low[:, None], (high - low)[:, None]), fractions, axis=1)


def score_heats(heats: np.ndarray, these: Pairs) -> dict[str, np.ndarray]:
    """All scores that need no network, one array (n,) each, by name."""
    owned = these.owned
    return {
        "mass": mass_accuracy(heats, owned),
        "rank": rank_accuracy(heats, owned),
        "pointing": pointing_game(heats, owned),
        "precision": average_precision(heats, owned),
        "own over others": own_over_others(heats, owned, these.others),
        "sparseness": sparseness(heats),
        "complexity": complexity(heats),
    }


def grade(
    method: Callable[[torch.nn.Module, np.ndarray, np.ndarray], np.ndarray],
    model: torch.nn.Module | str = "compact",
    n_clips: int = 200,
    seed: int = 0,
    these: Pairs | None = None,
    batch_size: int = 12,
    curves: bool = True,
    progress: bool = True,
) -> dict[str, Interval]:
    """How true a method's explanations are: one row of the table of chapter 7.

    ``il.truth.grade(il.relevance)`` grades Concept Relevance Propagation.

    Parameters
    ----------
    method : function of (model, mels (n, 128, 431), classes (n,)) that returns heatmaps (n, 128, 431)
    model : network, or the name of a published one
    n_clips : int
        Of the test stream, with two instruments or more: about three pairs of clip and instrument each.
    seed : int, of the stream
    these : Pairs, optional
        Rendered before by :func:`pairs`, to grade several methods on the same ones.
    batch_size : int, pairs that the method is given at a time
    curves : bool, whether to draw deletion and insertion curves too

    Returns
    -------
    dict of Interval
        Mean of each score with a 95 % bootstrap interval over clips, and ``"undefined"``, for each score the number of
        pairs for which it is not defined (they are left out of its mean).

    Raises
    ------
    InputError
        If the method returns another shape, or NaN, or a heatmap of nothing but zeros for every pair.
    """
    model = load_model(model) if isinstance(model, str) else model
    these = pairs(n_clips, seed, progress=progress) if these is None else these
    scores = raw_scores(method, model, these, batch_size, curves, progress)
    row = {name: bootstrap(values, these.clips) for name, values in scores.items()}
    return row | {"undefined": {name: int(np.isnan(values).sum()) for name, values in scores.items()}}


def raw_scores(
    method: Callable,
    model: torch.nn.Module,
    these: Pairs,
    batch_size: int = 12,
    curves: bool = True,
    progress: bool = True,
) -> dict[str, np.ndarray]:
    """Every score of every pair, (n,) each: what :func:`grade` takes the mean of."""
    found = heatmaps(method, model, these.mels[these.clips], these.classes, batch_size, progress)
    scores = score_heats(found, these)
    for name, insert in (("deletion", False), ("insertion", True)) if curves else ():
        scores[name] = area(removal_curves(model, these, found, insert=insert))
    return scores


def heatmaps(
    method: Callable,
    model: torch.nn.Module,
    mels: np.ndarray,
    classes: np.ndarray,
    batch_size: int = 12,
    progress: bool = False,
) -> np.ndarray:
    """What a method makes of spectrograms (n, 128, 431) and classes (n,), some at a time: float32 (n, 128, 431).

    Raises
    ------
    InputError
        If the method returns another shape, or NaN, or nothing but zeros.
    """
    heats = np.empty((len(classes), N_MELS, N_FRAMES), np.float32)
    for start in tqdm(range(0, len(heats), batch_size), "heatmaps", unit_scale=batch_size, disable=not progress):
        part = slice(start, start + batch_size)
        found = np.asarray(method(model, mels[part], classes[part]))
        if found.shape != heats[part].shape:
            raise InputError(f"the method returned heatmaps of shape {found.shape}, not {heats[part].shape}")
        heats[part] = found
    if len(bad := np.flatnonzero(~np.isfinite(heats).all((1, 2)))):
        raise InputError(f"the method's heatmap {bad[0]} contains NaN or infinity")
    if len(heats) and not heats.any():
        raise InputError("the method returned nothing but zeros")
    return heats


def randomise(model: torch.nn.Module, layers: int, seed: int = 0) -> torch.nn.Module:
    """A copy of a network whose last layers with weights have new random ones (Adebayo et al. 2018, arXiv:1810.03292).

    Parameters
    ----------
    layers : int
        How many, from the top: the linear layer first, then the convolutions, each with its batch normalisation.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        found, fresh = copy.deepcopy(model), type(model)()
    tops = [name for name, layer in model.layers.named_children() if isinstance(layer, (nn.Conv2d, nn.Linear))][::-1]
    if not 0 <= layers <= len(tops):
        raise InputError(
            f"this network has {len(tops)} layers with weights, so layers must be 0 to {len(tops)}, not {layers}"
        )
    for name in tops[:layers]:
        for part in (name, name.replace("conv", "bn")):
            getattr(found.layers, part).load_state_dict(getattr(fresh.layers, part).state_dict())
    return found.eval()


def alike(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation between the cells of two heatmaps, (n,); NaN where one is the same everywhere."""
    found = np.full(len(one), np.nan)
    for n, pair in enumerate(zip(one, other, strict=True)):
        ranks = [rankdata(heat) for heat in pair]
        if all(np.ptp(rank) for rank in ranks):
            found[n] = np.corrcoef(*ranks)[0, 1]
    return found


def si_sdr(estimate: np.ndarray, reference: np.ndarray) -> float:
    """Scale-invariant signal-to-distortion ratio in dB (Le Roux et al. 2019, doi:10.1109/ICASSP.2019.8683855).

    .. math:: 10 \\log_{10} \\frac{|a s|^2}{|a s - e|^2}, \\quad a = \\frac{e \\cdot s}{|s|^2}

    for an estimate e of the sound s. From minus to plus infinity; loudness does not count. NaN if either is silent.

    Parameters
    ----------
    estimate, reference : float (samples,)

    Raises
    ------
    AudioError
        If the shapes differ.
    """
    estimate, reference = np.asarray(estimate, float), np.asarray(reference, float)
    if estimate.shape != reference.shape or estimate.ndim != 1:
        raise AudioError(f"estimate {estimate.shape} and reference {reference.shape} must be two sounds of one length")
    if not estimate.any() or not reference.any():
        return float("nan")
    target = estimate @ reference / (reference @ reference) * reference
    error = target - estimate
    with np.errstate(divide="ignore"):
        return float(10 * np.log10((target @ target) / (error @ error)))
