"""Pictures. Every function draws into ``ax`` (a new one if not given) and returns it.

Spectrograms and heatmaps share axes in seconds and Hz; the frequency axis is linear in mel bands and
labelled in Hz. Signed relevance is red for, blue against, white for nothing, on one scale wherever
panels are compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba_array
from matplotlib.figure import Figure
from scipy.ndimage import gaussian_filter

from ..constants import CLIP_SECONDS, FLOOR_DB, N_MELS
from ..data.spectrogram import band_frequencies
from ..music.instruments import INSTRUMENTS
from ..music.score import Score

if TYPE_CHECKING:
    from ..explain.concepts import Edge
    from ..explain.dissection import Ablation
    from ..explain.maximisation import ReferenceSample


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


def heatmap_limit(heatmaps: np.ndarray) -> float:
    """The colour scale's end for heatmaps that are compared: the 99.8th percentile of their size.

    Relevance is so peaked that the maximum would leave nearly everything white.
    """
    return float(np.percentile(np.abs(heatmaps), 99.8)) or 1.0


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


def smooth(heat: np.ndarray, bands: float = 1.0, frames: float = 2.0) -> np.ndarray:
    """Relevance (128, 431) spread to its neighbours by a Gaussian of so many bands and frames (standard deviations)."""
    return gaussian_filter(heat, (bands, frames))


def crops(shown: Sequence[tuple[ReferenceSample, np.ndarray, np.ndarray]]) -> Figure:
    """Crops to receptive fields, side by side: each a place, its clip's spectrogram and relevance (128, 431)."""
    columns = min(4, len(shown))
    rows = -(-len(shown) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(10, 2.7 * rows), squeeze=False, layout="constrained")
    for ax in axes.flat[len(shown) :]:
        ax.set_axis_off()
    for number, ((neuron, mel, heat), ax) in enumerate(zip(shown, axes.flat, strict=False), 1):
        bands, frames = neuron.field
        inside = heat[bands, frames]
        heatmap(heat, mel, ax, float(np.abs(inside).max()) or 1.0)
        start, stop = (x * CLIP_SECONDS / mel.shape[1] for x in (frames.start, frames.stop))
        ax.set(xlim=(start, stop), ylim=(bands.start - 0.5, bands.stop - 0.5))
        ax.set_ylabel("frequency (Hz)" if (number - 1) % columns == 0 else "")
        ax.locator_params(axis="x", nbins=3)
        who = "" if neuron.instrument is None else f": {INSTRUMENTS[neuron.instrument].name}"
        ax.set_title(f"{number}{who}", fontsize="medium")
    return figure


