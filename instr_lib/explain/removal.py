"""Explain by taking estimated notes out of the mix and asking the network again.

Most attribution methods look at the network and never at the music. This one first separates the mix into notes, without
knowing its stems: by supervised non-negative matrix factorisation (Smaragdis, Raj & Shashanka 2007,
doi:10.1007/978-3-540-74494-8_52; Kullback-Leibler updates of Lee & Seung 2001) with a dictionary of what the twelve
instruments sound like. Each estimated note is then removed from the spectrogram, and the fall of the logit is
distributed over the note's cells, in proportion to Concept Relevance Propagation. So the size of the relevance comes
from an experiment, and its place from the network. audioLIME (Haunschmid, Manilow & Widmer 2020, arXiv:2009.02051)
removes separated stems, too, and fits a linear model to the answers.

It needs the dictionary: its notes are played by the soundfont that the clips are played by, within the pitches of
:mod:`instr_lib.music.score`. Chapter 7 grades it, also on clips of another soundfont.
"""

from __future__ import annotations

import functools
import itertools

import numpy as np
import torch
from scipy import ndimage

from ..constants import FLOOR_DB, HOP, REFERENCE, SAMPLE_RATE
from ..data.spectrogram import check_mels, log_mel, to_db
from ..music.instruments import INSTRUMENTS
from ..music.score import PITCHES, Note, Score
from ..music.synth import cached_synth
from ..networks.evaluation import THRESHOLD, logits, predict
from .attribution import relevance

# Chosen on 24 clips of the training stream, seed 1.
EXPONENT = 0.5  # of power, in which the mix is approximated: loud cells do not outweigh all others
ITERATIONS = 120
LEAST_SHARE = (0.0, 0.01, 0.01)  # of the mix's power that a note of the dictionary needs to stay, in three rounds
LEAST_PART = 1e-3  # of the mix's power that an estimated note needs to be removed on its own
ONSET_DB = 9.0  # rise of a note's level within ONSET_FRAMES that begins a new note
ONSET_FRAMES = 4
NOTE_FRAMES = 9  # least distance of two onsets, a tenth of a second
BY_LEVEL = 0.1  # part of a note's relevance that is distributed by level instead of by CRP
_PHASES = ((0, 6), (6, 40), (40, 100), (104, 140))  # frames since a note's onset: attack, sustain early and late, release
_ONSET, _SECONDS, _VELOCITY = 0.5, 1.2, 75  # of a note in the dictionary


@functools.cache
def note_dictionary() -> tuple[np.ndarray, np.ndarray]:
    """Spectra of single notes, float (n, 128) with sum 1, and the instrument and pitch of each, int (n, 2)."""
    synth, spectra, keys = cached_synth(), [], []
    start = int(_ONSET * SAMPLE_RATE / HOP)
    for instrument in range(len(INSTRUMENTS)):
        for pitch in range(PITCHES[0], PITCHES[1] + 1):
            power = _power(log_mel(synth.render(Score((Note(instrument, pitch, _VELOCITY, _ONSET, _SECONDS),)))))
            for first, last in _PHASES:
                spectrum = power[:, start + first : start + last].mean(1)
                if spectrum.any():
                    spectra.append(spectrum / spectrum.sum())
                    keys.append((instrument, pitch))
    return np.array(spectra), np.array(keys)


def separate_notes(mel: np.ndarray, instruments: tuple[int, ...]) -> np.ndarray:
    """Masks of the notes that a mix of these instruments seems to consist of.

    Parameters
    ----------
    mel : float32 (128, 431), dB
    instruments : indices of those that may play

    Returns
    -------
    float32 (k, 128, 431)
        Each note's share of the power of each cell; they add up to at most 1.
    """
    spectra, keys = note_dictionary()
    chosen = np.isin(keys[:, 0], instruments)
    spectra, keys = spectra[chosen] ** EXPONENT, keys[chosen]
    spectra /= spectra.sum(1, keepdims=True)
    power = _power(mel)
    for least in LEAST_SHARE:
        strong = [note for note in _notes(spectra, keys, power) if note[1] >= least * power.sum()]
        chosen = np.isin(keys @ (1000, 1), [key for key, _, _ in strong])
        spectra, keys = spectra[chosen], keys[chosen]
    amplitudes = np.array([amplitude for _, _, amplitude in strong]).reshape(-1, *mel.shape) ** (1 / EXPONENT)
    shares = amplitudes / np.maximum(amplitudes.sum(0), 1e-30) * (power > 0)
    pieces = [piece for share in shares for piece in _split_at_onsets(share, power)]
    return np.array(pieces, np.float32).reshape(-1, *mel.shape)


