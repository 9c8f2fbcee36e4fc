"""Draw and render the curated clips anew, into instr_lib/samples/curated: ``python tools/curated_clips.py``."""

import numpy as np
import soundfile

import instr_lib as il
from instr_lib.constants import SAMPLE_RATE
from instr_lib.samples import curated

SEED = (2206, 3208)  # after arXiv:2206.03208, concept relevance propagation


def build():
    """Write the MIDI and FLAC file of each clip; the same clips always."""
    curated.FOLDER.mkdir(exist_ok=True)
    synth = il.Synth()
    for number, (file, names) in enumerate(curated.clip_files().items()):
        score = il.random_score(np.random.default_rng([*SEED, number]), instruments=names)
        score.to_midi().save(curated.FOLDER / f"{file}.mid")
        soundfile.write(curated.FOLDER / f"{file}.flac", synth.render(score), SAMPLE_RATE, subtype="PCM_16")


if __name__ == "__main__":
    build()
