"""Reference samples of hidden channels: the clips, and the cells in them, where a channel peaks.

Relevance maximisation after Achtibat et al. 2023 (doi:10.1038/s42256-023-00711-8), and activation maximisation to
compare with. Chapter 6 uses all of it.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.stats import spearmanr
from torch import nn
from tqdm.auto import tqdm

from .._files import atomic_path
from ..constants import HOP, N_FRAMES, N_MELS, SAMPLE_RATE
from ..data.dataset import ClipDataset
from ..data.spectrogram import masked
from ..errors import InputError
from ..music.instruments import INSTRUMENTS, instrument_index
from .attribution import ClipTrace
from .concepts import ReceptiveField, check_channels, convolutions, receptive_field

_VERSION = 3  # of the contents of a cache
_MARGIN = 0.15  # seconds of silence before and after a cropped sound


class ChannelStats(NamedTuple):
    """Relevance and activation of all channels, layer by layer; a row is an instrument that plays in a clip.

    Attributes
    ----------
    clips : int (rows,), indices into the dataset
    classes : int (rows,), instrument indices
    relevance : dict of float32 (rows, channels), a channel's relevance for the instrument, signed
    peak : dict of float32 (rows, channels), its largest relevance at one neuron
    neuron : dict of int32 (rows, channels), that neuron: row times width plus column of the channel's map
    examined : int (n,), the clips in which an instrument plays
    activation : dict of float32 (n, channels), the channel's largest activation in a clip, 0 if it is never above 0
    active_neuron : dict of int32 (n, channels), the neuron of that activation
    """

    clips: np.ndarray
    classes: np.ndarray
    relevance: dict[str, np.ndarray]
    peak: dict[str, np.ndarray]
    neuron: dict[str, np.ndarray]
    examined: np.ndarray
    activation: dict[str, np.ndarray]
    active_neuron: dict[str, np.ndarray]

    def shares(self, layer: str, instrument: int | str | None = None) -> np.ndarray:
        """Absolute relevance of each channel as a share of its layer's, (rows, channels), for one instrument or all.

        Raises
        ------
        InputError
            If the layer does not exist, or the instrument plays in none of the clips.
        """
        if layer not in self.relevance:
            raise InputError(f"there is no layer {layer!r}: choose one of {', '.join(self.relevance)}")
        size = np.abs(self.relevance[layer])
        if instrument is not None:
            index = instrument_index(instrument)
            size = size[self.classes == index]
            if not len(size):
                raise InputError(f"{INSTRUMENTS[index].name} plays in none of these clips: take more clips")
        return size / np.maximum(size.sum(1, keepdims=True), 1e-12)

    def ranking(self, layer: str, instrument: int | str | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Channels from the most to the least relevant, and their mean shares; raises as :meth:`shares`."""
        mean = self.shares(layer, instrument).mean(0)
        order = np.argsort(-mean)
        return order, mean[order]

    def stability(self, layer: str, instrument: int | str | None = None) -> np.ndarray:
        """Rank correlations (20,) of mean shares between two random halves of the rows; raises as :meth:`shares`."""
        shares, rng = self.shares(layer, instrument), np.random.default_rng(0)
        if len(shares) < 4:
            raise InputError(f"{len(shares)} rows cannot be halved: take more clips")
        halves = (np.array_split(rng.permutation(len(shares)), 2) for _ in range(20))
        return np.array([spearmanr(shares[a].mean(0), shares[b].mean(0)).statistic for a, b in halves])


def channel_stats(
    model: nn.Module,
    ds: ClipDataset,
    indices: Sequence[int],
    composite: str = "epsilon_plus",
    cache: str | os.PathLike | None = None,
    batch_size: int = 8,
    progress: bool = True,
) -> ChannelStats:
    """Relevance and activation of every channel of every convolution, for each instrument that plays in each clip.

    Parameters
    ----------
    model : OriginalCNN, CompactCNN or another that :func:`instr_lib.explain.lrp.can_trace`
    ds : ClipDataset
    indices : clips of ``ds``, at least one
    composite : as for :func:`instr_lib.relevance`
    cache : folder, optional
        Results are stored there, under a hash of weights, clips and composite, and read from there the next time.
    batch_size : int, rows at a time
    progress : bool, show a progress bar

    Raises
    ------
    InputError
        If there are no clips, or the network has layers that cannot be traced.
    """
    indices = np.asarray(indices, int)
    if not indices.size:
        raise InputError("there are no clips to look at: name at least one")
    file = None
    if cache is not None:
        file = Path(cache) / f"channels-{_key(model, ds, indices, composite)}.npz"
        if file.is_file():
            return _read(file)
    stats = _compute(model, ds, indices, composite, batch_size, progress)
    if file is not None:
        _write(file, stats)
    return stats


