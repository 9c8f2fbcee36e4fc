"""Draw the welcome picture, book/_static/welcome.png, from a curated clip and the published compact network."""

import io
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import to_rgb
from PIL import Image

import instr_lib as il
from instr_lib.constants import FLOOR_DB
from instr_lib.show import plots

# Of Okabe and Ito and of Tol, which stay apart for colour-blind readers: piano, trumpet, violin, New Age Pad.
COLOURS = np.array([to_rgb(colour) for colour in ("#0072B2", "#D55E00", "#AA4499", "#009E73")])
GREY = np.full(3, 0.55)


def over(paper: np.ndarray, ink: np.ndarray, amount: np.ndarray) -> np.ndarray:
    """Ink laid over paper, RGB (128, 431, 3) or one colour, in an amount (128, 431) from 0 to 1."""
    amount = amount[..., None]
    return np.clip(paper * (1 - amount) + ink * amount, 0, 1)


clip = il.curated_clips()[13]
instruments = clip.score.instruments
share = il.ownership(il.Synth().render_stems(clip.score))
heatmaps = il.relevance(il.load_model("compact"), clip.mel[None], instruments).clip(min=0)

loud = np.clip((clip.mel - FLOOR_DB) / (-15 - FLOOR_DB), 0, 1)
owner = np.where((share.max(axis=0) > 0.5)[..., None], COLOURS[share.argmax(axis=0)], GREY)
truth = over(np.ones(3), owner, loud)

# Each instrument's positive relevance as shares of its own, a little smoothed: single cells are too small to see.
shown = np.stack([plots.smooth(heatmap, 0.7, 2) / heatmap.sum() for heatmap in heatmaps])
strength = np.clip(shown.max(axis=0) / np.percentile(shown.max(axis=0), 99), 0, 1) ** 0.6
claim = over(over(np.ones(3), GREY, 0.5 * loud), COLOURS[shown.argmax(axis=0)], strength)

plt.rcParams["font.size"] = 15
figure, axes = plt.subplots(2, 1, figsize=(9, 5.8), layout="constrained")
titles = ("who plays what", "what the network says it listened to, for each")
for ax, picture, title in zip(axes, (truth, claim), titles, strict=True):
    ax.imshow(picture, origin="lower", aspect="auto", extent=(0, 5, -0.5, 127.5), interpolation="nearest")
    plots.label_axes(ax, time=ax is axes[-1])
    ax.set_title(title)
patches = [plt.Rectangle((0, 0), 1, 1, color=colour) for colour in COLOURS]
names = ("piano", "trumpet", "violin", "New Age Pad")
figure.legend(patches, names, loc="outside lower center", ncols=4, frameon=False)

drawn = io.BytesIO()
figure.savefig(drawn, dpi=100)
# A palette of 256 colours: the same picture to the eye, in a third of the bytes.
picture = Image.open(drawn).convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
picture.save(Path(__file__).parents[1] / "book" / "_static" / "welcome.png", optimize=True)
