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
import math
from collections.abc import Mapping, Sequence
from importlib import resources

import numpy as np
import torch
from IPython.display import HTML
from matplotlib.colors import to_rgb
from PIL import Image
from tqdm.auto import tqdm

from ..constants import CLIP_SECONDS, N_FRAMES, N_MELS, SAMPLE_RATE
from ..data.recordings import Recording
from ..data.spectrogram import band_frequencies, quantise
from ..errors import InputError, SynthError
from ..explain.attribution import relevance
from ..explain.concepts import channel_relevance, check_channels, concept_relevance
from ..music.instruments import INSTRUMENTS
from ..music.synth import Synth
from ..networks.evaluation import THRESHOLD, WindowPredictions, predict, predict_windows
from ..samples.curated import CuratedClip
from ..truth.stems import ownership
from . import plots
from .audio import sound_url

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
    return _section([_clip(model, clip, layer, n_channels, names or {}, synth) for clip in clips], first, "clips")


def recording_page(model: torch.nn.Module, recording: Recording, progress: bool = True) -> HTML:
    """The explorer over a recording of one's own, a window of 5 s at a time, with a timeline of what is heard.

    Parameters
    ----------
    model : network
    recording : Recording, from :func:`instr_lib.listening.read`
    progress : bool, show a progress bar
    """
    heard = predict_windows(model, recording)
    windows = zip(recording.windows(), heard.starts, heard.mels, heard.probabilities, strict=True)
    content = [
        _window(model, sound, start, mel, probabilities)
        for sound, start, mel, probabilities in tqdm(
            windows, recording.name, len(heard.starts), unit="window", disable=not progress
        )
    ]
    return _section(content, 0, recording.name, timeline(heard))


def timeline(heard: WindowPredictions) -> str:
    """What is heard along a recording, as HTML: a row an instrument, a column a window, darker for surer."""
    every = max(1, math.ceil(len(heard.starts) / 8))
    columns, sure = [], []
    for n, (start, probabilities) in enumerate(zip(heard.starts, heard.probabilities, strict=True)):
        cells = "".join(f'<i style="opacity:{p:.2f}"></i>' for p in probabilities)
        clock = f"<small>{_clock(start)}</small>" if n % every == 0 else "<small></small>"
        columns.append(f'<div class="ex-column" title="{_clock(start)}: {_heard(probabilities)}">{cells}{clock}</div>')
    for i, instrument in enumerate(INSTRUMENTS):
        if share := float((heard.probabilities[:, i] > THRESHOLD).mean()):
            sure.append(f"{instrument.name} in {share:.0%}")
    names = "".join(f"<b>{html.escape(instrument.name)}</b>" for instrument in INSTRUMENTS)
    says = f"Timeline of {len(columns)} windows. Heard: {', '.join(sure) or 'nothing'} of them."
    return (
        f'<div class="ex-timeline" role="img" aria-label="{html.escape(says)}">'
        f'<div class="ex-names">{names}</div>{"".join(columns)}</div>'
    )


def document(model: torch.nn.Module, recording: Recording, called: str, progress: bool = True) -> str:
    """:func:`recording_page` as a whole HTML file that needs nothing else. ``called``: the network's name."""
    title, body = html.escape(recording.name), recording_page(model, recording, progress).data
    seconds = len(recording.audio) / SAMPLE_RATE
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>What is heard in '
        f'{title}</title><meta name="viewport" content="width=device-width, initial-scale=1"><style>{_PAGE_CSS}</style>'
        f"</head><body><main><h1>{title}</h1><p>{_clock(seconds)} minutes, as the network <em>{html.escape(called)}"
        "</em> hears them, 5 s at a time. It knows twelve instruments and takes all sound for one or more of them, or "
        "none. In the timeline, darker is surer. Choose a window and instruments: red spoke <em>for</em> it, blue "
        f"<em>against</em> it; with several instruments, each has its colour.</p>{body}</main></body></html>\n"
    )


