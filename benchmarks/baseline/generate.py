"""Clips as a straightforward script makes them, one after another: what `il.generate` is compared with.

It does for each clip what the original's published script did by default: a new FluidSynth, as it comes (with reverb
and chorus), with the whole soundfont, samples fetched between MIDI messages, librosa's mel spectrogram, and a matplotlib
figure of 10 x 10 inches with axes, colour bar and title, saved as a picture. In its favour it leaves out what else that
script did: waiting as long as the music lasts, MIDI and WAV files on the way, sound gathered in a Python list,
resampling, and 512 mel bands.

Spared, it does no more than `il.generate` and its network need: dry sound, and bare pictures of 400 x 400 pixels.

The music is that of `il.generate`, clip by clip. To run it: python generate.py 10 /tmp/clips
"""

import sys
import time
from pathlib import Path

import fluidsynth
import librosa
import librosa.display
import matplotlib.pyplot as plt
import numpy as np

import instr_lib as il

RATE, SECONDS = 44_100, 5


def load(soundfont, dry=False):
    """A new synth with the whole soundfont."""
    dry = {"synth.reverb.active": 0, "synth.chorus.active": 0} if dry else {}
    synth = fluidsynth.Synth(gain=1.0, samplerate=RATE, **dry)
    synth.sfload(str(soundfont))
    return synth


def play(synth, midi):
    """Five seconds of sound, mono."""
    sound, seconds, frames = [], 0.0, 0
    for message in midi:
        seconds += message.time
        sound.append(synth.get_samples(round(seconds * RATE) - frames))
        frames = round(seconds * RATE)
        if message.type == "program_change":
            synth.program_change(message.channel, message.program)
        elif message.type == "note_on":
            synth.noteon(message.channel, message.note, message.velocity)
        elif message.type == "note_off":
            synth.noteoff(message.channel, message.note)
    sound.append(synth.get_samples(SECONDS * RATE - frames))
    synth.delete()
    return np.concatenate(sound).reshape(-1, 2).mean(axis=1) / 32768


def log_mel(sound):
    """Mel spectrogram in dB below the clip's loudest cell."""
    return librosa.power_to_db(librosa.feature.melspectrogram(y=sound, sr=RATE), ref=np.max)


def picture(mel, path, dry=False):
    """The spectrogram as the original drew it, or only the 400 x 400 pixels that the network is shown."""
    if dry:
        figure = plt.figure(figsize=(4, 4), dpi=100)
        librosa.display.specshow(mel, sr=RATE, hop_length=512, ax=figure.add_axes((0, 0, 1, 1)))
    else:
        plt.figure(figsize=(10, 10))
        librosa.display.specshow(mel, sr=RATE, hop_length=512, x_axis="time", y_axis="mel")
        plt.colorbar(format="%+2.0f dB")
        plt.title("Spectrogram")
        plt.tight_layout()
    plt.savefig(path)
    plt.close()


def clip(index, folder, soundfont, dry=False):
    """One clip from notes to picture. Returns the seconds that each stage took."""
    times = [time.perf_counter()]
    midi = il.clip_score(index).to_midi()
    synth = load(soundfont, dry)
    times.append(time.perf_counter())
    sound = play(synth, midi)
    times.append(time.perf_counter())
    mel = log_mel(sound)
    times.append(time.perf_counter())
    picture(mel, Path(folder) / f"{index}.png", dry)
    times.append(time.perf_counter())
    return dict(zip(("load", "play", "mel", "picture"), np.diff(times).tolist(), strict=True))


def generate(folder, n_clips, soundfont=None, dry=False):
    """Clips 0 to n_clips - 1, as pictures in a folder that exists. Returns each one's seconds a stage."""
    soundfont = soundfont or il.find_soundfont()
    return [clip(index, folder, soundfont, dry) for index in range(n_clips)]


if __name__ == "__main__":
    Path(sys.argv[2]).mkdir(parents=True, exist_ok=True)
    generate(sys.argv[2], int(sys.argv[1]))
