"""Sound players for pages, and widget panels for a live kernel."""

from __future__ import annotations

import base64
import functools
import html
import io

import ipywidgets as widgets
import matplotlib.pyplot as plt
import numpy as np
import soundfile
import torch
from IPython.display import HTML

from . import plots
from .curated import CuratedClip
from .errors import InstrError
from .evaluation import predict
from .instruments import INSTRUMENTS
from .relevance import relevance
from .score import random_score
from .spectrogram import check_audio, log_mel
from .synth import SAMPLE_RATE, Synth

_NAMES = [(instrument.name, index) for index, instrument in enumerate(INSTRUMENTS)]


def player(audio: np.ndarray, title: str) -> HTML:
    """A sound player with a title: one clip float32 (220_500,), as MP3 inside the page (about 50 KB).

    MP3 because every browser plays it. Louder than full scale is turned down, never clipped.

    Raises
    ------
    AudioError
        If the sound is not one clip or contains NaN.
    """
    audio = check_audio(audio)
    audio = audio / max(1.0, float(np.abs(audio).max()) / 0.99)
    packed = io.BytesIO()
    soundfile.write(packed, audio, SAMPLE_RATE, format="MP3", bitrate_mode="VARIABLE", compression_level=0.5)
    data, title = base64.b64encode(packed.getvalue()).decode(), html.escape(title)
    return HTML(
        '<div style="display:inline-flex;flex-direction:column;margin:0 1.5em 0.7em 0;max-width:100%">'
        f'<span>{title}</span><audio controls preload="metadata" aria-label="{title}" style="max-width:100%" '
        f'src="data:audio/mpeg;base64,{data}"></audio></div>'
    )


def players(*pairs: tuple[np.ndarray, str]) -> HTML:
    """Several players side by side, as far as the page is wide: pairs of sound and title."""
    return HTML("".join(player(audio, title).data for audio, title in pairs))


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


def relevance_panel(models: dict[str, torch.nn.Module], clips: tuple[CuratedClip, ...]) -> widgets.VBox:
    """A panel to pick a network, a clip and instruments: sound, spectrogram and relevance of each.

    Parameters
    ----------
    models : dict of str to network
    clips : curated clips, see :func:`instr_lib.curated_clips`
    """

    @functools.cache
    def explained(name: str, number: int, index: int):
        return relevance(models[name], clips[number].mel[None], [index])[0]

    @functools.cache
    def probabilities(name: str, number: int):
        return predict(models[name], clips[number].mel[None])[0]

    def content(name, number, instruments):
        clip = clips[number]
        classes = instruments or clip.score.instruments

        def draw():
            heats = np.stack([explained(name, number, index) for index in classes])
            return plots.relevance_panels(clip.mel, heats, classes, probabilities(name, number), clip.score.instruments)

        return [
            widgets.HTML(player(clip.audio, clip.name).data),
            _picture(lambda: plots.spectrogram(clip.mel).figure),
            _picture(draw),
        ]

    first = len(clips) - 2
    controls = [
        widgets.Dropdown(options=list(models), description="network"),
        widgets.Dropdown(options=[(c.name, n) for n, c in enumerate(clips)], value=first, description="clip"),
        _several(clips[first].score.instruments),
    ]
    return _panel(controls, content)
