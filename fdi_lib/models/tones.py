"""What the values of a picture say, wherever they lie: quantiles of a few local measures, through a small network.

Whether a picture lacks its darkest and its brightest values is what tells haze and fading from clean pictures. A vision
model of a few million parameters averages patches, and sees extremes badly; sorted values show them at once. The
measures are those of dehazing (He, Sun and Tang, CVPR 2009: the dark channel; Zhu, Mai and Shao, 2015: saturation).
Suffixes: B batch, C colours, M measures, L levels, F = M L quantiles, E kinds of damage.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

# Shares of pixels; close to the ends, since those are what damage to tones moves.
_LEVELS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.995)
_MEASURES = 6
_DARK_PX, _CONTRAST_PX = 5, 7  # of a view of 96 px
_LEAST = 1e-3
# A number is half way where its damage is thinkable (odds of one to seven), not where it is likely: most of what the
# network learns on lacks it. With 4 for certainty the numbers spread like the encoder's own.
_PRIOR, _CERTAIN = 2.0, 4.0


class Tones(nn.Module):
    """A view's quantiles -> how far each kind of damage that it learnt is thinkable, by tones alone.

    These are bounded: how sure it is that nothing is there, which differs widely among clean pictures, doesn't show.

    Args:
        width: of the hidden layers.
        size: E, kinds of damage.
    """

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(_MEASURES * len(_LEVELS), width), nn.GELU(), nn.Linear(width, width), nn.GELU()
        )
        self.out = nn.Linear(width, size)

    def logits(self, quantiles_BF: torch.Tensor) -> torch.Tensor:
        """Of :func:`quantiles` -> log odds of each kind, float B,E."""
        found: torch.Tensor = self.out(self.layers((quantiles_BF - 0.5) * 4))
        return found

    def forward(self, quantiles_BF: torch.Tensor) -> torch.Tensor:
        """Of :func:`quantiles` -> float B,E in [0, 4]."""
        return _CERTAIN * torch.sigmoid(self.logits(quantiles_BF) + _PRIOR)


def quantiles(view_BCHW: torch.Tensor) -> torch.Tensor:
    """Views float32 B,3,S,S, RGB in [0, 1] -> quantiles of each measure, in [0, 1], float32 B,F."""
    levels_LBM = torch.quantile(measures(view_BCHW).flatten(2), view_BCHW.new_tensor(_LEVELS), dim=2)
    return levels_LBM.permute(1, 2, 0).flatten(1)


def measures(view_BCHW: torch.Tensor) -> torch.Tensor:
    """Views float32 B,3,S,S, RGB in [0, 1] -> B,M,S,S.

    The least and the largest colour, the dark channel, saturation, mean of the colours and its local deviation.
    """
    least, most = view_BCHW.amin(1, keepdim=True), view_BCHW.amax(1, keepdim=True)
    dark = -F.max_pool2d(-least, _DARK_PX, stride=1, padding=_DARK_PX // 2)
    mean = view_BCHW.mean(1, keepdim=True)
    around, square = (_local_mean(values) for values in (mean, mean.square()))
    contrast = (square - around.square()).clamp(min=0).sqrt()
    return torch.cat([least, most, dark, (most - least) / (most + _LEAST), mean, contrast], dim=1)


def _local_mean(values_B1HW: torch.Tensor) -> torch.Tensor:
    return F.avg_pool2d(values_B1HW, _CONTRAST_PX, stride=1, padding=_CONTRAST_PX // 2, count_include_pad=False)