def attribution_graph(found: Sequence[Edge]) -> Axes:
    """The graph of :func:`instr_lib.concepts.attribution_graph`, from the instrument at the top down to the first convolution."""
    levels: dict[str, list[tuple[str, int]]] = {}
    for way in found:
        for node in (way.source, way.target):
            if node not in levels.setdefault(node[0], []):
                levels[node[0]].append(node)
    places = {}
    for level, nodes in enumerate(levels.values()):
        places |= {node: ((n + 0.5) / len(nodes), -level) for n, node in enumerate(nodes)}
    ax = plt.subplots(figsize=(8, 1.1 * len(levels)), layout="constrained")[1]
    widest = {layer: max(abs(way.relevance) for way in found if way.target[0] == layer) for layer, _ in places if layer}
    for way in sorted(found, key=lambda way: abs(way.relevance) / widest[way.target[0]]):
        share = abs(way.relevance) / widest[way.target[0]]  # further down an answer spreads over ever more channels
        (x0, y0), (x1, y1) = places[way.source], places[way.target]
        colour = "#b2182b" if way.relevance > 0 else "#2166ac"
        ax.plot([x0, x1], [y0, y1], c=colour, lw=0.4 + 7 * share, alpha=0.25 + 0.6 * share, zorder=1)
        if share > 0.6:
            box = {"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.85}
            neuron = (2 * x0 + 3 * x1) / 5, (2 * y0 + 3 * y1) / 5
            ax.text(*neuron, f"{100 * way.relevance:.2g} %", fontsize="small", ha="center", va="center", bbox=box, zorder=2)
    for (layer, index), (x, y) in places.items():
        text = str(index) if layer else INSTRUMENTS[index].name
        box = {"boxstyle": "round,pad=0.4", "fc": "white", "ec": "black"}
        ax.text(x, y, text, ha="center", va="center", zorder=3, bbox=box)
    for level, layer in enumerate(levels):
        ax.text(-0.02, -level, layer or "logit", ha="right", va="center")
    ax.set(xlim=(-0.1, 1), ylim=(0.5 - len(levels), 0.5))
    ax.set_axis_off()
    return ax


def flow(names: Sequence[Sequence[str]], messages: Sequence[np.ndarray], start: np.ndarray) -> Axes:
    """Relevance on every connection of a network small enough to draw, from the answer at the top down to the cells.

    Parameters
    ----------
    names : the nodes of each level, from the top
    messages : one matrix (nodes above, nodes below) from each level to the next
        What each node hands down to each; what is missing to its own relevance is written beside it as its bias's.
    start : (nodes,)
        Relevance of the nodes at the top.
    """
    ax = plt.subplots(figsize=(6.5, 6.5), layout="constrained")[1]
    places = [[((n + 0.5) / len(level), -depth) for n in range(len(level))] for depth, level in enumerate(names)]
    largest = max(np.abs(matrix).max() for matrix in messages)
    box = {"boxstyle": "round,pad=0.1", "fc": "white", "ec": "none"}
    value = np.asarray(start, float)
    for depth, (level, matrix) in enumerate(zip(names, [*messages, None], strict=True)):
        for n, (name, (x, y)) in enumerate(zip(level, places[depth], strict=True)):
            text = f"{name}\n{value[n] + 0:.3g}"
            frame = box | {"ec": "black", "boxstyle": "round,pad=0.35"}
            ax.text(x, y, text, ha="center", va="center", zorder=3, bbox=frame)
            if matrix is None:
                continue
            kept = value[n] - matrix[n].sum()
            if abs(kept) > 1e-4 * largest:
                ax.text(
                    x + 0.065, y + 0.19, f"bias {kept:.3g}", fontsize="small", c="#555555", ha="center", bbox=box, zorder=2
                )
            for m in np.flatnonzero(np.abs(matrix[n]) > 1e-4 * largest):
                (x1, y1), message = places[depth + 1][m], matrix[n, m]
                colour = "#b2182b" if message > 0 else "#2166ac"
                ax.plot([x, x1], [y, y1], c=colour, lw=1 + 7 * abs(message) / largest, alpha=0.7, zorder=1)
                far = 0.6 if n % 2 else 0.4  # so that numbers on lines that cross stay apart
                ax.text(
                    x + far * (x1 - x),
                    y + far * (y1 - y),
                    f"{message:.3g}",
                    c=colour,
                    ha="center",
                    va="center",
                    bbox=box,
                    zorder=2,
                )
        value = None if matrix is None else matrix.sum(0)
    ax.set(xlim=(0, 1), ylim=(0.6 - len(names), 0.4))
    ax.set_axis_off()
    return ax


def _columns(count: int) -> int:
    return 1 if count == 1 else 2 if count in (2, 4) else 3


def relevance_panels(
    mel: np.ndarray,
    heatmaps: np.ndarray,
    classes: Sequence[int],
    probabilities: np.ndarray | None = None,
    present: Sequence[int] = (),
) -> Figure:
    """One heatmap an instrument, all on one colour scale; those that play have a bold frame and a note.

    Parameters
    ----------
    mel : float32 (128, 431), dB
    heatmaps : float32 (n, 128, 431)
    classes : n instrument indices
    probabilities : float32 (12,), optional
        Written into the titles.
    present : instrument indices
        Those that play.
    """
    limit, columns = heatmap_limit(heatmaps), _columns(len(classes))
    rows = -(-len(classes) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(10, 0.5 + 2.3 * rows), squeeze=False, layout="constrained")
    for ax in axes.flat[len(classes) :]:
        ax.set_axis_off()
    for position, (index, heat, ax) in enumerate(zip(classes, heatmaps, axes.flat, strict=False)):
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


def ablation(effects: Sequence[Ablation]) -> Axes:
    """What :func:`instr_lib.naming.ablate` found: one line an instrument, its own channels and as many others."""
    ax = plt.subplots(figsize=(8, 1 + 0.4 * len(effects)), layout="constrained")[1]
    for y, effect in enumerate(effects):
        for interval, marker, colour, offset, label in (
            (effect.own, "o", "#d55e00", 0.12, "its own channels silenced"),
            (effect.others, "s", "#0072b2", -0.12, "as many others silenced"),
        ):
            ax.plot([interval.low, interval.high], [y + offset] * 2, c=colour)
            ax.plot(interval.value, y + offset, marker, c=colour, label=None if y else label)
    ax.axvline(0, c="grey", lw=0.8)
    ax.set_yticks(range(len(effects)), [f"{INSTRUMENTS[e.instrument].name} ({e.channels})" for e in effects])
    ax.set_xlabel("fall of the instrument's logit")
    if effects:
        ax.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    return ax
