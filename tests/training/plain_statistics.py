"""An encoder whose features are plain statistics of pictures, and pictures for it: what a bank is built of in tests."""

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from fdi_lib.core.views import ViewSpec


class Statistics:
    """Tokens from brightness, contrast and fine detail of either view: what noise and haze change."""

    view_spec = ViewSpec(32, 1)

    def features(self, views_BVHWC: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        x = views_BVHWC.astype(np.float32) / 255
        detail = np.abs(np.diff(x, axis=3)).mean((2, 3, 4))
        numbers = np.stack([x.mean((2, 3, 4)), x.std((2, 3, 4)), detail], axis=2)  # B, V, 3
        tokens = torch.from_numpy(np.repeat(numbers[:, :, None], 2, axis=2).reshape(len(x), 4, 3))
        return tokens, tokens.unflatten(1, (2, 2)).mean(2).flatten(1)


def pictures(count: int, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    smooth = [gaussian_filter(rng.normal(size=(64, 64, 3)), (6, 6, 0)) for _ in range(count)]
    return [np.clip(128 + 500 * s * rng.uniform(0.7, 1.3), 0, 255).astype(np.uint8) for s in smooth]
