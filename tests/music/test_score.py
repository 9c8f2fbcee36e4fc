"""Scores: what is drawn, and the way through a MIDI file and back."""

import io
import itertools
from collections import Counter

import mido
import numpy as np
import pytest
from scipy import stats

import instr_lib as il
from instr_lib.music.score import Note, Score

SURE = 1e-4  # the draws are seeded, so these tests pass or fail once and for all


@pytest.fixture(scope="module")
def scores() -> list[Score]:
    return [il.random_score(np.random.default_rng([7, 0, i])) for i in range(3000)]


def through_midi(score: Score) -> Score:
    file = io.BytesIO()
    score.to_midi().save(file=file)
    file.seek(0)
    return Score.from_midi(file)


def uniform(counts: Counter, values) -> bool:
    """Whether each of the values, and nothing else, came up, and equally often by a chi-square test."""
    return set(counts) == set(values) and stats.chisquare([counts[v] for v in values]).pvalue > SURE


def test_one_to_four_instruments_are_equally_likely(scores):
    assert uniform(Counter(len(s.instruments) for s in scores), range(1, 5))


def test_the_twelve_instruments_are_equally_likely(scores):
    assert uniform(Counter(i for s in scores for i in s.instruments), range(12))


def test_pitches_and_velocities_are_uniform_in_the_reports_ranges(scores):
    notes = [note for s in scores for note in s.notes]
    assert uniform(Counter(n.pitch for n in notes), range(60, 73))
    assert uniform(Counter(n.velocity for n in notes), range(50, 101))


def test_each_instrument_plays_one_note_after_the_other(scores):
    """1 to 5 notes, gaps of 0-1 s, lengths of 0.3-2 s, all within 5 s and on the MIDI clock."""
    tick = 1 / 960
    for score in scores:
        assert score.notes == tuple(sorted(score.notes, key=lambda n: n.onset))
        for instrument in score.instruments:
            notes = [n for n in score.notes if n.instrument == instrument]
            assert 1 <= len(notes) <= 5
            assert notes[0].onset <= 1.5  # lead-in of at most 0.5 s, then at most one gap
            assert all(-tick <= b.onset - a.end <= 1 + tick for a, b in itertools.pairwise(notes))
            assert all(0.3 - tick <= n.duration <= 2 + tick for n in notes)
            assert all(n.onset >= 0 and n.end <= 5 + 1e-9 for n in notes)
            assert all(abs(n.onset * 960 - round(n.onset * 960)) < 1e-9 for n in notes)


def test_first_onset_says_nothing_about_the_number_of_instruments(scores):
    first = {k: [s.notes[0].onset for s in scores if len(s.instruments) == k] for k in (1, 2, 3, 4)}
    for onsets in first.values():
        assert stats.kstest(onsets, stats.uniform(0, 0.5).cdf).pvalue > SURE


def test_who_opens_the_clip_is_drawn_by_lot(scores):
    """Else the first onset would belong to the lowest index of the instruments."""
    pairs = [s for s in scores if len(s.instruments) == 2]
    low = sum(s.notes[0].instrument == s.instruments[0] for s in pairs)
    assert stats.binomtest(low, len(pairs)).pvalue > SURE


def test_same_generator_state_same_score():
    np.random.seed(1)
    first = il.random_score(np.random.default_rng([3, 1, 4]))
    np.random.seed(2)  # the global state must not matter
    assert il.random_score(np.random.default_rng([3, 1, 4])) == first
    assert il.random_score(np.random.default_rng([3, 1, 5])) != first


@pytest.mark.parametrize("n", [1, 4, 12])
def test_number_of_instruments_as_given(n):
    assert len(il.random_score(np.random.default_rng(0), n).instruments) == n


def test_instruments_as_given():
    score = il.random_score(np.random.default_rng(0), instruments=["violin", 0, "Violin"])
    assert score.instruments == (0, 9)