def _notes(spectra: np.ndarray, keys: np.ndarray, power: np.ndarray) -> list[tuple[int, float, np.ndarray]]:
    """Each note of a dictionary: its number, the power of the mix that it explains, its part of the approximation."""
    target = power**EXPONENT
    gains = np.full((len(spectra), power.shape[1]), target.mean())
    for _ in range(ITERATIONS):
        gains *= spectra @ (target / (spectra.T @ gains + 1e-9))  # the spectra have sum 1
    total, numbers, notes = spectra.T @ gains + 1e-12, keys @ (1000, 1), []
    for number in np.unique(numbers):
        part = spectra[numbers == number].T @ gains[numbers == number]
        notes.append((number, float((part / total * power).sum()), part))
    return notes


def _split_at_onsets(share: np.ndarray, power: np.ndarray) -> list[np.ndarray]:
    """The masks (128, 431) of the single notes of one instrument and pitch; those with hardly any power are left out."""
    level = ndimage.gaussian_filter1d((share * power).sum(0), 1.0)
    db = 10 * np.log10(np.maximum(level, level.max() * 1e-4 + 1e-30))
    rises = np.zeros(len(db), bool)
    rises[ONSET_FRAMES:] = db[ONSET_FRAMES:] - db[:-ONSET_FRAMES] > ONSET_DB
    onsets: list[int] = []
    for frame in np.flatnonzero(rises[1:] & ~rises[:-1]) + 1 - ONSET_FRAMES // 2:
        if not onsets or frame - onsets[-1] >= NOTE_FRAMES:
            onsets.append(int(frame))
    limits = sorted({0, *(max(0, frame) for frame in onsets), len(db)})
    pieces = []
    for first, last in itertools.pairwise(limits):
        piece = np.zeros_like(share)
        piece[:, first:last] = share[:, first:last]
        if (piece * power).sum() > LEAST_PART * power.sum():
            pieces.append(piece)
    return pieces


def note_removal(model: torch.nn.Module, mels: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Relevance by taking estimated notes away: a method as in :mod:`instr_lib.explain.methods`, (n, 128, 431).

    For each spectrogram the notes are estimated among the instruments that the network detects and the one that is asked
    about. The relevance of a note is how far the logit falls without it, distributed over its cells.
    """
    mels = check_mels(mels)
    heatmaps, removed = np.zeros(mels.shape, np.float32), {}
    places = relevance(model, mels, classes, "epsilon_plus_alpha2_beta1").clip(min=0)
    for row, (mel, index, detected) in enumerate(zip(mels, classes, predict(model, mels) > THRESHOLD, strict=True)):
        instruments = tuple(sorted({*np.flatnonzero(detected).tolist(), int(index)}))
        key = mel.tobytes(), instruments
        if key not in removed:
            masks = separate_notes(mel, instruments)
            removed[key] = masks, _effects(model, mel, masks)
        masks, effects = removed[key]
        place = (1 - BY_LEVEL) * _normalised(places[row]) + BY_LEVEL * _normalised(mel - FLOOR_DB)
        weights = masks * place
        totals = weights.sum((1, 2))
        heatmaps[row] = np.tensordot(effects[:, index] / np.maximum(totals, 1e-12), weights, 1)
    return heatmaps


def _effects(model: torch.nn.Module, mel: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """How far each logit falls without the power in each mask, (k, 12)."""
    without = _power(mel) * (1 - masks).clip(min=0)
    return logits(model, mel[None]) - logits(model, to_db(without * REFERENCE).reshape(-1, *mel.shape))


def _power(mel: np.ndarray) -> np.ndarray:
    return np.where(mel > FLOOR_DB, 10 ** (mel / 10), 0)


def _normalised(heatmap: np.ndarray) -> np.ndarray:
    return heatmap / max(float(heatmap.sum()), 1e-12)
