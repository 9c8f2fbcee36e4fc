"""The log-mel spectrogram, against librosa, and its axes against sounds whose place is known."""

import librosa
import numpy as np
import pytest

import instr_lib as il
from instr_lib import constants
from instr_lib.data import spectrogram

RATE = 44_100


def noise() -> np.ndarray:
    """Noise that swells from silence over the whole dB scale and beyond its top."""
    time = np.linspace(0, 1, 220_500)
    return (np.random.default_rng(0).normal(size=220_500) * 10 ** (6 * time - 5)).astype(np.float32)


def by_librosa(audio: np.ndarray) -> np.ndarray:
    power = librosa.feature.melspectrogram(y=audio, sr=RATE, n_fft=2048, hop_length=512, window="hann", n_mels=128)
    return librosa.power_to_db(power, ref=constants.REFERENCE, amin=1e-9, top_db=None)


def test_equals_librosa_above_the_floor(tones):
    for audio in (noise(), *tones):
        mel, reference = il.log_mel(audio), by_librosa(audio)
        assert (mel.shape, mel.dtype) == ((128, 431), np.float32)
        within = (reference > -80) & (reference < 0)
        assert within.sum() > 2000
        assert np.abs(mel - reference)[within].max() < 0.01
        assert np.all(mel[reference <= -80.01] == -80)
        assert np.all(mel[reference >= 0.01] == 0)


def test_equals_librosa_on_a_rendered_clip(synth):
    audio = synth.render(il.random_score(np.random.default_rng(0), 4))
    reference = np.clip(by_librosa(audio), -80, 0)
    assert np.abs(il.log_mel(audio) - reference).max() < 0.01


def test_silence_is_the_floor():
    assert np.all(il.log_mel(np.zeros(220_500, np.float32)) == -80)


def test_the_scale_is_fixed(tones):
    """Half the amplitude is 6.02 dB less in every cell: no clip's maximum rescales it."""
    loud, soft = il.log_mel(tones[0]), il.log_mel(tones[0] / 2)
    above = soft > -79
    assert np.allclose((loud - soft)[above], 20 * np.log10(2), atol=0.01)


def test_several_clips_at_once(tones):
    assert np.array_equal(il.log_mel(tones), np.stack([il.log_mel(tone) for tone in tones]))


def test_float64_and_lists_are_welcome(tones):
    assert np.allclose(il.log_mel(tones[0].astype(np.float64)), il.log_mel(tones[0]), atol=1e-4)


@pytest.mark.parametrize("hertz", [300, 1000, 4000, 12_000])
def test_frequency_axis(hertz):
    tone = 0.1 * np.sin(2 * np.pi * hertz * np.arange(220_500) / RATE)
    centres = spectrogram.band_frequencies()
    assert centres.shape == (128,)
    loudest = il.log_mel(tone)[:, 200].argmax()
    assert abs(loudest - np.abs(centres - hertz).argmin()) <= 1


@pytest.mark.parametrize("seconds", [0.0, 0.5, 3.21])
def test_time_axis(seconds):
    click = np.zeros(220_500)
    click[round(seconds * RATE)] = 1
    times = spectrogram.frame_times()
    assert times.shape == (431,)
    assert times[il.log_mel(click)[64].argmax()] == pytest.approx(seconds, abs=512 / RATE / 2 + 1e-9)


def test_quantising_costs_at_most_half_a_step():
    db = np.linspace(-80, 0, 10_001, dtype=np.float32)
    stored = spectrogram.quantise(db)
    assert (stored.dtype, stored[0], stored[-1]) == (np.uint8, 0, 255)
    back = spectrogram.dequantise(stored)
    assert back.dtype == np.float32
    assert np.abs(back - db).max() < 0.16
    assert (back[0], back[-1]) == (-80, pytest.approx(0, abs=1e-5))


def test_what_is_stored_survives():
    stored = np.arange(256, dtype=np.uint8)
    assert np.array_equal(spectrogram.quantise(spectrogram.dequantise(stored)), stored)


def test_filters_and_bands_are_librosas():
    """To the last bit: data sets made with either have the same bytes."""
    assert np.array_equal(
        spectrogram.mel_filters().toarray(),
        librosa.filters.mel(sr=44_100, n_fft=constants.N_FFT, n_mels=constants.N_MELS),
    )
    centres = librosa.mel_frequencies(constants.N_MELS + 2, fmin=0, fmax=22_050)[1:-1]
    assert np.allclose(spectrogram.band_frequencies(), centres, rtol=1e-12, atol=0)


def test_a_mask_of_ones_gives_the_clip_back(tones):
    assert np.abs(spectrogram.masked(tones[0], np.ones((128, 431))) - tones[0]).max() < 1e-5
    assert not spectrogram.masked(tones[0], np.zeros((128, 431))).any()


def test_a_mask_keeps_what_it_says(tones):
    """The bands from the 30th on, the second half of the time: the rest is gone, and that is as loud as it was."""
    mask = np.zeros((128, 431), np.float32)
    mask[30:, 215:] = 1
    before, after = il.log_mel(tones[0]), il.log_mel(spectrogram.masked(tones[0], mask))
    assert np.abs(after - before)[34:, 220:][before[34:, 220:] > -40].max() < 1
    assert after[:26].max() < before[:26].max() - 20 and after[:, :205].max() < -75


@pytest.mark.parametrize(
    "mask, message",
    [
        (np.ones((128, 430)), "must have shape"),
        (np.full((128, 431), 1.5), "within 0 and 1"),
        (np.full((128, 431), np.nan), "within 0 and 1"),
    ],
)
def test_other_masks_are_refused(tones, mask, message):
    with pytest.raises(il.InputError, match=message):
        spectrogram.masked(tones[0], mask)
