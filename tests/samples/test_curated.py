"""The fifteen clips that travel with the library."""

import shutil

import numpy as np
import pytest

import instr_lib as il
from instr_lib.samples import curated, original_report


def test_each_instrument_alone_and_the_reports_mixtures():
    clips = il.curated_clips()
    assert len(clips) == 15
    assert [clip.score.instruments for clip in clips[:12]] == [(i,) for i in range(12)]
    names = {clip.name for clip in clips}
    assert {" + ".join(example) for example in original_report.EXAMPLES} <= names
    for clip in clips:
        assert clip.score.instruments == il.instrument_indices(clip.name.split(" + "))
        assert clip.audio.shape == (220_500,) and clip.mel.shape == (128, 431)


def test_sound_is_what_the_midi_files_render_to(synth):
    for clip in il.curated_clips():
        assert np.abs(synth.render(clip.score) - clip.audio).max() < 1 / 32768  # stored with 16 bits
        assert np.abs(il.log_mel(synth.render(clip.score)) - clip.mel).max() < 0.5  # near the floor 16 bits can be heard


def test_a_damaged_file_is_named(tmp_path, monkeypatch):
    shutil.copytree(curated.FOLDER, tmp_path / "curated")
    monkeypatch.setattr(curated, "FOLDER", tmp_path / "curated")
    file = tmp_path / "curated" / "06-acoustic-bass.flac"
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(il.AudioError, match=r"06-acoustic-bass.*restore it"):
        curated.curated_clips.__wrapped__()


def test_published_networks_hear_the_single_instruments():
    """Not a score: a smoke alarm for weights that do not belong to this front end."""
    clips = il.curated_clips()[:12]
    for name in ("original", "compact"):
        probabilities = il.predict(il.load_model(name), np.stack([clip.mel for clip in clips]))
        assert (probabilities.argmax(axis=1) == np.arange(12)).mean() >= 10 / 12
