"""Edits of the music, checked by measuring the sound, and the statistics of their outcomes, in closed form."""

import math

import numpy as np
import pytest
from scipy.stats import spearmanr

import instr_lib as il
from instr_lib import stats
from instr_lib.errors import InputError, ScoreError, SynthError
from instr_lib.stats import Interval
from instr_lib.truth import edits, experiments, localisation, stems

RATE = 44_100


def one_note(synth, name: str, pitch: int = 69, duration: float = 1.5, onset: float = 0.5) -> stems.Clip:
    index = il.instrument_index(name)
    return stems.Clip(il.Score((il.Note(index, pitch, 90, onset, duration),)), index, synth)


def tune(synth, name: str) -> stems.Clip:
    """Three notes, alone."""
    index = il.instrument_index(name)
    notes = ((60, 0.2, 0.9), (67, 1.5, 0.8), (64, 2.8, 1.2))
    return stems.Clip(il.Score(tuple(il.Note(index, p, 90, t, d) for p, t, d in notes)), index, synth)


def harmonic_power(stem: np.ndarray, pitch: int, start: float, stop: float, numbers=range(1, 20)) -> np.ndarray:
    """Power within 3 % of each harmonic, by one long Fourier transform."""
    part = stem[round(start * RATE) : round(stop * RATE)]
    power = np.abs(np.fft.rfft(part * np.hanning(len(part)))) ** 2
    hertz = np.fft.rfftfreq(len(part), 1 / RATE)
    first = 440 * 2 ** ((pitch - 69) / 12)
    return np.array([power[abs(hertz - n * first) < 0.03 * first].sum() for n in numbers])


def rise(stem: np.ndarray, onset: float) -> float:
    """Seconds until the sound has half its largest loudness."""
    loud = np.convolve(stem**2, np.ones(441) / 441, "same")
    return (np.flatnonzero(loud > loud.max() / 4)[0] / RATE) - onset


# How the synthesiser plays.


def test_playing_as_it_is_changes_no_sample(synth):
    score = il.clip_score(3)
    as_it_is = synth.render_stems(score)
    assert np.array_equal(as_it_is, synth.render_stems(score, {score.instruments[0]: il.SynthOverrides()}))
    assert np.array_equal(as_it_is, synth.render_stems(score, {}))


def test_only_the_named_instrument_is_played_otherwise(synth):
    score = next(s for s in map(il.clip_score, range(50)) if len(s.instruments) == 3)
    before = synth.render_stems(score)
    name = il.INSTRUMENTS[score.instruments[1]].name
    after = synth.render_stems(score, {name: il.SynthOverrides({"attackVolEnv": 8000})})
    assert [np.array_equal(a, b) for a, b in zip(before, after, strict=True)] == [True, False, True]


def test_attack_and_release_are_as_long_as_asked(synth):
    lead = one_note(synth, "Square Wave Lead")
    slow = edits.with_overrides(lead, il.SynthOverrides({"attackVolEnv": 10_200}))
    assert rise(lead.stem, 0.5) < 0.02 and 0.1 < rise(slow, 0.5) < 1
    pad = one_note(synth, "New Age Pad")
    after = slice(round(2.2 * RATE), round(2.6 * RATE))  # the note ends at 2 s
    short = edits.with_overrides(pad, il.SynthOverrides({"releaseVolEnv": -12_000}))
    assert (short[after] ** 2).sum() < 1e-3 * (pad.stem[after] ** 2).sum()


def test_the_filter_takes_high_harmonics_away(synth):
    lead = one_note(synth, "Square Wave Lead")
    dull = edits.with_overrides(lead, il.SynthOverrides({"initialFilterFc": -6000}))
    before, after = (harmonic_power(s, 69, 0.8, 1.8) for s in (lead.stem, dull))
    assert after[10:].sum() / after.sum() < 0.1 * before[10:].sum() / before.sum()


