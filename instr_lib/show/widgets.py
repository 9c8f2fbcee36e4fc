"""Sound players for pages, and widget panels for a live kernel."""

from __future__ import annotations

import functools
import html
import io
import tempfile
from pathlib import Path

import ipywidgets as widgets
import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import HTML, display

from ..data.dataset import ClipDataset
from ..data.recordings import load_recording
from ..data.spectrogram import log_mel
from ..errors import InstrError
from ..explain.attribution import relevance
from ..explain.concepts import channel_relevance, concept_relevance, convolutions
from ..explain.maximisation import ChannelStats, crop_sound, reference_samples
from ..music.instruments import INSTRUMENTS
from ..music.score import random_score
from ..music.synth import Synth
from ..networks.evaluation import predict
from ..samples.curated import CuratedClip
from . import plots
from .audio import audio_players, player

_NAMES = [(instrument.name, index) for index, instrument in enumerate(INSTRUMENTS)]


def show_reference_samples(
    model: torch.nn.Module,
    stats: ChannelStats,
    ds: ClipDataset,
    synth: Synth,
    layer: str,
    channel: int,
    by: str = "relevance",
    instrument: int | str | None = None,
    count: int = 4,
) -> HTML:
    """Draw the places at which a channel peaks, as the current figure, and return players of what sounds there.

    Parameters
    ----------
    model, stats, layer, channel, by, count, instrument
        As for :func:`instr_lib.concepts.references`. Relevance is for the instrument found there; for places found by
        activation, for the one of those that play whose answer uses the channel most.
    ds : ClipDataset, the one that the statistics are of
    synth : Synth
    """
    shown, sounds = [], []
    for neuron in reference_samples(model, stats, layer, channel, by, count, instrument):
        mel, score = ds.mels([neuron.clip])[0], ds.score(neuron.clip)
        if neuron.instrument is None:
            through = [channel_relevance(model, mel, index, layer)[channel] for index in score.instruments]
            neuron = neuron._replace(instrument=score.instruments[int(np.argmax(through))])
        parts, _ = concept_relevance(model, mel, neuron.instrument, layer, [channel])
        shown.append((neuron, mel, parts[0]))
        sounds.append(crop_sound(synth.render(score), neuron.field))
    plots.crops(shown)
    return audio_players(*((sound, f"{layer}, channel {channel}: {n}") for n, sound in enumerate(sounds, 1)))


def _picture(draw) -> widgets.Image:
    """What ``draw()`` leaves as the current figure, as a PNG widget."""
    with plt.ioff():
        figure = draw()
        packed = io.BytesIO()
        figure.savefig(packed, format="png", dpi=90)
        plt.close(figure)
    return widgets.Image(value=packed.getvalue(), format="png", layout=widgets.Layout(max_width="100%"))


def _panel(controls: list[widgets.Widget], content) -> widgets.VBox:
    """Controls above, what ``content(*values)`` returns below, redone when a control changes.

    Bad input shows as a sentence where the content would be.
    """
    below = widgets.VBox()

    def update(_=None):
        try:
            below.children = content(*(control.value for control in controls))
        except InstrError as error:
            below.children = [widgets.HTML(f"<p><em>{html.escape(str(error))}</em></p>")]

    for control in controls:
        control.observe(update, "value")
    update()
    return widgets.VBox([widgets.HBox(controls, layout=widgets.Layout(flex_flow="row wrap")), below])


def _several(value) -> widgets.SelectMultiple:
    return widgets.SelectMultiple(options=_NAMES, value=value, rows=6, description="instruments")


def composer(synth: Synth) -> widgets.VBox:
    """A panel that draws a random score for chosen instruments: piano roll, sound, spectrogram."""

    def content(instruments, seed):
        score = random_score(np.random.default_rng(seed), instruments=instruments)
        audio = synth.render(score)

        def draw():
            figure, (above, below) = plt.subplots(2, figsize=(8, 5.5), layout="constrained")
            plots.piano_roll(score, above)
            plots.spectrogram(log_mel(audio), below)
            return figure

        return [widgets.HTML(player(audio, "The mix").data), _picture(draw)]

    return _panel([_several((0, 9)), widgets.BoundedIntText(1, 0, 10**6, description="seed")], content)