_PAGE_CSS = (
    ":root{color-scheme:light dark}body{font:1rem/1.5 system-ui,sans-serif;margin:0}"
    "main{max-width:56rem;margin:0 auto;padding:1rem}h1{font-size:1.4rem;overflow-wrap:anywhere}"
)


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def _heard(probabilities: np.ndarray) -> str:
    order = [i for i in np.argsort(-probabilities) if probabilities[i] > THRESHOLD]
    return ", ".join(f"{INSTRUMENTS[i].name} {probabilities[i]:.0%}" for i in order) or "none of the twelve"


def _window(model, sound: np.ndarray, start: float, mel: np.ndarray, probabilities: np.ndarray) -> dict:
    heatmaps = relevance(model, mel[None], range(len(INSTRUMENTS)))
    limit = plots.heatmap_limit(heatmaps)
    rows = [quantise(mel), *(_bytes(heat, limit) for heat in heatmaps)]
    heard = np.flatnonzero(probabilities > THRESHOLD).tolist() or [int(probabilities.argmax())]
    return {
        "name": f"{_clock(start)} to {_clock(start + CLIP_SECONDS)}: {_heard(probabilities)}",
        "plays": heard,  # these are chosen to begin with
        "unknown": True,  # nobody knows what really plays
        "probabilities": [round(float(p), 4) for p in probabilities],
        "own": {},
        "owners": [],
        "ways": [],
        "picture": _picture(rows),
        "sound": sound_url(sound),
    }


def _section(clips: list[dict], first: int, of: str, above: str = "") -> HTML:
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
        "clips": clips,
    }
    data = json.dumps(content, separators=(",", ":")).replace("</", "<\\/")
    static = resources.files(__package__) / "static"
    style, script = (static.joinpath(f"explorer.{ending}").read_text() for ending in ("css", "js"))
    label = html.escape(f"Explorer of {of}")  # a screen reader tells two on one page by it
    return HTML(
        f'<style>{style}</style><section class="ex{" ex-plain" * bool(above)}" aria-label="{label}">'
        f"{above}{_CONTROLS}"
        f'<script type="application/json" class="ex-data">{data}</script><script>{script}</script></section>'
    )


def _clip(model, clip: CuratedClip, layer: str, n_channels: int, names: Mapping[int, str], synth: Synth | None) -> dict:
    plays = list(clip.score.instruments)
    heatmaps = relevance(model, clip.mel[None], range(len(INSTRUMENTS)))
    limit = plots.heatmap_limit(heatmaps)
    rows, ways = [quantise(clip.mel), *(_bytes(heat, limit) for heat in heatmaps)], []
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
            positive = heatmaps[index].clip(min=0)
            owned[index] = round(float(positive[share > 0.5].sum() / max(positive.sum(), 1e-12)), 4)
            if len(plays) > 1:
                owners.append(len(rows))
                rows.append(np.rint(255 * share).astype(np.uint8))
    return {
        "name": clip.name,
        "plays": plays,
        "probabilities": [round(float(p), 4) for p in predict(model, clip.mel[None])[0]],
        "own": owned,
        "owners": owners,
        "ways": ways,
        "picture": _picture(rows),
        "sound": sound_url(clip.audio),
    }


def _picture(rows: list[np.ndarray]) -> str:
    """Rows uint8 (128, 431) below each other, as a URL that carries a WebP in itself."""
    packed = io.BytesIO()
    Image.fromarray(np.concatenate(rows)).save(packed, "WEBP", quality=QUALITY, method=4)
    return f"data:image/webp;base64,{base64.b64encode(packed.getvalue()).decode()}"


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
        '<div class="ex-bar"><label class="ex-through">Through <select class="ex-way"></select></label>'
        '<label>Opacity <input class="ex-opacity" type="range" min="0" max="100" value="85"></label></div>'
        f'<div class="ex-plot"><div class="ex-hz" aria-hidden="true">{ticks}</div><div class="ex-stage">'
        f'<canvas class="ex-picture" width="{N_FRAMES}" height="{N_MELS}" tabindex="0" role="img"></canvas>'
        '<div class="ex-playhead"></div><div class="ex-mark" hidden></div></div>'
        f'<div class="ex-s" aria-hidden="true">{seconds}</div></div>'
        '<audio class="ex-sound" controls preload="auto"></audio>'
        '<output class="ex-says" aria-live="polite"></output><output class="ex-pointer" aria-live="polite"></output>'
    )


_CONTROLS = _controls()
