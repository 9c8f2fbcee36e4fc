"""Panels of widgets for a live kernel, and figures of reference samples. Chapters 1, 5, 6 and 10 use them."""

from __future__ import annotations

import functools
import io
import tempfile
from pathlib import Path

import ipywidgets as widgets
import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import display

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
from .html import HTML, render
from .pages import recording_page

_OPTIONS = [(instrument.name, index) for index, instrument in enumerate(INSTRUMENTS)]
_WHOLE, _NEW = "all of the network", -1  # choices of the relevance panel: no layer, and no curated clip
_MAX_SEED = 10**6


def show_reference_samples(
    model: torch.nn.Module,
    stats: ChannelStats,
    ds: ClipDataset,
    synth: Synth,
    layer: str,
    channel: int,
    by: str = "relevance",
    instrument: int | str | None = None,
) -> HTML:
    """Draw a channel's four reference samples as the current figure, and return players of what sounds there.

    Parameters
    ----------
    model, stats, layer, channel, by, instrument
        As for :func:`instr_lib.explain.maximisation.reference_samples`. The figure shows relevance for the sample's
        instrument; samples by activation have none, and it is the playing instrument whose logit uses the channel most.
    ds : ClipDataset, the one that the statistics are of
    synth : Synth
    """
    crops, sounds = [], []
    for sample in reference_samples(model, stats, layer, channel, by, instrument=instrument):
        mel, score = ds.mels([sample.clip])[0], ds.score(sample.clip)
        if sample.instrument is None:
            sums = [channel_relevance(model, mel, index, layer)[channel] for index in score.instruments]
            sample = sample._replace(instrument=score.instruments[int(np.argmax(sums))])
        heatmaps, _ = concept_relevance(model, mel, sample.instrument, layer, [channel])
        crops.append((sample, mel, heatmaps[0]))
        sounds.append(crop_sound(synth.render(score), sample.field))
    plots.crops(crops)
    return audio_players(*((sound, f"{layer}, channel {channel}: {n}") for n, sound in enumerate(sounds, 1)))


def _picture(draw) -> widgets.Image:
    """The figure that ``draw()`` returns, as a PNG widget."""
    with plt.ioff():
        figure, file = draw(), io.BytesIO()
        figure.savefig(file, format="png", dpi=90)
        plt.close(figure)
    return widgets.Image(value=file.getvalue(), format="png", layout=widgets.Layout(max_width="100%"))


def _text(*sentences: str) -> widgets.HTML:
    return widgets.HTML(render("paragraphs.html", sentences=sentences).data)


def _panel(controls: list[widgets.Widget], content) -> widgets.VBox:
    """Controls above, the widgets that ``content(*values)`` returns below, computed again when a control changes.

    The message of a bad input appears in their place.
    """
    below = widgets.VBox()

    def update(_=None):
        try:
            below.children = content(*(control.value for control in controls))
        except InstrError as error:
            below.children = [_text(str(error))]

    for control in controls:
        control.observe(update, "value")
    update()
    return widgets.VBox([widgets.HBox(controls, layout=widgets.Layout(flex_flow="row wrap")), below])


def _instruments_control(value: tuple[int, ...]) -> widgets.SelectMultiple:
    return widgets.SelectMultiple(options=_OPTIONS, value=value, rows=6, description="instruments")


def _seed_control(disabled: bool = False) -> widgets.BoundedIntText:
    return widgets.BoundedIntText(1, 0, _MAX_SEED, description="seed", disabled=disabled)


def _network_control(models: dict[str, torch.nn.Module]) -> widgets.Dropdown:
    return widgets.Dropdown(options=list(models), description="network")


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

    return _panel([_instruments_control((0, 9)), _seed_control()], content)


