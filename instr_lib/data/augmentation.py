"""Change spectrograms at random while a network learns from them: louder, filtered, noisier, mixed, with bands missing.

Each change is one that a microphone, a room or a mixing desk makes too, drawn without regard to what plays. Chapter 9 says
what each is worth.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import interpolate

from ..constants import FLOOR_DB, N_MELS

_KNOTS = 7  # of the random curve that filters


@dataclass(frozen=True)
class Augmentation:
    """For :func:`instr_lib.train`: called with a batch, it returns the batch changed. All chance is PyTorch's.

    Parameters
    ----------
    gain : (low, high) in dB
        The whole clip louder or quieter.
    filter : float, dB
        Standard deviation of a smooth random curve over frequency that is added to the clip.
    noise : float, share of clips
        That get a steady noise, 40 to 80 dB below full scale, tilted at random.
    mix : float, share of clips
        That get another clip of the batch on top, -12 to 0 dB from it; what plays in either is then to be heard.
    masks : float, share of clips
        In which a stretch of up to 16 bands is silent (Park et al. 2019, doi:10.21437/Interspeech.2019-2680).
    """

    gain: tuple[float, float] = (-12.0, 6.0)
    filter: float = 3.0
    noise: float = 0.4
    mix: float = 0.1
    masks: float = 0.2

    def __call__(self, mels: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """dB (n, 1, 128, 431) and labels (n, 12) to the same, new tensors."""
        n, one = len(mels), (len(mels), 1, 1, 1)

        def some(share, shape=one):
            return torch.rand(shape, device=mels.device) < share

        def between(low, high, shape=one):
            return low + (high - low) * torch.rand(shape, device=mels.device)

        other, mixed = torch.randperm(n, device=mels.device), some(self.mix)
        power = _power(mels)
        power = power + mixed * _power(between(-12, 0)) * power[other]
        labels = torch.where(mixed[:, :, 0, 0], torch.maximum(labels, labels[other]), labels)
        curve = self.filter * torch.randn(n, 1, _KNOTS, device=mels.device)
        curve = interpolate(curve, N_MELS, mode="linear", align_corners=True)[..., None] + between(*self.gain)
        power = power * _power(curve)
        tilt = torch.linspace(-0.5, 0.5, N_MELS, device=mels.device)[:, None] * between(-30, 10)
        # A band's power in a frame of noise is a sum of squares of normal numbers: few in low bands, many in high ones.
        freedom = torch.linspace(1, 8, N_MELS, device=mels.device)[:, None]
        steps = torch.distributions.Gamma(freedom, freedom).sample((n,))  # (n, 128, 1)
        flicker = steps[:, None] * (0.5 + torch.rand_like(power))
        power = power + some(self.noise) * _power(between(-80, -40) + tilt) * flicker
        first, width = between(0, N_MELS), between(1, 17) * some(self.masks)
        bands = torch.arange(N_MELS, device=mels.device)[:, None]
        power = power.masked_fill((bands >= first) & (bands < first + width), 0)
        return (10 * torch.log10(power.clamp(min=1e-9))).clamp(FLOOR_DB, 0), labels


def _power(db: torch.Tensor) -> torch.Tensor:
    """Of silence, which is the floor of the scale, exactly 0."""
    return torch.where(db > FLOOR_DB, 10 ** (db / 10), 0)
