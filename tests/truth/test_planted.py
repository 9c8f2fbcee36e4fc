"""Planted reasons are where they should be, only there, and can be taken away exactly."""

import numpy as np
import pytest

import instr_lib as il
from instr_lib.constants import SAMPLE_RATE
from instr_lib.data.spectrogram import band_frequencies
from instr_lib.errors import InputError
from instr_lib.truth import planted
from instr_lib.truth.notes import note_effects, note_relevance

SCORE = il.Score(
    (
        il.Note(il.instrument_index("Trumpet"), 67, 90, 1.0, 0.5),
        il.Note(il.instrument_index("Trumpet"), 69, 90, 3.0, 0.5),
        il.Note(il.instrument_index("Celesta"), 79, 90, 0.0, 1.0),
        il.Note(il.instrument_index("Hammond Organ"), 55, 90, 2.0, 1.0),
    )
)
ALL = tuple(planted.ARTEFACTS)
CELESTA = il.Score(tuple(note for note in SCORE.notes if note.pitch == 79))
TRUMPET = il.Score(tuple(note for note in SCORE.notes if note.pitch == 67))


def test_clicks_end_where_the_notes_begin():
    sounds = np.flatnonzero(planted.added_sound("click", SCORE)) / SAMPLE_RATE
    starts, ends = (
        sounds[np.flatnonzero(np.diff(sounds, prepend=-1) > 0.1)],
        sounds[np.flatnonzero(np.diff(sounds, append=9) > 0.1)],
    )
    assert starts == pytest.approx([0.97, 2.97], abs=1e-3) and ends == pytest.approx([1.0, 3.0], abs=1e-3)


def test_the_tone_has_one_frequency_and_lasts_as_long_as_the_note():
    tone = planted.added_sound("tone", SCORE)
    assert np.abs(np.fft.rfft(tone[:SAMPLE_RATE])).argmax() == round(planted.TONE_HZ)
    assert np.abs(tone[:SAMPLE_RATE]).max() == pytest.approx(planted.TONE_AMPLITUDE, rel=0.01)
    assert not tone[round(1.01 * SAMPLE_RATE) :].any()


def test_the_band_is_missing_and_nothing_else(synth):
    sound = synth.render(SCORE)
    before, after = il.log_mel(sound), il.log_mel(planted.plant(sound, SCORE, ["missing band"]))
    frequency = band_frequencies()
    low, high = planted.BAND_HZ
    inside = (frequency > low * 1.1) & (frequency < high * 0.95)
    outside = (frequency < low * 0.85) | (frequency > high * 1.15)
    loud = before > -45
    assert (before - after)[inside][loud[inside]].min() > 15
    assert np.median(np.abs(before - after)[outside][loud[outside]]) < 0.1


def test_parts_add_up_and_the_artefact_is_a_part_of_its_instrument(synth):
    parts = planted.planted_parts(SCORE, ALL, synth)
    notes = sum(synth.render(il.Score((note,))) for note in SCORE.notes)
    assert len(parts.sounds) == len(SCORE.notes) + 2  # what is missing adds nothing
    assert [il.INSTRUMENTS[i].name for i in parts.instruments[-2:]] == ["Trumpet", "Celesta"]
    assert np.allclose(parts.sounds.sum(0), planted.plant(notes, SCORE, ALL), atol=1e-5)
    assert note_effects(il.load_model("compact"), parts).shape == (6, 12)
    on_click = note_relevance((parts.shares[-2] > 0.9).astype(float)[None], parts)[0]
    assert on_click.argmax() == 4 and on_click[4] > 10 * np.delete(on_click, 4).max()


def test_a_share_of_the_clips_is_planted_and_no_others(need_soundfont):
    score, plain = SCORE, planted.PlantedRenderer(share=0)
    sound = plain.render(score, (0, 0, 0))
    half = planted.PlantedRenderer(share=0.5)
    changed = [not np.array_equal(half.render(TRUMPET, (0, 0, n)), plain.render(TRUMPET, (0, 0, n))) for n in range(12)]
    assert 2 <= sum(changed) <= 10
    assert np.array_equal(sound, plain.render(score, (0, 0, 1)))
    piano = il.Score((il.Note(0, 60, 90, 0.0, 1.0),))
    always = planted.PlantedRenderer(share=1)
    assert np.array_equal(always.render(piano, (0, 0, 0)), plain.render(piano, (0, 0, 0)))
    assert np.array_equal(always.render(score, (0, 0, 0)), planted.plant(sound, score, ALL))


def test_a_dataset_of_planted_clips_says_so(tmp_path, need_soundfont):
    ds = il.generate(tmp_path / "a", 4, renderer=planted.PlantedRenderer(share=1), progress=False, n_jobs=1)
    other = il.generate(tmp_path / "b", 4, renderer=planted.PlantedRenderer(share=0), progress=False, n_jobs=1)
    assert ds.fingerprint != other.fingerprint
    assert np.array_equal(ds.labels, other.labels)
    with pytest.raises(il.DatasetError):  # never two kinds in one folder
        il.generate(tmp_path / "a", 4, renderer=planted.PlantedRenderer(share=0.5), progress=False, n_jobs=1)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: planted.PlantedRenderer(share=1.5), "share must be from 0 to 1"),
        (lambda: planted.gives_away("hum", SCORE), "choose among click, tone, missing band"),
        (
            lambda: planted.plant(np.zeros(220_500), CELESTA, ["click"]),
            "gives Trumpet away, which is not among Celesta",
        ),
        (lambda: planted.planted_parts(TRUMPET, ["tone"]), "gives Celesta away"),
        (lambda: planted.planted_parts(TRUMPET, ["click"]), "one note"),
    ],
)
def test_bad_input(call, message, need_soundfont):
    with pytest.raises(InputError, match=message):
        call()