class _RelevancePanel:
    """What :func:`relevance_panel` shows; computed once for each choice. A clip's key is (number, instruments, seed)."""

    def __init__(self, models: dict[str, torch.nn.Module], clips: tuple[CuratedClip, ...], synth: Synth | None):
        self.models, self.clips, self.synth = models, clips, synth
        self.new_clip = functools.lru_cache(64)(self._new_clip)
        self.heatmap = functools.lru_cache(512)(self._heatmap)
        self.player = functools.lru_cache(64)(self._player)

    def clip(self, number: int, instruments: tuple[int, ...], seed: int) -> CuratedClip:
        return self.new_clip(instruments, seed) if number == _NEW else self.clips[number]

    def _new_clip(self, instruments: tuple[int, ...], seed: int) -> CuratedClip:
        score = random_score(np.random.default_rng(seed), instruments=instruments or None)
        audio = self.synth.render(score)
        return CuratedClip(" + ".join(INSTRUMENTS[i].name for i in score.instruments), score, audio, log_mel(audio))

    def _heatmap(self, network: str, key: tuple, index: int, layer: str, channel: int) -> np.ndarray:
        mel = self.clip(*key).mel
        if layer == _WHOLE:
            return relevance(self.models[network], mel[None], [index])[0]
        return concept_relevance(self.models[network], mel, index, layer, [channel])[0][0]

    def _player(self, key: tuple) -> str:
        clip = self.clip(*key)
        return player(clip.audio, clip.name).data

    def _sentences(self, network: str, clip: CuratedClip, classes: tuple[int, ...], layer: str, channel: int):
        if absent := [INSTRUMENTS[i].name for i in classes if i not in clip.score.instruments]:
            yield f"{' and '.join(absent)} {'does' if len(absent) == 1 else 'do'} not play in this clip."
        for index in classes if layer != _WHOLE else ():
            sums = channel_relevance(self.models[network], clip.mel, index, layer)
            share = sums[channel] / np.abs(sums).sum()
            yield (
                f"{INSTRUMENTS[index].name}: {share:.1%} of its relevance goes through channel {channel} of {layer}; "
                f"most of what speaks for it goes through {', '.join(str(c) for c in np.argsort(-sums)[:5])}."
            )

    def content(self, network: str, number: int, seed: int, instruments: tuple[int, ...], layer: str, channel: int):
        key = (number, instruments, seed) if number == _NEW else (number, (), 0)
        clip = self.clip(*key)
        active = clip.score.instruments
        classes = instruments or active
        heatmaps = np.stack([self.heatmap(network, key, index, layer, channel) for index in classes])
        probabilities = predict(self.models[network], clip.mel[None])[0]
        return [
            widgets.HTML(self.player(key)),
            _picture(lambda: plots.spectrogram(clip.mel).figure),
            _text(*self._sentences(network, clip, classes, layer, channel)),
            _picture(lambda: plots.relevance_panels(clip.mel, heatmaps, classes, probabilities, active)),
        ]


def relevance_panel(
    models: dict[str, torch.nn.Module], clips: tuple[CuratedClip, ...], synth: Synth | None = None
) -> widgets.VBox:
    """A panel to choose a network, a clip, instruments, a layer and a channel: sound, spectrogram and relevance.

    Parameters
    ----------
    models : dict of str to network
    clips : curated clips, see :func:`instr_lib.curated_clips`
    synth : Synth, optional
        With it, a new clip can be generated, in which the chosen instruments play.
    """
    first = max(0, len(clips) - 2)
    choices = [(clip.name, number) for number, clip in enumerate(clips)]
    if synth is not None:
        choices.append(("a new one, played by the chosen instruments", _NEW))
    layers = dict.fromkeys(layer for model in models.values() for layer in convolutions(model))
    controls = [
        _network_control(models),
        widgets.Dropdown(options=choices, value=choices[first][1], description="clip"),
        _seed_control(disabled=synth is None),
        _instruments_control(clips[first].score.instruments if clips else (0,)),
        widgets.Dropdown(options=[_WHOLE, *layers], description="through"),
        widgets.BoundedIntText(0, 0, 10**4, description="channel"),
    ]
    return _panel(controls, _RelevancePanel(models, clips, synth).content)


def recording_panel(models: dict[str, torch.nn.Module]) -> widgets.VBox:
    """A panel to upload a recording or a MIDI file: :func:`instr_lib.show.pages.recording_page` of it, by a chosen network.

    Parameters
    ----------
    models : dict of str to network
    """
    upload = widgets.FileUpload(accept="audio/*,.flac,.ogg,.mid,.midi", description="recording")

    def content(files, network):
        if not files:
            return [_text("Upload WAV, FLAC, OGG, MP3 or MIDI of at most 10 minutes and 100 MB.")]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "recording"
            path.write_bytes(files[0]["content"])
            recording = load_recording(path, files[0]["name"])
        output = widgets.Output()
        with output:  # here a script in the page runs, which in a widget's HTML it would not
            display(recording_page(models[network], recording))
        return [output]

    return _panel([upload, _network_control(models)], content)
