"""The explorer: a page in which a reader chooses a clip and instruments and sees their relevance, without a kernel.

Everything that it can show is computed beforehand. A clip's spectrogram, its relevance for all twelve instruments and
through some channels, and the ownership of its cells are rows of one picture, each 431 pixels wide and 128 high, which
``static/explorer.js`` reads and colours. Sound and pictures are part of the page, because a page opened from a folder may
not load other files. Chapters 6 and 10 use it, and so does ``python -m instr_lib explain``.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from importlib import resources

import numpy as np
import torch
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
from .audio import data_url, sound_url
from .html import HTML, render

QUALITY = 45  # of the pictures, 0 to 100
NOISE = 0.11  # on the scale -1 to 1: what a picture of this quality adds where there was nothing
N_CHANNELS = 4  # to choose from, per instrument
_MAJORITY = 0.5  # share of a cell's power from which on the page says that an instrument has most of it


def page(
    model: torch.nn.Module,
    clips: Sequence[CuratedClip],
    layer: str = "conv5",
    names: Mapping[int, str] | None = None,
    first: int = 0,
) -> HTML:
    """The explorer over some clips, as one piece of HTML that needs nothing else.

    Parameters
    ----------
    model : OriginalCNN or CompactCNN
    clips : at least one
    layer : str
        A convolution; for each instrument that plays, the ``N_CHANNELS`` channels with the most relevance can be chosen.
    names : dict of channel to its name, optional
    first : int, index of the clip that is shown at the beginning

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
    except SynthError:  # without a soundfont there are no stems, and the page says nothing about ownership
        synth = None
    return _explorer([_clip_content(model, clip, layer, names or {}, synth) for clip in clips], first, "clips")


def recording_page(model: torch.nn.Module, recording: Recording, progress: bool = True) -> HTML:
    """The explorer over a recording, one window of 5 s at a time, with a timeline of the predictions.

    Parameters
    ----------
    model : network
    recording : Recording, from :func:`instr_lib.load_recording`
    progress : bool
    """
    predictions = predict_windows(model, recording)
    windows = zip(recording.windows(), *predictions, strict=True)
    contents = [
        _window_content(model, *window)
        for window in tqdm(windows, recording.name, len(predictions.starts), unit="window", disable=not progress)
    ]
    return _explorer(contents, 0, recording.name, HTML(timeline(predictions)))


def document(model: torch.nn.Module, recording: Recording, network: str, progress: bool = True) -> str:
    """:func:`recording_page` as the text of a whole HTML file. ``network``: the network's name."""
    explorer, minutes = recording_page(model, recording, progress), _clock(len(recording.audio) / SAMPLE_RATE)
    return render("report.html", name=recording.name, minutes=minutes, network=network, explorer=explorer).data + "\n"


def timeline(predictions: WindowPredictions) -> str:
    """The predictions along a recording as HTML: a row per instrument, a column per window, darker for more probable."""
    every = max(1, math.ceil(len(predictions.starts) / 8))
    columns = [
        {
            "title": f"{_clock(start)}: {_predicted(probabilities)}",
            "probabilities": probabilities.tolist(),
            "clock": _clock(start) if n % every == 0 else "",
        }
        for n, (start, probabilities) in enumerate(zip(predictions.starts, predictions.probabilities, strict=True))
    ]
    shares = (predictions.probabilities > THRESHOLD).mean(0)
    predicted = ", ".join(f"{i.name} in {share:.0%}" for i, share in zip(INSTRUMENTS, shares, strict=True) if share)
    label = f"Timeline of {len(columns)} windows. Heard: {predicted or 'nothing'} of them."
    return render("timeline.html", label=label, names=[i.name for i in INSTRUMENTS], columns=columns).data


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def _predicted(probabilities: np.ndarray) -> str:
    order = [i for i in np.argsort(-probabilities) if probabilities[i] > THRESHOLD]
    return ", ".join(f"{INSTRUMENTS[i].name} {probabilities[i]:.0%}" for i in order) or "none of the twelve"


# What static/explorer.js reads: a dictionary for each clip or window.


def _window_content(model, sound: np.ndarray, start: float, mel: np.ndarray, probabilities: np.ndarray) -> dict:
    rows, _, _ = _relevance_rows(model, mel)
    return {
        "name": f"{_clock(start)} to {_clock(start + CLIP_SECONDS)}: {_predicted(probabilities)}",
        # chosen at the beginning
        "plays": np.flatnonzero(probabilities > THRESHOLD).tolist() or [int(probabilities.argmax())],
        "unknown": True,  # which instruments really play
        "probabilities": _rounded(probabilities),
        "own": {},
        "owners": [],
        "ways": [],
        "picture": _picture(rows),
        "sound": sound_url(sound),
    }


