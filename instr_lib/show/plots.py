"""Figures. Functions draw into ``ax`` (a new one if it is not given) and return it; those with panels return a figure.

Spectrograms and heatmaps share axes in seconds and Hz; the frequency axis is linear in mel bands and labelled in Hz. Signed
relevance is red for, blue against, white for nothing, on one scale wherever panels are compared. All chapters use them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
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
from ..stats import Interval

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
# The same for use over a spectrogram in grey, from which black and grey could not be told.
OVERLAY_COLOURS = tuple({"#000000": "#4B00E0", "#888888": "#E8C500"}.get(colour, colour) for colour in COLOURS)
BLUE, ORANGE = COLOURS[5], COLOURS[6]  # of two things that are compared
FOR, AGAINST = "#b2182b", "#2166ac"  # towards the ends of the colour map of signed relevance
RELEVANCE_MAP = "RdBu_r"
_TICKS_HZ = (100, 500, 1000, 2000, 4000, 8000, 16000)


def score_plane(
    ax: Axes,
    points: Mapping[str, tuple[Interval, Interval]],
    colours: Mapping[str, str],
    marker: str = "o",
    named: Collection[str] = (),
):
    """Two scores of each method, one on each axis, with their intervals. Chapter 7 uses it.

    Parameters
    ----------
    points : by name of the method, its scores on the horizontal and on the vertical axis
    colours : by name of the method
    named : names that are written beside their points
    """
    for name, (x, y) in points.items():
        colour = colours[name]
        ax.plot([x.low, x.high], [y.value, y.value], c=colour, lw=0.7)
        ax.plot([x.value, x.value], [y.low, y.high], c=colour, lw=0.7)
        ax.plot(x.value, y.value, marker, c=colour, ms=6)
        if name in named:
            ax.annotate(name, (x.value, y.value), (4, 3), textcoords="offset points", fontsize="x-small")


def frequency_ticks() -> tuple[np.ndarray, list[str]]:
    """Ticks of the frequency axis: positions in mel bands, counted from 0, and labels in Hz."""
    bands = np.interp(_TICKS_HZ, band_frequencies(), np.arange(N_MELS))
    return bands, [f"{hz:g}" if hz < 1000 else f"{hz / 1000:g} k" for hz in _TICKS_HZ]


def label_axes(ax: Axes, frequency: bool = True, time: bool = True):
    """Seconds and Hz for an image of the spectrogram's cells; either can be left blank."""
    bands, labels = frequency_ticks()
    ax.set_yticks(bands, labels if frequency else [])
    ax.set(xlim=(0, CLIP_SECONDS), ylim=(-0.5, N_MELS - 0.5))
    ax.set_ylabel("frequency (Hz)" if frequency else "")
    ax.set_xlabel("time (s)" if time else "")
    if not time:
        ax.set_xticklabels([])


def _new_axes(width: float = 8, height: float = 3) -> Axes:
    return plt.subplots(figsize=(width, height), layout="constrained")[1]


def _image(ax: Axes, cells: np.ndarray, **options):
    extent = (0, CLIP_SECONDS, -0.5, N_MELS - 0.5)
    return ax.imshow(cells, origin="lower", aspect="auto", extent=extent, interpolation="nearest", **options)


def _box(padding: float, **colours) -> dict:
    return {"boxstyle": f"round,pad={padding}", "fc": "white", "ec": "none"} | colours


def piano_roll(score: Score, ax: Axes | None = None) -> Axes:
    """Notes as bars, pitch against time; opacity is velocity."""
    ax = ax or _new_axes(height=2.8)
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
    """Cells of the spectrogram in given colours: names of colours (128, 431)."""
    ax = ax or _new_axes()
    names, indices = np.unique(colours, return_inverse=True)
    _image(ax, to_rgba_array(names)[indices.reshape(colours.shape)])
    label_axes(ax)
    return ax


def spectrogram(mel: np.ndarray, ax: Axes | None = None, colorbar: bool = True) -> Axes:
    """A log-mel spectrogram (128, 431) in dB."""
    ax = ax or _new_axes()
    image = _image(ax, mel, cmap="magma", vmin=FLOOR_DB, vmax=0)
    if colorbar:
        ax.figure.colorbar(image, ax=ax, label="level (dB)")
    label_axes(ax)
    return ax


def heatmap_limit(heatmaps: np.ndarray) -> float:
    """The end of the colour scale for heatmaps that are compared: the 99.8th percentile of their absolute relevance.

    Relevance is so peaked that with the maximum nearly everything would be white.
    """
    return float(np.percentile(np.abs(heatmaps), 99.8)) or 1.0


