"""Data augmentation: spectrograms are changed at random during training: in level, filtered, with noise, mixed, masked.

Microphones, rooms and mixing desks make similar changes. They are drawn independently of the instruments. Chapter 9
measures what augmentation contributes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import interpolate

from ..constants import FLOOR_DB, N_MELS

_KNOTS = 7  # of the random curve of the filter


@dataclass(frozen=True)
class Augmentation:
    """For :func:`instr_lib.train`: called with a batch, it returns the changed batch. It draws from PyTorch's generator.

    Parameters
    ----------
    gain : (low, high) in dB
        Of the whole clip, uniform.
    filter : float, dB
        Standard deviation of a smooth random curve over frequency that is added to the clip.
    noise : float, share of clips
        With a steady noise, 40 to 80 dB below full scale, with a random spectral tilt.
    mix : float, share of clips
        With another clip of the batch added at -12 to 0 dB; the labels are those of both.
    masks : float, share of clips
        With up to 16 adjacent bands silent (Park et al. 2019, doi:10.21437/Interspeech.2019-2680).
    """

    gain: tuple[float, float] = (-12.0, 6.0)
    filter: float = 3.0
    noise: float = 0.4
    mix: float = 0.1
    masks: float = 0.2

    def __call__(self, mels: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """dB (n, 1, 128, 431) and labels (n, 12) to the same, new tensors."""
        n, per_clip = len(mels), (len(mels), 1, 1, 1)

        def chosen(share):
            return torch.rand(per_clip, device=mels.device) < share

        def uniform(low, high):
            return low + (high - low) * torch.rand(per_clip, device=mels.device)

        partner, mixed = torch.randperm(n, device=mels.device), chosen(self.mix)
        power = _power(mels)
        power = power + mixed * _power(uniform(-12, 0)) * power[partner]
        labels = torch.where(mixed[:, :, 0, 0], torch.maximum(labels, labels[partner]), labels)
        curve = self.filter * torch.randn(n, 1, _KNOTS, device=mels.device)
        curve = interpolate(curve, N_MELS, mode="linear", align_corners=True)[..., None] + uniform(*self.gain)
        power = power * _power(curve)
        tilt = torch.linspace(-0.5, 0.5, N_MELS, device=mels.device)[:, None] * uniform(-30, 10)
        # A band's power in a frame of noise is a sum of squares of normal numbers: few in low bands, many in high bands.
        degrees = torch.linspace(1, 8, N_MELS, device=mels.device)[:, None]
        steps = torch.distributions.Gamma(degrees, degrees).sample((n,))  # (n, 128, 1)
        flicker = steps[:, None] * (0.5 + torch.rand_like(power))
        power = power + chosen(self.noise) * _power(uniform(-80, -40) + tilt) * flicker
        first, width = uniform(0, N_MELS), uniform(1, 17) * chosen(self.masks)
        bands = torch.arange(N_MELS, device=mels.device)[:, None]
        power = power.masked_fill((bands >= first) & (bands < first + width), 0)
        return (10 * torch.log10(power.clamp(min=1e-9))).clamp(FLOOR_DB, 0), labels


def _power(db: torch.Tensor) -> torch.Tensor:
    """dB to power; silence, which is the floor of the scale, becomes exactly 0."""
    return torch.where(db > FLOOR_DB, 10 ** (db / 10), 0)
