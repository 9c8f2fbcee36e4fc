"""Sound players for pages."""

from __future__ import annotations

import base64
import html
import io

import numpy as np
import soundfile
from IPython.display import HTML

from ..constants import CLIP_SAMPLES, SAMPLE_RATE
from ..data.spectrogram import check_audio


def player(audio: np.ndarray, title: str) -> HTML:
    """A sound player with a title: one clip or less, float32 (samples,), as MP3 inside the page (about 50 KB a clip).

    MP3 because every browser plays it. Louder than full scale is turned down, never clipped.

    Raises
    ------
    AudioError
        If the sound is longer than a clip, empty or not mono, or contains NaN.
    """
    title = html.escape(title)
    return HTML(
        '<div style="display:inline-flex;flex-direction:column;margin:0 1.5em 0.7em 0;max-width:100%">'
        f'<span>{title}</span><audio controls preload="metadata" aria-label="{title}" style="max-width:100%" '
        f'src="{sound_url(audio)}"></audio></div>'
    )


def sound_url(audio: np.ndarray) -> str:
    """Sound as :func:`player` takes it, as a URL that carries an MP3 in itself."""
    audio = np.asarray(audio)
    samples = len(audio) if audio.ndim == 1 and audio.size else CLIP_SAMPLES
    if samples < CLIP_SAMPLES:
        audio = np.pad(audio, (0, CLIP_SAMPLES - samples))
    audio = check_audio(audio)[:samples]
    audio = audio / max(1.0, float(np.abs(audio).max()) / 0.99)
    packed = io.BytesIO()
    soundfile.write(packed, audio, SAMPLE_RATE, format="MP3", bitrate_mode="VARIABLE", compression_level=0.5)
    return f"data:audio/mpeg;base64,{base64.b64encode(packed.getvalue()).decode()}"


def audio_players(*pairs: tuple[np.ndarray, str]) -> HTML:
    """Several players side by side, as far as the page is wide: pairs of sound and title."""
    return HTML("".join(player(audio, title).data for audio, title in pairs))
