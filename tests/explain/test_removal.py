"""Relevance by taking estimated notes away: the estimate finds notes, and relevance is the fall of the logit."""

import numpy as np
import pytest

import instr_lib as il
from instr_lib.explain import removal
from instr_lib.music.score import Note, Score
from instr_lib.networks.evaluation import logits
from instr_lib.truth import agreement, notes

SCORE = Score((Note(9, 62, 80, 0.4, 1.0), Note(9, 67, 70, 2.4, 1.2), Note(0, 65, 90, 1.0, 1.0), Note(0, 70, 60, 3.0, 1.0)))


@pytest.fixture(scope="module")
def parts(synth):
    return notes.note_parts(SCORE, synth)


def test_the_dictionary_has_spectra_of_every_instrument_and_pitch(need_soundfont):
    spectra, keys = removal.note_dictionary()
    assert spectra.shape == (len(keys), 128) and np.allclose(spectra.sum(1), 1) and (spectra >= 0).all()
    assert {tuple(key) for key in keys} == {(i, p) for i in range(12) for p in range(60, 73)}


def test_notes_of_a_mix_are_found_without_its_stems(parts):
    masks = removal.separate_notes(parts.mel, (0, 9))
    assert (masks >= 0).all() and masks.sum(0).max() < 1 + 1e-5
    assert 4 <= len(masks) <= 20
    for share in parts.shares:  # each note has a mask that is much like its true share
        overlap = [np.minimum(mask, share).sum() / np.maximum(mask, share).sum() for mask in masks]
        assert max(overlap) > 0.5


def test_relevance_adds_up_to_the_falls_of_the_logit(parts):
    model = il.load_model("compact")
    (heatmap,) = removal.note_removal(model, parts.mel[None], np.array([9]))
    masks = removal.separate_notes(parts.mel, (0, 9))
    expected = 0.0
    for mask in masks:
        power = np.where(parts.mel > -80, 10 ** (parts.mel / 10), 0) * (1 - mask)
        without = (10 * np.log10(np.maximum(power, 1e-8))).clip(-80, 0).astype(np.float32)
        expected += float(logits(model, parts.mel[None])[0, 9] - logits(model, without[None])[0, 9])
    assert heatmap.sum() == pytest.approx(expected, rel=1e-3)


def test_it_agrees_with_the_notes_better_than_crp(parts):
    model = il.load_model("compact")
    effects, mels = notes.note_effects(model, parts), np.repeat(parts.mel[None], 2, 0)
    by_removal = agreement.note_agreement(removal.note_removal(model, mels, np.array([0, 9])), [0, 9], parts, effects)
    by_crp = agreement.note_agreement(il.relevance(model, mels, [0, 9]), [0, 9], parts, effects)
    assert by_removal["note_correlation"].mean() >= by_crp["note_correlation"].mean()


def test_a_silent_clip_has_no_relevance(need_soundfont):
    silence = np.full((1, 128, 431), -80, np.float32)
    assert not removal.note_removal(il.load_model("compact"), silence, np.array([3])).any()
