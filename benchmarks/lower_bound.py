"""A lower bound on generation: what FluidSynth alone needs to play the clips, on every core.

No program that plays the clips with FluidSynth can be faster. One process per core, the font loaded once, a fresh synth per
clip (otherwise the same clip would not sound the same twice), all instruments of a clip at once, dry, with the settings of
`il.Synth`, 32-bit sound, and one call per moment at which a note begins or ends. Whatever can be prepared, such as the
notes' frames, is prepared before the clock starts.
"""

import functools
import os
from itertools import groupby

import joblib
import numpy as np

import instr_lib as il
from instr_lib.constants import CLIP_SAMPLES
from instr_lib.music import synth

BATCH = 50  # clips a task, as many as il.generate hands out at a time


def events(score):
    """Programs by channel, and (frame, note-ons and note-offs) in the order of time."""
    channels = {index: channel for channel, index in enumerate(score.instruments)}
    notes = []  # (frame, is_on, channel, pitch, velocity)
    for note in score.notes:
        channel = channels[note.instrument]
        notes.append((synth._to_block(note.onset), 1, channel, note.pitch, note.velocity))
        notes.append((synth._to_block(note.end), 0, channel, note.pitch, 0))
    programs = [il.INSTRUMENTS[index].program for index in score.instruments]
    return programs, [(frame, list(group)) for frame, group in groupby(sorted(notes), key=lambda note: note[0])]


@functools.cache
def _player():
    """The library, settings and soundfont of one `il.Synth`, kept for the whole process."""
    return il.Synth()


def play(programs, moments):
    """One clip: float32 left and right."""
    player, lib, frames = _player(), synth.bindings(), -(-CLIP_SAMPLES // synth._BLOCK) * synth._BLOCK
    fs = lib.module
    left, right = np.empty((2, frames), np.float32)
    voice = fs.new_fluid_synth(player._settings)
    number = lib.add_sfont(voice, player._font)
    for channel, program in enumerate(programs):
        fs.fluid_synth_program_select(voice, channel, number, 0, program)
    now = 0
    for frame, notes in [*moments, (frames, [])]:
        lib.write_float(voice, frame - now, left.ctypes.data, now, 1, right.ctypes.data, now, 1)
        now = frame
        for _, is_on, channel, pitch, velocity in notes:
            if is_on:
                fs.fluid_synth_noteon(voice, channel, pitch, velocity)
            else:
                fs.fluid_synth_noteoff(voice, channel, pitch)
    lib.remove_sfont(voice, player._font)
    fs.delete_fluid_synth(voice)
    return left, right


def play_batch(clips):
    """In a worker."""
    for clip in clips:
        play(*clip)


def stems_batch(scores):
    """In a worker: the same by `il.Synth`, which plays each instrument by itself, since the mix is their sum."""
    for score in scores:
        _player().render(score)


def on_every_core(work, clips):
    """Distribute the clips over one process per core, as `il.generate` does."""
    batches = (clips[i : i + BATCH] for i in range(0, len(clips), BATCH))
    tasks = (joblib.delayed(work)(batch) for batch in batches)
    for _ in joblib.Parallel(os.cpu_count(), return_as="generator_unordered", pre_dispatch="2*n_jobs")(tasks):
        pass
