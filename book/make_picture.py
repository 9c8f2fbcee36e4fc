"""Draw the welcome picture, book/_static/welcome.png, from a curated clip and the published compact network."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import instr_lib as il
from instr_lib import plots
from instr_lib.spectrogram import FLOOR_DB

clip = il.curated_clips()[13]  # piano, trumpet, violin, New Age Pad
model = il.load_model("compact")
present = clip.score.instruments
share = il.ownership(il.Synth().render_stems(clip.score))
heats = il.relevance(model, clip.mel[None], present)
limit = plots.heatmap_limit(heats)

figure, axes = plt.subplots(2, len(present), figsize=(12, 5), layout="constrained")
for column, index in enumerate(present):
    above, below = axes[:, column]
    owned = np.where(share[column] > 0.5, clip.mel, FLOOR_DB)
    above.imshow(clip.mel, origin="lower", aspect="auto", cmap="Greys", vmin=FLOOR_DB, vmax=30, extent=(0, 5, -0.5, 127.5))
    above.imshow(
        owned, origin="lower", aspect="auto", cmap="Greens", vmin=FLOOR_DB, vmax=-20, extent=(0, 5, -0.5, 127.5),
        alpha=(share[column] > 0.5).astype(float), interpolation="nearest",
    )  # fmt: skip
    plots.heatmap(heats[column], clip.mel, below, limit)
    above.set_title(il.INSTRUMENTS[index].name)
    plots.label_axes(above, frequency=column == 0, time=False)
    plots.label_axes(below, frequency=column == 0, time=True)
axes[0, 0].set_ylabel("what it plays\nfrequency (Hz)")
axes[1, 0].set_ylabel("what the network points at\nfrequency (Hz)")
figure.savefig(Path(__file__).parent / "_static" / "welcome.png", dpi=100)
