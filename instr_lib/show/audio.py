"""Sound players for pages. All chapters use them."""

from __future__ import annotations

import base64
import io

import numpy as np
import soundfile

from ..constants import CLIP_SAMPLES, SAMPLE_RATE
from ..data.spectrogram import check_audio
from .html import HTML, render


def player(audio: np.ndarray, title: str) -> HTML:
    """A sound player with a title.

    Parameters
    ----------
    audio : float32 (samples,)
        At most one clip. It goes into the page as MP3, which every browser plays: about 50 KB per clip. If it is louder
        than full scale it is turned down, never clipped.
    title : str

    Raises
    ------
    AudioError
        If the sound is longer than a clip, empty or not mono, or contains NaN.
    """
    return render("player.html", title=title, url=sound_url(audio))


def audio_players(*pairs: tuple[np.ndarray, str]) -> HTML:
    """Several players side by side, as many as fit the page's width: pairs of sound and title, as for :func:`player`."""
    return HTML("".join(player(audio, title).data for audio, title in pairs))


def sound_url(audio: np.ndarray) -> str:
    """The sound, as :func:`player` takes it, as a data URL of an MP3."""
    audio = np.asarray(audio)
    samples = len(audio) if audio.ndim == 1 and audio.size else CLIP_SAMPLES
    if samples < CLIP_SAMPLES:
        audio = np.pad(audio, (0, CLIP_SAMPLES - samples))
    audio = check_audio(audio)[:samples]
    audio = audio / max(1.0, float(np.abs(audio).max()) / 0.99)
    file = io.BytesIO()
    soundfile.write(file, audio, SAMPLE_RATE, format="MP3", bitrate_mode="VARIABLE", compression_level=0.5)
    return data_url("audio/mpeg", file)


def data_url(kind: str, file: io.BytesIO) -> str:
    """A file in memory as a URL that carries it, because a page opened from a folder may not load other files."""
    return f"data:{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