def _clip_content(model, clip: CuratedClip, layer: str, names: Mapping[int, str], synth: Synth | None) -> dict:
    instruments = list(clip.score.instruments)
    rows, heatmaps, limit = _relevance_rows(model, clip.mel)
    ways, own, owners = [], {}, []
    for index in instruments:
        for text, heatmap in _channels(model, clip.mel, index, layer, names):
            ways.append({"instrument": index, "row": len(rows), "text": text})
            rows.append(_signed_bytes(heatmap, limit))
    if synth is not None:
        for index, share in zip(instruments, ownership(synth.render_stems(clip.score)), strict=True):
            positive = heatmaps[index].clip(min=0)
            own[index] = round(float(positive[share > _MAJORITY].sum() / max(positive.sum(), 1e-12)), 4)
            if len(instruments) > 1:
                owners.append(len(rows))
                rows.append(np.rint(255 * share).astype(np.uint8))
    return {
        "name": clip.name,
        "plays": instruments,
        "probabilities": _rounded(predict(model, clip.mel[None])[0]),
        "own": own,
        "owners": owners,
        "ways": ways,
        "picture": _picture(rows),
        "sound": sound_url(clip.audio),
    }


def _channels(model, mel: np.ndarray, index: int, layer: str, names: Mapping[int, str]):
    """The channels with the most relevance for an instrument: a text and a heatmap (128, 431) each."""
    sums = channel_relevance(model, mel, index, layer)
    channels = np.argsort(-sums)[:N_CHANNELS]
    heatmaps, _ = concept_relevance(model, mel, index, layer, channels)
    for channel, heatmap in zip(channels.tolist(), heatmaps, strict=True):
        name = f", “{names[channel]}”" if channel in names else ""
        share = 100 * sums[channel] / sums.clip(min=0).sum()
        yield f"channel {channel} of {layer}{name}: {share:.0f} % of what speaks for it", heatmap


def _relevance_rows(model, mel: np.ndarray) -> tuple[list[np.ndarray], np.ndarray, float]:
    """The first rows of a picture: spectrogram and relevance for each instrument; the heatmaps and their scale's end."""
    heatmaps = relevance(model, mel[None], range(len(INSTRUMENTS)))
    limit = plots.heatmap_limit(heatmaps)
    return [quantise(mel), *(_signed_bytes(heatmap, limit) for heatmap in heatmaps)], heatmaps, limit


def _signed_bytes(heatmap: np.ndarray, limit: float) -> np.ndarray:
    """Signed relevance to bytes: 128 + 127 times the signed root of its share of the scale."""
    return np.rint(128 + 127 * np.sign(heatmap) * np.sqrt(np.clip(np.abs(heatmap) / limit, 0, 1))).astype(np.uint8)


def _picture(rows: list[np.ndarray]) -> str:
    """Rows uint8 (128, 431) below each other, as a data URL of a WebP."""
    file = io.BytesIO()
    Image.fromarray(np.concatenate(rows)).save(file, "WEBP", quality=QUALITY, method=4)
    return data_url("image/webp", file)


def _rounded(probabilities: np.ndarray) -> list[float]:
    return [round(float(p), 4) for p in probabilities]


def _explorer(contents: list[dict], first: int, topic: str, above: HTML | None = None) -> HTML:
    static = resources.files(__package__) / "static"
    style, script = (HTML(static.joinpath(f"explorer.{ending}").read_text("utf-8")) for ending in ("css", "js"))
    instruments = [{"name": i.name, "colour": c} for i, c in zip(INSTRUMENTS, plots.OVERLAY_COLOURS, strict=True)]
    bands, labels = plots.frequency_ticks()
    labels[0] += " Hz"
    ticks = [{"percent": 100 * (band + 0.5) / N_MELS, "label": t} for band, t in zip(bands, labels, strict=True)]
    content = {
        "bands": N_MELS,
        "frames": N_FRAMES,
        "seconds": CLIP_SECONDS,
        "noise": NOISE,
        "first": first,
        "hz": [round(float(hz), 1) for hz in band_frequencies()],
        "for": _rgb(plots.FOR),
        "against": _rgb(plots.AGAINST),
        "instruments": [{"name": i["name"], "rgb": _rgb(i["colour"])} for i in instruments],
        "clips": contents,
    }
    return render(
        "explorer.html",
        style=style,
        script=script,
        label=f"Explorer of {topic}",  # a screen reader distinguishes two on one page by it
        timeline=above,
        instruments=instruments,
        ticks=ticks,
        content=content,
    )


def _rgb(colour: str) -> list[int]:
    return [round(255 * part) for part in to_rgb(colour)]
