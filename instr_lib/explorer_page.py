"""The explorer that works in a page without a kernel: everything it can show is computed beforehand.

A clip's spectrogram, its relevance for all twelve instruments and through some channels, and who owns which cell are
rows of one picture, 431 pixels wide and 128 high each; ``static/explorer.js`` reads and colours them. Sound and
pictures are in the page itself, because a page opened as a file may not load anything.
"""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Mapping, Sequence
from importlib import resources

import numpy as np
import torch
from IPython.display import HTML
from matplotlib.colors import to_rgb
from PIL import Image

from . import plots
from .concepts import channel_relevance, check_channels, concept_relevance
from .curated import CuratedClip
from .errors import InputError, SynthError
from .evaluation import predict
from .explorer import sound_url
from .instruments import INSTRUMENTS
from .relevance import relevance
from .score import CLIP_SECONDS
from .spectrogram import N_FRAMES, N_MELS, band_frequencies, quantise
from .synth import Synth
from .truth import ownership

QUALITY = 45  # of the pictures, 0 to 100
# Those of all figures, but for black and grey, which could not be told from the spectrogram.
_COLOURS = ["#4B00E0", *plots.COLOURS[1:-1], "#E8C500"]
NOISE = 0.11  # on the scale -1 to 1: what a picture of this quality adds where there was nothing


def page(
    model: torch.nn.Module,
    clips: Sequence[CuratedClip],
    layer: str = "conv5",
    n_channels: int = 4,
    names: Mapping[int, str] | None = None,
    first: int = 0,
) -> HTML:
    """The explorer over some clips, as one piece of HTML that needs nothing else.

    Parameters
    ----------
    model : OriginalCNN or CompactCNN
    clips : at least one
    layer : convolution whose channels can be chosen
    n_channels : int
        For each instrument that plays, so many channels: those with the most relevance.
    names : dict of channel to its name, optional
    first : the clip to begin with

    Raises
    ------
    InputError
        If there are no clips, or no such layer.
    """
    check_channels(model, layer)
    if not clips:
        raise InputError("there are no clips to explore: give at least one, such as il.curated_clips()")
    try:
        synth = Synth()
    except SynthError:  # without a soundfont nobody owns a cell, and the page does not speak of it
        synth = None
    content = {
        "bands": N_MELS,
        "frames": N_FRAMES,
        "seconds": CLIP_SECONDS,
        "noise": NOISE,
        "first": first,
        "hz": [round(float(hz), 1) for hz in band_frequencies()],
        "instruments": [
            {"name": i.name, "rgb": [round(255 * part) for part in to_rgb(colour)]}
            for i, colour in zip(INSTRUMENTS, _COLOURS, strict=True)
        ],
        "clips": [_clip(model, clip, layer, n_channels, names or {}, synth) for clip in clips],
    }
    data = json.dumps(content, separators=(",", ":")).replace("</", "<\\/")
    static = resources.files(__package__) / "static"
    style, script = (static.joinpath(f"explorer.{ending}").read_text() for ending in ("css", "js"))
    return HTML(
        f'<style>{style}</style><section class="ex" aria-label="Explorer of relevance">{_CONTROLS}'
        f'<script type="application/json" class="ex-data">{data}</script><script>{script}</script></section>'
    )


def _clip(model, clip: CuratedClip, layer: str, n_channels: int, names: Mapping[int, str], synth: Synth | None) -> dict:
    plays = list(clip.score.instruments)
    heats = relevance(model, clip.mel[None], range(len(INSTRUMENTS)))
    limit = plots.heatmap_limit(heats)
    rows, ways = [quantise(clip.mel), *(_bytes(heat, limit) for heat in heats)], []
    for index in plays:
        sums = channel_relevance(model, clip.mel, index, layer)
        top = np.argsort(-sums)[:n_channels]
        for channel, part in zip(top.tolist(), concept_relevance(model, clip.mel, index, layer, top)[0], strict=True):
            called = f", “{names[channel]}”" if channel in names else ""
            share = 100 * sums[channel] / sums.clip(min=0).sum()
            text = f"channel {channel} of {layer}{called}: {share:.0f} % of what speaks for it"
            ways.append({"instrument": index, "row": len(rows), "text": text})
            rows.append(_bytes(part, limit))
    owned, owners = {}, []
    if synth is not None:
        shares = ownership(synth.render_stems(clip.score))
        for index, share in zip(plays, shares, strict=True):
            positive = heats[index].clip(min=0)
            owned[index] = round(float(positive[share > 0.5].sum() / max(positive.sum(), 1e-12)), 4)
            if len(plays) > 1:
                owners.append(len(rows))
                rows.append(np.rint(255 * share).astype(np.uint8))
    packed = io.BytesIO()
    Image.fromarray(np.concatenate(rows)).save(packed, "WEBP", quality=QUALITY, method=6)
    return {
        "name": clip.name,
        "plays": plays,
        "probabilities": [round(float(p), 4) for p in predict(model, clip.mel[None])[0]],
        "own": owned,
        "owners": owners,
        "ways": ways,
        "picture": f"data:image/webp;base64,{base64.b64encode(packed.getvalue()).decode()}",
        "sound": sound_url(clip.audio),
    }


def _bytes(heat: np.ndarray, limit: float) -> np.ndarray:
    """Signed relevance to bytes: 128 + 127 times the signed root of its share of the scale."""
    return np.rint(128 + 127 * np.sign(heat) * np.sqrt(np.clip(np.abs(heat) / limit, 0, 1))).astype(np.uint8)


def _controls() -> str:
    boxes = "".join(
        f'<label><input type="checkbox" value="{index}"><i style="background:{colour}"></i>'
        f'<span>{html.escape(i.name)}<span class="ex-chance"></span></span></label>'
        for index, (i, colour) in enumerate(zip(INSTRUMENTS, _COLOURS, strict=True))
    )
    labels = {100: "100 Hz", 500: "500", 1000: "1 k", 2000: "2 k", 4000: "4 k", 8000: "8 k", 16000: "16 k"}
    heights = 100 * (np.interp(list(labels), band_frequencies(), np.arange(N_MELS)) + 0.5) / N_MELS
    ticks = "".join(f'<span style="bottom:{y:.1f}%">{t}</span>' for y, t in zip(heights, labels.values(), strict=True))
    seconds = "".join(f"<span>{second} s</span>" for second in range(int(CLIP_SECONDS) + 1))
    return (
        '<div class="ex-bar"><label>Clip <select class="ex-clip"></select></label></div>'
        "<fieldset><legend>Ask about (♪ plays; % the network’s answer)</legend>"
        f'<div class="ex-instruments">{boxes}</div></fieldset>'
        '<div class="ex-bar"><label>Through <select class="ex-way"></select></label>'
        '<label>Opacity <input class="ex-opacity" type="range" min="0" max="100" value="85"></label></div>'
        f'<div class="ex-plot"><div class="ex-hz" aria-hidden="true">{ticks}</div><div class="ex-stage">'
        f'<canvas class="ex-picture" width="{N_FRAMES}" height="{N_MELS}" tabindex="0" role="img"></canvas>'
        '<div class="ex-playhead"></div><div class="ex-mark" hidden></div></div>'
        f'<div class="ex-s" aria-hidden="true">{seconds}</div></div>'
        '<audio class="ex-sound" controls preload="auto"></audio>'
        '<output class="ex-says" aria-live="polite"></output><output class="ex-pointer" aria-live="polite"></output>'
    )


_CONTROLS = _controls()