def test_a_bend_moves_the_pitch_by_as_much_as_it_says(synth):
    bass = one_note(synth, "Acoustic Bass")
    up = edits.with_overrides(bass, il.SynthOverrides(pitch_bend=lambda t: np.where(t > 0.5, 1.0, 0.0)))
    cents = edits.pitch(up, bass.notes[0])
    at = lambda seconds: cents[round((0.5 + seconds) * RATE)]  # noqa: E731
    assert abs(at(0.3)) < 5 and at(1.2) == pytest.approx(100, abs=5)
    assert edits.pitch(bass.stem, bass.notes[0])[round(1.7 * RATE)] == pytest.approx(0, abs=5)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: il.SynthOverrides({"attack": 1}), "not a known generator: use one of"),
        (lambda: il.SynthOverrides(controllers={128: 1}), "whole numbers from 0 to 127"),
        (lambda: il.SynthOverrides(controllers={1: 200}), "whole numbers from 0 to 127"),
    ],
)
def test_playing_that_does_not_exist_is_refused(make, message):
    with pytest.raises(SynthError, match=message):
        make()


def test_a_bend_of_nan_is_refused(synth):
    with pytest.raises(SynthError, match="NaN"):
        edits.with_overrides(one_note(synth, "Violin"), il.SynthOverrides(pitch_bend=lambda t: t * np.nan))


# Edits of the sound.


def test_silenced_is_silent_there_and_untouched_elsewhere(synth):
    bass = tune(synth, "Acoustic Bass")
    edited = edits.gate(bass, 0.1, 0.2, slice(1, 2))
    hole = slice(round(1.6 * RATE), round(1.8 * RATE))
    assert not edited[hole].any() and bass.stem[hole].any()
    edge = round(0.006 * RATE)
    assert np.array_equal(edited[: hole.start - edge], bass.stem[: hole.start - edge])
    assert np.array_equal(edited[hole.stop + edge :], bass.stem[hole.stop + edge :])
    assert not edits.gate(bass, 0, 5.0)[round(0.2 * RATE) :].any()


def test_quieter_is_at_the_level(synth):
    clip = next(stems.clips("Trumpet", 1, n_instruments=[3], synth=synth))
    for level in (0, -30):
        stem = edits.set_level(clip, level).astype(float)
        assert 10 * math.log10((stem**2).sum() / (clip.rest.astype(float) ** 2).sum()) == pytest.approx(level, abs=0.01)
    with pytest.raises(InputError, match="plays alone"):
        edits.set_level(one_note(synth, "Trumpet"), 0)


def test_attacks_come_from_the_other(synth):
    trumpet = tune(synth, "Trumpet")
    edited, sax = edits.swap_attack(trumpet, "Soprano Sax"), trumpet.resynthesise("Soprano Sax")
    for onset in (0.2, 1.5, 2.8):
        start, change, stop = (round((onset + t) * RATE) for t in (0.01, 0.09, 0.12))
        assert np.allclose(edited[start:change], sax[start:change], atol=1e-6)
        assert np.allclose(edited[stop : stop + 5000], trumpet.stem[stop : stop + 5000], atol=1e-6)


def test_harmonics_that_are_taken_away_are_gone_and_others_stay(synth):
    lead = one_note(synth, "Square Wave Lead")
    before = harmonic_power(lead.stem, 69, 0.8, 1.8)
    after = harmonic_power(edits.remove_harmonics(lead, 3, 5), 69, 0.8, 1.8)
    gone = np.arange(1, 20)
    gone = (gone >= 3) & (gone <= 5)
    assert (after[gone] < 1e-4 * before[gone]).all()
    assert np.allclose(after[~gone], before[~gone], rtol=0.02)


def test_band_that_is_taken_away_is_gone_and_the_rest_stays(synth):
    lead = one_note(synth, "Square Wave Lead")
    low, high = edits.band_stop(lead, 2000), edits.band_stop(lead, 0, 2000)
    assert np.allclose(low + high, lead.stem, atol=1e-4)
    assert harmonic_power(low, 69, 0.8, 1.8)[6:].sum() < 1e-4 * harmonic_power(lead.stem, 69, 0.8, 1.8)[6:].sum()


def test_spectrum_is_the_others_and_the_level_stays(synth):
    trumpet = tune(synth, "Trumpet")
    edited, sax = edits.swap_spectrum(trumpet, "Soprano Sax"), trumpet.resynthesise("Soprano Sax")
    profile = lambda stem: 10 * np.log10(harmonic_power(stem, 60, 0.35, 1.0) + 1e-9)  # noqa: E731
    shape = lambda stem: profile(stem) - profile(stem).mean()  # noqa: E731
    before, after = (np.abs(shape(s) - shape(sax)).mean() for s in (trumpet.stem, edited))
    assert after < 0.4 * before
    assert (edited**2).sum() == pytest.approx((trumpet.stem**2).sum(), rel=1e-3)