def _compute(model, ds, indices: np.ndarray, composite: str, batch_size: int, progress: bool) -> ChannelStats:
    layers, (rows, classes) = convolutions(model), np.nonzero(ds.labels[indices])
    # Allocated beforehand: small arrays that stay, between large ones that go, would fragment gigabytes of memory.
    kinds = dict.fromkeys(("relevance", "peak", "activation"), np.float32)
    kinds |= dict.fromkeys(("neuron", "active_neuron"), np.int32)
    table = {name: {layer: np.empty((len(rows), n), kind) for layer, n in layers.items()} for name, kind in kinds.items()}
    for start in tqdm(range(0, len(rows), batch_size), "channels", unit_scale=batch_size, disable=not progress):
        part = np.arange(start, min(start + batch_size, len(rows)))
        trace = ClipTrace(model, ds.mels(indices[rows[part]]), composite)
        relevance, start_layer = trace.init_relevance(classes[part], range(len(part))), None
        for layer in reversed(layers):
            relevance, start_layer = trace.backward(relevance, start_layer=start_layer, stop_layer=layer), layer
            table["relevance"][layer][part] = relevance.sum((2, 3)).cpu()
            for maps, largest, neuron in (
                (relevance, "peak", "neuron"),
                (trace.outputs[layer].clamp(min=0), "activation", "active_neuron"),
            ):
                table[largest][layer][part], table[neuron][layer][part] = (t.cpu() for t in maps.flatten(2).max(2))
    examined, first = np.unique(rows, return_index=True)  # activations do not depend on the row's instrument
    for name in ("activation", "active_neuron"):
        table[name] = {layer: array[first] for layer, array in table[name].items()}
    return ChannelStats(clips=indices[rows], classes=classes, examined=indices[examined], **table)


def _key(model: nn.Module, ds: ClipDataset, indices: np.ndarray, composite: str) -> str:
    content = hashlib.sha256(f"{_VERSION} {composite} {type(model).__name__} {ds.fingerprint}".encode())
    content.update(indices.astype("<i8").tobytes())
    for name, tensor in model.state_dict().items():
        content.update(name.encode() + tensor.cpu().numpy().tobytes())
    return content.hexdigest()[:16]


def _write(file: Path, stats: ChannelStats):
    flat = {}
    for name, value in stats._asdict().items():
        flat |= {f"{name} {layer}": array for layer, array in value.items()} if isinstance(value, dict) else {name: value}
    with atomic_path(file) as part, open(part, "wb") as out:
        np.savez(out, **flat)


def _read(file: Path) -> ChannelStats:
    try:
        with np.load(file) as content:
            flat = {name: content[name] for name in content.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"{file} cannot be read ({error}): delete it, and it is computed again") from None
    fields = {}
    for name, array in flat.items():
        field, _, layer = name.partition(" ")
        if layer:
            fields.setdefault(field, {})[layer] = array
        else:
            fields[field] = array
    return ChannelStats(**fields)


class ReferenceSample(NamedTuple):
    """A clip in which a channel peaks.

    Attributes
    ----------
    clip : int, index into the dataset
    instrument : int, whose relevance it is; None for activations
    field : ReceptiveField of the neuron at the peak
    value : float, relevance or activation there
    """

    clip: int
    instrument: int | None
    field: ReceptiveField
    value: float


def reference_samples(
    model: nn.Module,
    stats: ChannelStats,
    layer: str,
    channel: int,
    by: str = "relevance",
    count: int = 4,
    instrument: int | str | None = None,
) -> list[ReferenceSample]:
    """The clips in which a channel peaks highest, each clip once, and where (RelMax or ActMax of Achtibat et al. 2023).

    Parameters
    ----------
    model : the one that ``stats`` are of
    stats : from :func:`channel_stats`
    layer : name of a convolution
    channel : int
    by : {"relevance", "activation"}
        Largest relevance at one neuron (RelMax), or largest activation (ActMax).
    count : int, samples at most
    instrument : index or name, optional
        Only relevance for this instrument counts.

    Raises
    ------
    InputError
        If layer, channel or ``by`` do not exist, or the channel never peaks above 0.
    """
    (channel,) = check_channels(model, layer, [channel])
    if by not in ("relevance", "activation"):
        raise InputError(f"reference samples are by 'relevance' or by 'activation', not {by!r}")
    if by == "relevance":
        value, neuron, clips = stats.peak[layer][:, channel], stats.neuron[layer][:, channel], stats.clips
        classes = stats.classes
        if instrument is not None:
            value = np.where(classes == instrument_index(instrument), value, 0)
    else:
        value, neuron, clips = stats.activation[layer][:, channel], stats.active_neuron[layer][:, channel], stats.examined
        classes = [None] * len(clips)
    chosen = {}
    for row in np.argsort(-value, kind="stable"):
        if len(chosen) == count or value[row] <= 0:
            break
        if clips[row] not in chosen:
            instrument_of = None if classes[row] is None else int(classes[row])
            field = receptive_field(model, layer, int(neuron[row]))
            chosen[clips[row]] = ReferenceSample(int(clips[row]), instrument_of, field, float(value[row]))
    if not chosen:
        raise InputError(f"channel {channel} of {layer} has no {by} above 0 in these clips: choose another")
    return list(chosen.values())


def crop_sound(audio: np.ndarray, field: ReceptiveField) -> np.ndarray:
    """The sound of the cells in a receptive field, between 0.15 s of silence: float32 (samples,).

    All other cells are masked, so that only these bands and frames can be heard.

    Parameters
    ----------
    audio : float32 (220_500,), the clip
    field : of a :class:`ReferenceSample`, or from :func:`instr_lib.explain.concepts.receptive_field`
    """
    mask = np.zeros((N_MELS, N_FRAMES), np.float32)
    mask[field] = 1
    silence = round(_MARGIN * SAMPLE_RATE)
    return masked(audio, mask)[max(0, field.frames.start * HOP - silence) : field.frames.stop * HOP + silence]