def heatmap(heat: np.ndarray, mel: np.ndarray | None = None, ax: Axes | None = None, limit: float | None = None) -> Axes:
    """Signed relevance (128, 431), over the spectrogram in grey if it is given."""
    ax = ax or _new_axes()
    scaled = np.clip(heat / (limit or heatmap_limit(heat)), -1, 1)
    if mel is None:
        _image(ax, scaled, cmap=RELEVANCE_MAP, vmin=-1, vmax=1)
    else:
        _image(ax, mel, cmap="Greys", vmin=FLOOR_DB, vmax=30)  # never darker than a mid grey
        _image(ax, scaled, cmap=RELEVANCE_MAP, vmin=-1, vmax=1, alpha=np.sqrt(np.abs(scaled)))
    label_axes(ax)
    return ax


def smooth(heat: np.ndarray, bands: float = 1.0, frames: float = 2.0) -> np.ndarray:
    """Relevance (128, 431) smoothed by a Gaussian; its standard deviations in bands and frames."""
    return gaussian_filter(heat, (bands, frames))


def _panels(count: int, columns: int, height: float, extra: float = 0.0) -> tuple[Figure, np.ndarray]:
    """A figure 10 inches wide and its first ``count`` axes; ``height`` is that of a row."""
    rows = -(-count // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(10, extra + height * rows), squeeze=False, layout="constrained")
    for ax in axes.flat[count:]:
        ax.set_axis_off()
    return figure, axes.flat[:count]


def crops(samples: Sequence[tuple[ReferenceSample, np.ndarray, np.ndarray]]) -> Figure:
    """Reference samples side by side, cut to their receptive fields: each with its clip's spectrogram and relevance."""
    columns = min(4, len(samples))
    figure, axes = _panels(len(samples), columns, 2.7)
    for number, ((sample, mel, heat), ax) in enumerate(zip(samples, axes, strict=True), 1):
        bands, frames = sample.field
        heatmap(heat, mel, ax, float(np.abs(heat[bands, frames]).max()) or 1.0)
        start, stop = (x * CLIP_SECONDS / mel.shape[1] for x in (frames.start, frames.stop))
        ax.set(xlim=(start, stop), ylim=(bands.start - 0.5, bands.stop - 0.5))
        ax.set_ylabel("frequency (Hz)" if (number - 1) % columns == 0 else "")
        ax.locator_params(axis="x", nbins=3)
        name = "" if sample.instrument is None else f": {INSTRUMENTS[sample.instrument].name}"
        ax.set_title(f"{number}{name}", fontsize="medium")
    return figure


def relevance_panels(
    mel: np.ndarray,
    heatmaps: np.ndarray,
    classes: Sequence[int],
    probabilities: np.ndarray | None = None,
    present: Sequence[int] = (),
) -> Figure:
    """One heatmap per instrument, all on one colour scale; instruments that play have a bold frame and a note.

    Parameters
    ----------
    mel : float32 (128, 431), dB
    heatmaps : float32 (n, 128, 431)
    classes : n instrument indices
    probabilities : float32 (12,), optional
        For the titles.
    present : indices of the instruments that play
    """
    limit, count = heatmap_limit(heatmaps), len(classes)
    columns = 1 if count == 1 else 2 if count in (2, 4) else 3
    figure, axes = _panels(count, columns, 2.3, extra=0.5)
    for position, (index, heat, ax) in enumerate(zip(classes, heatmaps, axes, strict=True)):
        heatmap(heat, mel, ax, limit)
        label_axes(ax, frequency=position % columns == 0, time=position + columns >= count)
        plays = index in present
        title = ("♪ " if plays else "") + INSTRUMENTS[index].name
        if probabilities is not None:
            title += f"  {probabilities[index]:.2f}"
        ax.set_title(title, fontsize="medium", fontweight="bold" if plays else "normal")
        for spine in ax.spines.values() if plays else ():
            spine.set_linewidth(2.5)
    scale = plt.cm.ScalarMappable(plt.Normalize(-1, 1), RELEVANCE_MAP)
    figure.colorbar(scale, ax=figure.axes, shrink=0.6, ticks=[-1, 0, 1]).set_ticklabels(["against", "0", "for"])
    return figure


def attribution_graph(edges: Sequence[Edge], ax: Axes | None = None) -> Axes:
    """The graph of :func:`instr_lib.explain.concepts.attribution_graph`, from the logit down to the first convolution."""
    levels: dict[str, list[tuple[str, int]]] = {}
    for edge in edges:
        for node in (edge.source, edge.target):
            if node not in levels.setdefault(node[0], []):
                levels[node[0]].append(node)
    positions = {}
    for level, nodes in enumerate(levels.values()):
        positions |= {node: ((n + 0.5) / len(nodes), -level) for n, node in enumerate(nodes)}
    ax = ax or _new_axes(height=1.1 * len(levels))
    # Relative to the level's largest, because further down a logit spreads over ever more channels.
    largest = {layer: max(abs(e.relevance) for e in edges if e.target[0] == layer) for layer, _ in positions if layer}
    share = lambda edge: abs(edge.relevance) / largest[edge.target[0]]  # noqa: E731
    for edge in sorted(edges, key=share):
        (x0, y0), (x1, y1) = positions[edge.source], positions[edge.target]
        style = {"lw": 0.4 + 7 * share(edge), "alpha": 0.25 + 0.6 * share(edge), "zorder": 1}
        ax.plot([x0, x1], [y0, y1], c=_sign_colour(edge.relevance), **style)
        if share(edge) > 0.6:
            text = f"{100 * edge.relevance:.2g} %"
            style = {"fontsize": "small", "ha": "center", "va": "center", "bbox": _box(0.15, alpha=0.85), "zorder": 2}
            ax.text((2 * x0 + 3 * x1) / 5, (2 * y0 + 3 * y1) / 5, text, **style)
    for (layer, index), (x, y) in positions.items():
        text = str(index) if layer else INSTRUMENTS[index].name
        ax.text(x, y, text, ha="center", va="center", zorder=3, bbox=_box(0.4, ec="black"))
    for level, layer in enumerate(levels):
        ax.text(-0.02, -level, layer or "logit", ha="right", va="center")
    ax.set(xlim=(-0.1, 1), ylim=(0.5 - len(levels), 0.5))
    ax.set_axis_off()
    return ax


def _sign_colour(relevance: float) -> str:
    return FOR if relevance > 0 else AGAINST


def flow(names: Sequence[Sequence[str]], messages: Sequence[np.ndarray], start: np.ndarray, ax: Axes | None = None) -> Axes:
    """Relevance on every connection of a network small enough to draw, from the logit at the top down to the cells.

    Parameters
    ----------
    names : the nodes of each level, from the top
    messages : one matrix (nodes above, nodes below) from each level to the next
        The relevance that each node passes to each. What it does not pass on is its bias's, and is written beside it.
    start : (nodes,)
        Relevance of the nodes at the top.
    ax : Axes, optional
    """
    ax = ax or _new_axes(6.5, 6.5)
    positions = [[((n + 0.5) / len(level), -depth) for n in range(len(level))] for depth, level in enumerate(names)]
    largest = max(np.abs(matrix).max() for matrix in messages)
    relevance = np.asarray(start, float)
    for depth, level in enumerate(names):
        for name, value, (x, y) in zip(level, relevance, positions[depth], strict=True):
            label = f"{name}\n{value + 0:.3g}"  # + 0: never "-0"
            ax.text(x, y, label, ha="center", va="center", zorder=3, bbox=_box(0.35, ec="black"))
        if depth < len(messages):
            _draw_messages(ax, positions[depth], positions[depth + 1], messages[depth], relevance, largest)
            relevance = messages[depth].sum(0)
    ax.set(xlim=(0, 1), ylim=(0.6 - len(names), 0.4))
    ax.set_axis_off()
    return ax


def _draw_messages(ax: Axes, above: list, below: list, matrix: np.ndarray, relevance: np.ndarray, largest: float):
    """Lines from each node above to each below with the relevance that is passed, and what biases keep."""
    for n, (x, y) in enumerate(above):
        bias = relevance[n] - matrix[n].sum()
        if abs(bias) > 1e-4 * largest:
            style = {"fontsize": "small", "c": "#555555", "ha": "center", "bbox": _box(0.1), "zorder": 2}
            ax.text(x + 0.065, y + 0.19, f"bias {bias:.3g}", **style)
        for m in np.flatnonzero(np.abs(matrix[n]) > 1e-4 * largest):
            (x1, y1), message = below[m], matrix[n, m]
            colour = _sign_colour(message)
            ax.plot([x, x1], [y, y1], c=colour, lw=1 + 7 * abs(message) / largest, alpha=0.7, zorder=1)
            far = 0.6 if n % 2 else 0.4  # numbers on lines that cross stay apart
            style = {"c": colour, "ha": "center", "va": "center", "bbox": _box(0.1), "zorder": 2}
            ax.text(x + far * (x1 - x), y + far * (y1 - y), f"{message:.3g}", **style)


def ablation(effects: Sequence[Ablation], ax: Axes | None = None) -> Axes:
    """The result of :func:`instr_lib.explain.dissection.ablate`: per instrument, its own channels and as many others."""
    ax = ax or _new_axes(height=1 + 0.4 * len(effects))
    for y, effect in enumerate(effects):
        for interval, marker, colour, offset, label in (
            (effect.own, "o", ORANGE, 0.12, "its own channels set to zero"),
            (effect.others, "s", BLUE, -0.12, "as many others set to zero"),
        ):
            ax.plot([interval.low, interval.high], [y + offset] * 2, c=colour)
            ax.plot(interval.value, y + offset, marker, c=colour, label=None if y else label)
    ax.axvline(0, c="grey", lw=0.8)
    ax.set_yticks(range(len(effects)), [f"{INSTRUMENTS[e.instrument].name} ({e.channels})" for e in effects])
    ax.set_xlabel("fall of the instrument's logit")
    if effects:
        ax.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    return ax