def test_envelope_is_the_others_and_the_spectrum_stays(synth):
    sax = tune(synth, "Soprano Sax")
    edited, celesta = edits.swap_envelope(sax, "Celesta"), sax.resynthesise("Celesta")
    smooth = lambda stem: np.sqrt(np.convolve(stem**2, np.ones(2205) / 2205, "same"))[::441]  # noqa: E731
    like = lambda stem: np.corrcoef(smooth(stem), smooth(celesta))[0, 1]  # noqa: E731
    assert like(edited) > 0.98 > like(sax.stem) + 0.1
    before, after = (harmonic_power(s, 60, 0.4, 0.6, range(1, 9)) for s in (sax.stem, edited))
    assert np.allclose(10 * np.log10(after / after[0]), 10 * np.log10(before / before[0]), atol=2)


def test_random_spectrum_is_the_same_every_time_and_as_loud(synth):
    piano = tune(synth, "Acoustic Grand Piano")
    one, again, other = (edits.randomise_spectrum(piano, seed=s) for s in (0, 0, 1))
    assert np.array_equal(one, again) and not np.allclose(one, other, atol=1e-3)
    assert (one**2).sum() == pytest.approx((piano.stem**2).sum(), rel=1e-3)
    assert np.allclose(edits.randomise_spectrum(piano, spread=0), piano.stem, atol=1e-5)


def test_steady_takes_the_vibrato_away_and_can_put_it_back(synth):
    violin = one_note(synth, "Violin", 67)
    moves = lambda stem: np.nanstd(edits.pitch(stem, violin.notes[0])[round(0.9 * RATE) : round(1.9 * RATE)])  # noqa: E731
    assert moves(violin.stem) > 8 and moves(edits.remove_vibrato(violin)) < 4
    restored = edits.remove_vibrato(violin, restore=True)
    assert moves(restored) == pytest.approx(moves(violin.stem), rel=0.1)
    assert ((restored - violin.stem) ** 2).sum() < 1e-3 * (violin.stem**2).sum()
    assert (edits.remove_vibrato(violin) ** 2).sum() == pytest.approx((violin.stem**2).sum(), rel=0.05)


def test_steady_at_the_start_leaves_the_vibrato(synth):
    violin = one_note(synth, "Violin", 67)
    moves = lambda stem: np.nanstd(edits.pitch(stem, violin.notes[0])[round(1.0 * RATE) : round(1.9 * RATE)])  # noqa: E731
    assert moves(edits.remove_vibrato(violin, 0.15)) > 0.8 * moves(violin.stem)


# Edits of the notes.


def test_transposed_by_an_octave_is_twice_as_high(synth):
    lead = one_note(synth, "Square Wave Lead", 60)
    assert np.array_equal(edits.transpose(lead, 12), one_note(synth, "Square Wave Lead", 72).stem)


def test_reordered_keeps_onsets_and_pitches(synth):
    clip = tune(synth, "Celesta")
    assert (edits.permute_notes(clip) != clip.stem).any()
    same = stems.Clip(il.Score(tuple(n._replace(pitch=60) for n in clip.notes)), clip.instrument, synth)
    assert np.array_equal(edits.permute_notes(same), same.stem)


def test_shifted_is_the_same_sound_later(synth):
    clip = one_note(synth, "Acoustic Grand Piano", onset=64 * 300 / RATE)
    later = edits.shift(clip, clip.notes[0].onset + 64 * 500 / RATE)
    assert np.allclose(later[64 * 500 :][:100_000], clip.stem[:100_000], atol=1e-6)
    with pytest.raises(ScoreError, match="a clip lasts 5 s"):
        edits.shift(clip, 4.0)


# Interventions.


def test_clips_are_those_of_the_stream(synth):
    selected = list(stems.clips("Violin", 3, n_instruments=[2], notes=3, synth=synth))
    assert len(selected) == 3
    for clip in selected:
        assert len(clip.score.instruments) == 2 and len(clip.notes) >= 3
        assert np.allclose(clip.stem + clip.rest, synth.render(clip.score), atol=1e-6)
        assert clip.score in [il.clip_score(i, split="test") for i in range(200)]
    with pytest.raises(ScoreError, match="Piccolo does not play in this clip: choose among"):
        stems.Clip(tune(synth, "Violin").score, "Piccolo", synth)


