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

GREY = np.full(3, 0.55)


def blend(background: np.ndarray, colour: np.ndarray, opacity: np.ndarray) -> np.ndarray:
    """A colour over a background, RGB (128, 431, 3) or (3,), with an opacity (128, 431) from 0 to 1."""
    opacity = opacity[..., None]
    return np.clip(background * (1 - opacity) + colour * opacity, 0, 1)


clip = il.curated_clips()[13]
instruments = clip.score.instruments
colours = np.array([to_rgb(plots.OVERLAY_COLOURS[index]) for index in instruments])
shares = il.ownership(il.Synth().render_stems(clip.score))
heatmaps = il.relevance(il.load_model("compact"), clip.mel[None], instruments).clip(min=0)

loudness = np.clip((clip.mel - FLOOR_DB) / (-15 - FLOOR_DB), 0, 1)
dominant = np.where((shares.max(axis=0) > 0.5)[..., None], colours[shares.argmax(axis=0)], GREY)
ownership = blend(np.ones(3), dominant, loudness)

# Each instrument's positive relevance as shares of its sum, a little smoothed: single cells are too small to see.
relevance = np.stack([plots.smooth(heat, 0.7, 2) / heat.sum() for heat in heatmaps])
strongest = relevance.max(axis=0)
opacity = np.clip(strongest / np.percentile(strongest, 99), 0, 1) ** 0.6
explanation = blend(blend(np.ones(3), GREY, 0.5 * loudness), colours[relevance.argmax(axis=0)], opacity)

plt.rcParams["font.size"] = 15
figure, axes = plt.subplots(2, 1, figsize=(9, 5.8), layout="constrained")
titles = ("who plays what", "what the network says it listened to, for each")
for ax, image, title in zip(axes, (ownership, explanation), titles, strict=True):
    ax.imshow(image, origin="lower", aspect="auto", extent=(0, 5, -0.5, 127.5), interpolation="nearest")
    plots.label_axes(ax, time=ax is axes[-1])
    ax.set_title(title)
patches = [plt.Rectangle((0, 0), 1, 1, color=colour) for colour in colours]
names = ("piano", "trumpet", "violin", "New Age Pad")
figure.legend(patches, names, loc="outside lower center", ncols=4, frameon=False)

drawn = io.BytesIO()
figure.savefig(drawn, dpi=100)
# A palette of 256 colours: the same picture to the eye, in a third of the bytes.
picture = Image.open(drawn).convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
picture.save(Path(__file__).parents[1] / "book" / "_static" / "welcome.png", optimize=True)
