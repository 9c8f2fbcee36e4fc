"""Pictures. Every function draws into ``ax`` (a new one if not given) and returns it.

Spectrograms and heatmaps share axes in seconds and Hz; the frequency axis is linear in mel bands and
labelled in Hz. Signed relevance is red for, blue against, white for nothing, on one scale wherever
panels are compared.
"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba_array
from matplotlib.figure import Figure

from .instruments import INSTRUMENTS
from .score import CLIP_SECONDS, Score
from .spectrogram import FLOOR_DB, N_MELS, band_frequencies

# Twelve colours in order of INSTRUMENTS, from the Okabe-Ito and Tol palettes, which stay apart for
# colour-blind readers as far as twelve can; every use also has a name beside the colour.
COLOURS = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#AA4499", "#0072B2",
    "#D55E00", "#CC79A7", "#999933", "#882255", "#44AA99", "#888888",
)  # fmt: skip
_TICKS_HZ = (100, 500, 1000, 2000, 4000, 8000, 16000)


def label_axes(ax: Axes, frequency: bool = True, time: bool = True):
    """Seconds and Hz for an image of the spectrogram's cells; either can be left blank."""
    bands = np.interp(_TICKS_HZ, band_frequencies(), np.arange(N_MELS))
    ax.set_yticks(bands, [f"{hz:g}" if hz < 1000 else f"{hz / 1000:g} k" for hz in _TICKS_HZ] if frequency else [])
    ax.set(xlim=(0, CLIP_SECONDS), ylim=(-0.5, N_MELS - 0.5))
    ax.set_ylabel("frequency (Hz)" if frequency else "")
    ax.set_xlabel("time (s)" if time else "")
    if not time:
        ax.set_xticklabels([])


def _image(ax: Axes, cells: np.ndarray, **options):
    extent = (0, CLIP_SECONDS, -0.5, N_MELS - 0.5)
    return ax.imshow(cells, origin="lower", aspect="auto", extent=extent, interpolation="nearest", **options)


def piano_roll(score: Score, ax: Axes | None = None) -> Axes:
    """Notes as bars, pitch against time; opacity is velocity."""
    ax = ax or plt.subplots(figsize=(8, 2.8), layout="constrained")[1]
    for note in score.notes:
        ax.barh(
            note.pitch, note.duration, left=note.onset, height=0.8, color=COLOURS[note.instrument],
            alpha=0.35 + 0.65 * note.velocity / 127, edgecolor="black", linewidth=0.5,
        )  # fmt: skip
    for index in score.instruments:
        ax.barh(0, 0, color=COLOURS[index], label=INSTRUMENTS[index].name)
    pitches = [note.pitch for note in score.notes]
    low, high = min(60, *pitches), max(72, *pitches)
    ax.set(xlim=(0, CLIP_SECONDS), ylim=(low - 1, high + 1), xlabel="time (s)", ylabel="pitch (MIDI)")
    ax.set_yticks(range(low, high + 1, 4 if high - low < 24 else 12))
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=4, frameon=False, fontsize="small")
    return ax


def cells(colours: np.ndarray, ax: Axes | None = None) -> Axes:
    """Cells of the spectrogram in given colours: names (128, 431)."""
    ax = ax or plt.subplots(figsize=(8, 3), layout="constrained")[1]
    names, which = np.unique(colours, return_inverse=True)
    _image(ax, to_rgba_array(names)[which.reshape(colours.shape)])
    label_axes(ax)
    return ax


def spectrogram(mel: np.ndarray, ax: Axes | None = None, colorbar: bool = True) -> Axes:
    """A log-mel spectrogram (128, 431) in dB."""
    ax = ax or plt.subplots(figsize=(8, 3), layout="constrained")[1]
    image = _image(ax, mel, cmap="magma", vmin=FLOOR_DB, vmax=0)
    if colorbar:
        ax.figure.colorbar(image, ax=ax, label="level (dB)")
    label_axes(ax)
    return ax


def heatmap_limit(heats: np.ndarray) -> float:
    """The colour scale's end for heatmaps that are compared: the 99.8th percentile of their size.

    Relevance is so peaked that the maximum would leave nearly everything white.
    """
    return float(np.percentile(np.abs(heats), 99.8)) or 1.0


def heatmap(heat: np.ndarray, mel: np.ndarray | None = None, ax: Axes | None = None, limit: float | None = None) -> Axes:
    """Signed relevance (128, 431), drawn over the spectrogram in grey if it is given."""
    ax = ax or plt.subplots(figsize=(8, 3), layout="constrained")[1]
    scaled = np.clip(heat / (limit or heatmap_limit(heat)), -1, 1)
    if mel is None:
        _image(ax, scaled, cmap="RdBu_r", vmin=-1, vmax=1)
    else:
        _image(ax, mel, cmap="Greys", vmin=FLOOR_DB, vmax=30)  # never darker than a mid grey
        _image(ax, scaled, cmap="RdBu_r", vmin=-1, vmax=1, alpha=np.sqrt(np.abs(scaled)))
    label_axes(ax)
    return ax


def _columns(count: int) -> int:
    return 1 if count == 1 else 2 if count in (2, 4) else 3


def relevance_panels(
    mel: np.ndarray,
    heats: np.ndarray,
    classes: Sequence[int],
    probabilities: np.ndarray | None = None,
    present: Sequence[int] = (),
) -> Figure:
    """One heatmap an instrument, all on one colour scale; those that play have a bold frame and a note.

    Parameters
    ----------
    mel : float32 (128, 431), dB
    heats : float32 (n, 128, 431)
    classes : n instrument indices
    probabilities : float32 (12,), optional
        Written into the titles.
    present : instrument indices
        Those that play.
    """
    limit, columns = heatmap_limit(heats), _columns(len(classes))
    rows = -(-len(classes) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(10, 0.5 + 2.3 * rows), squeeze=False, layout="constrained")
    for ax in axes.flat[len(classes) :]:
        ax.set_axis_off()
    for position, (index, heat, ax) in enumerate(zip(classes, heats, axes.flat, strict=False)):
        heatmap(heat, mel, ax, limit)
        last = position + columns >= len(classes)
        label_axes(ax, frequency=position % columns == 0, time=last)
        playing = index in present
        title = ("♪ " if playing else "") + INSTRUMENTS[index].name
        if probabilities is not None:
            title += f"  {probabilities[index]:.2f}"
        ax.set_title(title, fontsize="medium", fontweight="bold" if playing else "normal")
        if playing:
            for spine in ax.spines.values():
                spine.set_linewidth(2.5)
    bar = plt.cm.ScalarMappable(plt.Normalize(-1, 1), "RdBu_r")
    figure.colorbar(bar, ax=axes, shrink=0.6, ticks=[-1, 0, 1]).set_ticklabels(["against", "0", "for"])
    return figure