@pytest.fixture(scope="module")
def outcomes(synth):
    """Nothing changed, all taken away, half taken away, in four clips."""
    interventions = {
        "nothing": lambda c: c.stem,
        "all": lambda c: 0 * c.stem,
        "half": lambda c: edits.gate(c, 0, 3.0, slice(0, 1)),
    }
    return experiments.run_interventions(
        {"compact": il.load_model("compact")}, stems.clips("Piccolo", 4, synth=synth), interventions, progress=False
    )["compact"]


def test_nothing_changed_loses_nothing_and_all_taken_away_loses_all(outcomes):
    assert experiments.relative_logit_drop(outcomes["nothing"]) == (0, 0, 0)
    assert experiments.relative_logit_drop(outcomes["all"]) == pytest.approx((1, 1, 1))
    assert 0 < experiments.relative_logit_drop(outcomes["half"]).value < 1
    assert experiments.relative_logit_drop(outcomes["all"], minus=outcomes["all"]) == (0, 0, 0)
    assert (
        experiments.detection_rate(outcomes["nothing"]).value
        == 1
        == experiments.detection_rate(outcomes["all"], before=True).value
    )
    assert experiments.detection_rate(outcomes["all"]).value == 0
    assert outcomes["nothing"].relevance.tolist() == [0] * 4 == outcomes["nothing"].energy.tolist()


def test_relevance_of_what_is_taken_away(outcomes, synth):
    clip = next(stems.clips("Piccolo", 1, synth=synth))
    mels = il.log_mel(np.stack([clip.stem + clip.rest, clip.rest]))
    heat = il.relevance(il.load_model("compact"), mels[:1], ["Piccolo"])[0]
    share = (1 - 10 ** ((mels[1] - mels[0]) / 10)).clip(min=0)
    assert outcomes["all"].relevance[0] == pytest.approx((heat * share).sum(), rel=1e-4)
    assert outcomes["all"].energy[0] == pytest.approx(((mels[0] + 80) * share).sum(), rel=1e-4)
    assert np.isnan(experiments.drop_correlation(outcomes["nothing"])).all()


def test_a_change_that_gives_no_stem_is_refused(synth):
    network = {"compact": il.load_model("compact")}
    for edit in (lambda c: c.stem[:100], lambda c: c.stem * np.nan):
        with pytest.raises(InputError, match="the edit 'odd' gave"):
            experiments.run_interventions(network, stems.clips("Piccolo", 1, synth=synth), {"odd": edit})
    with pytest.raises(InputError, match="no clips"):
        experiments.run_interventions(network, [], {"none": lambda c: c.stem})


def made_up(drops, evidence=None, relevance=None, energy=None) -> experiments.Outcomes:
    n = len(drops)
    before, after, without = np.zeros((3, n, 12), np.float32)
    after[:, 2] = -np.asarray(drops)
    without[:, 2] = -np.asarray(evidence if evidence is not None else np.ones(n))
    relevance, energy = (np.zeros(n) if values is None else values for values in (relevance, energy))
    return experiments.Outcomes(np.full(n, 2), before, after, without, relevance, energy, np.full(n, 10.0))


def test_what_is_lost_is_a_ratio_of_sums():
    drop = experiments.relative_logit_drop(made_up([1, 2, 3], [2, 4, 2]))
    assert drop.value == pytest.approx(6 / 8) and drop.low <= drop.value <= drop.high
    assert experiments.relative_logit_drop(made_up([2] * 5, [4] * 5)) == pytest.approx((0.5, 0.5, 0.5))


def test_gained_follows_the_other_instrument():
    outcomes = made_up([0, 0])
    outcomes.after[0, 5], outcomes.after[1, 7] = 3, 5
    assert (
        experiments.logit_gain(outcomes, [5, 7]).value == 4
        and experiments.logit_gain(outcomes, ["Piccolo", "Piccolo"]).value == 0
    )


def test_prediction_is_spearmans():
    rng = np.random.default_rng(0)
    drops, predictor = rng.normal(size=(2, 40))
    correlation = experiments.drop_correlation(made_up(drops, relevance=predictor))
    assert correlation.value == pytest.approx(spearmanr(drops.astype(np.float32), predictor).statistic, abs=1e-6)
    assert experiments.drop_correlation(made_up(drops, energy=np.exp(drops)), by="energy").value == pytest.approx(1)