def relevance_panel(
    models: dict[str, torch.nn.Module], clips: tuple[CuratedClip, ...], synth: Synth | None = None
) -> widgets.VBox:
    """A panel to pick a network, a clip, instruments, a layer and a channel: sound, spectrogram and relevance.

    Parameters
    ----------
    models : dict of str to network
    clips : curated clips, see :func:`instr_lib.curated_clips`
    synth : Synth, optional
        With it, a new clip can be drawn, in which the chosen instruments play.
    """
    whole, new = "all of the network", -1

    @functools.lru_cache(64)
    def drawn(instruments: tuple[int, ...], seed: int) -> CuratedClip:
        score = random_score(np.random.default_rng(seed), instruments=instruments or None)
        audio = synth.render(score)
        return CuratedClip(" + ".join(INSTRUMENTS[i].name for i in score.instruments), score, audio, log_mel(audio))

    @functools.lru_cache(512)
    def explained(name: str, key: tuple, index: int, layer: str, channel: int):
        mel = clip_of(*key).mel
        if layer == whole:
            return relevance(models[name], mel[None], [index])[0]
        return concept_relevance(models[name], mel, index, layer, [channel])[0][0]

    @functools.lru_cache(64)
    def heard(key: tuple) -> str:
        return player(clip_of(*key).audio, clip_of(*key).name).data

    def clip_of(number, instruments, seed) -> CuratedClip:
        return drawn(instruments, seed) if number == new else clips[number]

    def content(name, number, seed, instruments, layer, channel):
        key = (number, instruments, seed) if number == new else (number, (), 0)
        clip = clip_of(*key)
        classes = instruments or clip.score.instruments
        heatmaps = np.stack([explained(name, key, index, layer, channel) for index in classes])
        probabilities = predict(models[name], clip.mel[None])[0]
        lines = []
        if absent := [INSTRUMENTS[i].name for i in classes if i not in clip.score.instruments]:
            lines.append(f"{' and '.join(absent)} {'does' if len(absent) == 1 else 'do'} not play in this clip.")
        if layer != whole:
            for index in classes:
                sums = channel_relevance(models[name], clip.mel, index, layer)
                best = ", ".join(str(c) for c in np.argsort(-sums)[:5])
                share = sums[channel] / np.abs(sums).sum()
                lines.append(
                    f"{INSTRUMENTS[index].name}: {share:.1%} of its relevance goes through channel {channel} of {layer}; "
                    f"most of what speaks for it goes through {best}."
                )
        return [
            widgets.HTML(heard(key)),
            _picture(lambda: plots.spectrogram(clip.mel).figure),
            widgets.HTML("".join(f"<p>{html.escape(line)}</p>" for line in lines)),
            _picture(lambda: plots.relevance_panels(clip.mel, heatmaps, classes, probabilities, clip.score.instruments)),
        ]

    first = max(0, len(clips) - 2)
    choices = [(c.name, n) for n, c in enumerate(clips)]
    if synth is not None:
        choices.append(("a new one, played by the chosen instruments", new))
    layers = dict.fromkeys(layer for model in models.values() for layer in convolutions(model))
    controls = [
        widgets.Dropdown(options=list(models), description="network"),
        widgets.Dropdown(options=choices, value=choices[first][1], description="clip"),
        widgets.BoundedIntText(1, 0, 10**6, description="seed", disabled=synth is None),
        _several(clips[first].score.instruments if clips else (0,)),
        widgets.Dropdown(options=[whole, *layers], description="through"),
        widgets.BoundedIntText(0, 0, 10**4, description="channel"),
    ]
    return _panel(controls, content)


def recording_panel(models: dict[str, torch.nn.Module]) -> widgets.VBox:
    """A panel to upload a recording or a MIDI file and see, window by window, what a network hears in it, and why.

    Parameters
    ----------
    models : dict of str to network
    """
    from .pages import recording_page  # it imports this module

    upload = widgets.FileUpload(accept="audio/*,.flac,.ogg,.mid,.midi", description="recording")

    def content(files, name):
        if not files:
            return [widgets.HTML("<p>Upload WAV, FLAC, OGG, MP3 or MIDI of at most 10 minutes and 100 MB.</p>")]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "recording"
            path.write_bytes(files[0]["content"])
            recording = load_recording(path, files[0]["name"])
        out = widgets.Output()
        with out:  # here a script in the page runs, which in a widget's HTML it would not
            display(recording_page(models[name], recording))
        return [out]

    return _panel([upload, widgets.Dropdown(options=list(models), description="network")], content)