def test_score_to_midi_to_score_is_the_identity(scores):
    for score in scores[:400]:
        assert through_midi(score) == score


def test_all_twelve_at_once_survive_midi_without_the_percussion_channel():
    score = il.random_score(np.random.default_rng(0), 12)
    assert through_midi(score) == score
    channels = {m.channel for m in score.to_midi() if m.type == "note_on"}
    assert len(channels) == 12
    assert 9 not in channels


def test_midi_lasts_exactly_one_clip(scores, tmp_path):
    for score in scores[:50]:
        score.to_midi().save(tmp_path / "clip.mid")
        assert mido.MidiFile(tmp_path / "clip.mid").length == pytest.approx(5, abs=1e-9)


def test_midi_says_what_the_score_says():
    midi = Score((Note(9, 60, 90, 0.5, 1.0),)).to_midi()
    program, on, off = (m for m in midi.tracks[1] if not m.is_meta)
    assert (program.type, program.program) == ("program_change", 40)  # the violin
    assert (on.type, on.note, on.velocity, on.time) == ("note_on", 60, 90, 480)  # ticks at 960 a second
    assert (off.type, off.note, off.time) == ("note_off", 60, 960)


def test_midi_is_read_from_path_open_file_and_object(tmp_path):
    score = il.random_score(np.random.default_rng(0))
    score.to_midi().save(tmp_path / "clip.mid")
    assert Score.from_midi(tmp_path / "clip.mid") == score
    assert Score.from_midi(str(tmp_path / "clip.mid")) == score
    with open(tmp_path / "clip.mid", "rb") as file:
        assert Score.from_midi(file) == score
    assert Score.from_midi(score.to_midi()) == score


def test_a_pitch_repeated_at_once_stays_two_notes():
    score = Score((Note(0, 60, 90, 0.5, 0.5), Note(0, 60, 70, 1.0, 0.5)))
    assert through_midi(score) == score
    # For other players the first must end before the second starts, or they would end the second at once.
    assert [m.type for m in score.to_midi().tracks[1] if "note" in m.type] == ["note_on", "note_off"] * 2


def test_foreign_midi_is_understood():
    """One track, another clock, a tempo change, note-offs written as note-ons, controllers, no first program."""
    track = mido.MidiTrack(
        [
            mido.MetaMessage("set_tempo", tempo=1_000_000, time=0),  # 60 beats a minute
            mido.Message("control_change", channel=0, control=7, value=100, time=0),
            mido.Message("note_on", channel=0, note=60, velocity=80, time=96),  # at 1 s
            mido.MetaMessage("set_tempo", tempo=500_000, time=0),  # 120 beats a minute
            mido.Message("note_on", channel=0, note=60, velocity=0, time=96),  # ends at 1.5 s
            mido.Message("program_change", channel=0, program=40, time=0),
            mido.Message("note_on", channel=0, note=72, velocity=50, time=0),
            mido.Message("note_off", channel=0, note=72, time=192),  # ends at 2.5 s
        ]
    )
    score = Score.from_midi(mido.MidiFile(type=0, ticks_per_beat=96, tracks=[track]))
    assert score.notes == (Note(0, 60, 80, 1.0, 0.5), Note(9, 72, 50, 1.5, 1.0))


def test_only_keeps_the_named_instruments():
    score = il.random_score(np.random.default_rng(0), instruments=[0, 6, 9])
    assert score.only("Trumpet", 9).notes == tuple(n for n in score.notes if n.instrument in (6, 9))


def test_a_score_is_a_value():
    """Equal notes in any order make equal scores, usable as keys and not to be changed."""
    a, b = Note(0, 60, 90, 0.5, 0.5), Note(0, 64, 90, 1.0, 0.5)
    assert len({Score((a, b)), Score((b, a)), Score([b, a])}) == 1
    with pytest.raises(AttributeError):
        Score((a,)).notes = ()