def test_level_at_which_half_is_lost():
    levels = [0, -10, -20, -30]
    detected = np.array([[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 0, 0]], bool)
    assert experiments.detection_threshold_db(levels, detected).value == -20
    assert experiments.detection_threshold_db(levels, detected[:2] & [True, True, False, False]).value == pytest.approx(-15)
    assert experiments.detection_threshold_db(levels, np.ones((3, 4), bool)) == (-math.inf,) * 3
    assert np.isnan(experiments.detection_threshold_db(levels, np.zeros((3, 4), bool)).value)


def test_verdicts():
    assert stats.verdict(Interval(0.3, 0.2, 0.4), 0.1) == "supported"
    assert stats.verdict(Interval(0.3, 0.05, 0.4), 0.1) == "undecided"
    assert stats.verdict(Interval(0.05, 0.0, 0.09), 0.1) == "refuted"
    assert -Interval(1, 0, 3) == (-1, -3, 0)
    assert Interval(5, 2, 8) - Interval(1, -3, 5) == pytest.approx((4, -1, 9))


def test_streaks_in_closed_form():
    frame = 512 / RATE
    heat = np.zeros((3, 128, 431))
    heat[0, 10, 100:150] = 1  # one streak of 50 frames
    heat[1, 10, 100:150], heat[1, 11, 100:110] = 1, 1  # 50 and 10, weighted by how much relevance is on each
    assert localisation.streak_seconds(heat)[:2] == pytest.approx([50 * frame, (50 * 50 + 10 * 10) / 60 * frame])
    assert np.isnan(localisation.streak_seconds(heat)[2])


def test_sweep_detects_loud_and_not_silent(synth):
    networks, clips = {"compact": il.load_model("compact")}, stems.clips("Violin", 3, n_instruments=[2], synth=synth)
    detected = experiments.sweep(networks, clips, [0, -100], progress=False)["compact"]
    assert detected.shape == (3, 2) and detected[:, 0].all() and not detected[:, 1].any()


def test_summary_has_the_names_of_the_stored_results(outcomes):
    row = experiments.summary({"compact": outcomes}, {"half": "all"})["compact"]
    names = ["relative_logit_drop", "detection_rate", "detection_rate_before", "relevance", "energy", "logit_share"]
    assert list(row["all"]) == names and list(row["half"]) == [*names, "beyond_control"]
    assert row["half"]["beyond_control"] == experiments.relative_logit_drop(outcomes["half"], minus=outcomes["all"])


def test_without_clips_or_edits_there_is_nothing_to_ask(synth):
    networks, edit = {"compact": il.load_model("compact")}, {"nothing": lambda c: c.stem}
    for arguments in (([], edit), (stems.clips("Piccolo", 1, synth=synth), {})):
        with pytest.raises(InputError, match="no clips, networks or edits"):
            experiments.run_interventions(networks, *arguments, progress=False)


def test_the_gap_between_predictors_is_the_difference_of_their_correlations():
    drops = np.arange(8.0)
    right, wrong = drops**2, -drops
    one = made_up(drops, relevance=right, energy=wrong)
    other = made_up(drops[::-1], relevance=right, energy=right)  # both wrong here
    gap = experiments.correlation_gap({"one": one, "other": other}, "energy")
    assert gap.value == pytest.approx((2 + 0) / 2)
    assert gap.low <= gap.value <= gap.high
    nothing = experiments.correlation_gap({"one": made_up(np.zeros(4))}, "energy", least=0.1)
    assert np.isnan(nothing.value)


def test_the_rival_is_the_logit_times_the_share_of_energy():
    outcomes = made_up([1, 1], energy=np.array([1.0, 5]))
    outcomes.before[:, 2] = 4
    assert outcomes.logit_share.tolist() == pytest.approx([0.4, 2.0])


def test_weakened_edits_remove_the_same_power(synth):
    clip = next(stems.clips("Acoustic Bass", 1, notes=2, synth=synth))
    attacks, middles = lambda c: edits.gate(c), lambda c: edits.gate(c, 0.15)
    removed = [
        float(((clip.stem - edits.weakened(a, b)(clip)).astype(float) ** 2).sum())
        for a, b in ((attacks, middles), (middles, attacks))
    ]
    whole = [float(((clip.stem - edit(clip)).astype(float) ** 2).sum()) for edit in (attacks, middles)]
    assert removed == pytest.approx([min(whole)] * 2, rel=1e-4) and max(whole) > 1.01 * min(whole)
    untouched = edits.weakened(attacks, lambda c: c.stem)(clip)
    assert np.array_equal(untouched, clip.stem)  # as much as nothing is nothing
