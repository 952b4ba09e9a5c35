"""What an adapter is built of: feature blocks of its trunk, noise decoupling, the fidelity path. Knows no base.

Suffixes: B batch, C channels, H and W height and width, T FDI tokens, D their width, N = H * W.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


class Residual(nn.Module):
    """Two convolutions beside the identity; B,C,H,W -> the same. ``light``: the second is 1 x 1, as in T2I-Adapter."""

    def __init__(self, width: int, light: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 1) if light else nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return x_BCHW + self.conv2(F.silu(self.conv1(F.silu(x_BCHW))))


class Attention(nn.Module):
    """Self-attention of every position to an 8 x 8 summary of the map: linear in pixels, global in reach."""

    def __init__(self, width: int, inner: int = 32) -> None:
        super().__init__()
        self.to_q, self.to_kv = nn.Conv2d(width, inner, 1), nn.Conv2d(width, 2 * inner, 1)
        self.out = nn.Conv2d(inner, width, 1)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """B,C,H,W -> the same."""
        query_BNC = self.to_q(x_BCHW).flatten(2).transpose(1, 2)
        key_BMC, value_BMC = self.to_kv(F.adaptive_avg_pool2d(x_BCHW, 8)).flatten(2).transpose(1, 2).chunk(2, dim=2)
        mixed_BNC = F.scaled_dot_product_attention(query_BNC[:, None], key_BMC[:, None], value_BMC[:, None])[:, 0]
        return x_BCHW + self.out(mixed_BNC.transpose(1, 2).unflatten(2, x_BCHW.shape[2:]))


class FeatureBlock(nn.Module):
    """Convolution, residual blocks, self-attention: B,C,H,W -> B,width,H,W, of half the resolution if asked.

    Args:
        inputs: channels.
        width: channels of the result.
        blocks: residual blocks.
        halve: by a strided convolution; ``light``: by pooling, and the convolution is 1 x 1, as in T2I-Adapter.
        light: spare weights, for wide trunks; an entrance (``inputs`` are pixels) keeps its 3 x 3 convolution.
        entrance: whether this is the first block.
        attention_width: bottleneck of the self-attention; 0 leaves it out.
    """

    def __init__(
        self,
        inputs: int,
        width: int,
        blocks: int,
        *,
        halve: bool,
        light: bool = False,
        entrance: bool = False,
        attention_width: int = 32,
    ) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(2) if light and halve else nn.Identity()
        pointwise = light and not entrance
        self.conv = (
            nn.Conv2d(inputs, width, 1)
            if pointwise
            else nn.Conv2d(inputs, width, 3, padding=1, stride=2 if halve else 1)
        )
        self.residuals = nn.Sequential(*[Residual(width, light) for _ in range(blocks)])
        self.attention = Attention(width, attention_width) if attention_width else nn.Identity()

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """See the class."""
        made: torch.Tensor = self.attention(self.residuals(self.conv(self.pool(x_BCHW))))
        return made


class Decoupling(nn.Module):
    """``Fh_i = CrossAttn(Q=F, K=V=A_i)``: the part of the FDI that this image shows, as one token per FDI token.

    Args:
        width: channels of A_i.
        fdi_width: D.
        inner: width of keys, values and the resulting tokens.
        attends: False, for ablations: every position counts alike, whatever the FDI.
    """

    def __init__(self, width: int, fdi_width: int, inner: int, *, attends: bool = True) -> None:
        super().__init__()
        self.to_q = nn.Linear(fdi_width, inner)
        self.to_k = nn.Conv2d(width, inner, 1) if attends else None
        self.to_v = nn.Conv2d(width, inner, 1)
        self.norm = nn.LayerNorm(inner)
        self.held: dict[tuple, torch.Tensor] | None = None

    def forward(self, fdi_TD: torch.Tensor, a_BCHW: torch.Tensor) -> torch.Tensor:
        """FDI tokens T,D and features B,C,H,W -> tokens B,T,inner."""
        query_BTC = self._query(fdi_TD).expand(len(a_BCHW), -1, -1)
        if self.to_k is None:
            return self.norm(query_BTC + self.to_v(a_BCHW).mean((2, 3))[:, None])
        key_BNC, value_BNC = (f(a_BCHW).flatten(2).transpose(1, 2) for f in (self.to_k, self.to_v))
        mixed_BTC = F.scaled_dot_product_attention(query_BTC[:, None], key_BNC[:, None], value_BNC[:, None])[:, 0]
        return self.norm(query_BTC + mixed_BTC)

    def _query(self, fdi_TD: torch.Tensor) -> torch.Tensor:
        """The FDI's projection: a constant of the adapter, kept where :attr:`held` allows it, by kind of arithmetic."""
        if self.held is None or torch.is_grad_enabled():
            return self.to_q(fdi_TD)
        device = fdi_TD.device.type
        key = (fdi_TD.device, fdi_TD.dtype, torch.is_autocast_enabled(device), torch.get_autocast_dtype(device))
        if key not in self.held:
            self.held[key] = self.to_q(fdi_TD)
        return self.held[key]


class Refiner(nn.Module):
    """A small convolutional residual on cat(degraded, output), at the latent's resolution (after AutoDIR).

    Args:
        channels: of the latent.
        width: of the hidden layers.
    """

    def __init__(self, channels: int, width: int = 32) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(2 * channels, width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.SiLU(),
            zero(nn.Conv2d(width, channels, 3, padding=1)),
        )

    def forward(self, degraded_BCHW: torch.Tensor, output_BCHW: torch.Tensor) -> torch.Tensor:
        """Two latents B,C,H,W -> the corrected one."""
        return output_BCHW + self.body(torch.cat([degraded_BCHW, output_BCHW], dim=1))


def zero(layer: nn.Linear | nn.Conv2d) -> nn.Module:
    """Set a layer's weights to zero: what follows starts as if it weren't there."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
