"""The feature extractor of FDI: BLIP-2's vision model and Q-Former; the language model is never loaded.

It turns views into query tokens and knows nothing of degradations. Suffixes: B batch, V views, T query tokens,
D hidden size, H and W view sides, C colour channels.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import Blip2QFormerConfig, Blip2QFormerModel, Blip2VisionConfig, Blip2VisionModel

from fdi_lib.core.views import ViewSpec
from fdi_lib.errors import WeightsError
from fdi_lib.models.configs import read_config
from fdi_lib.models.tones import Tones, quantiles
from fdi_lib.models.weights import fingerprint, load_strictly, save_half

COMPACT: dict[str, Any] = {
    "vision": {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4, "num_attention_heads": 4,
               "image_size": 96, "patch_size": 8, "initializer_range": 0.02},  # BLIP-2's 1e-10 is for loading only
    "qformer": {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 384,
                "cross_attention_frequency": 1, "encoder_hidden_size": 128},
    "query_tokens": 8,
    "crops": 4,
    "detail_gain": 3.0,
}  # fmt: skip
COMPACT_TONES = 128  # width of its part that looks at tones, which is trained by itself


class Encoder(nn.Module):
    """Views to query tokens: ``QFormer(Enc(view))`` of the FDI definition (Wang et al., Eq. 2)."""

    def __init__(self, config: dict) -> None:
        super().__init__()
        self.config = config
        self.vision_model = Blip2VisionModel(Blip2VisionConfig(**config["vision"]))
        self.qformer = Blip2QFormerModel(Blip2QFormerConfig(**config["qformer"]))
        width = self.qformer.config.hidden_size
        self.query_tokens = nn.Parameter(torch.randn(1, config["query_tokens"], width) * 0.02)
        # A checkpoint of BLIP-2 has none: its vision model is large enough to see for itself.
        self.tones = Tones(**config["tones"]) if config.get("tones") else None
        self.view_spec = ViewSpec.from_encoder(config)

    @property
    def token_shape(self) -> tuple[int, int]:
        """(2T, D) of :meth:`tokens`: the query tokens of both looks, one after the other."""
        return 2 * self.query_tokens.shape[1], self.query_tokens.shape[2]

    def tokens_of_view(self, view_BCHW: torch.Tensor) -> torch.Tensor:
        """Views B3HW float, RGB, normalised (in [-1, 1], where the configuration has no mean) -> query tokens B,T,D."""
        hidden_BND = self.vision_model(pixel_values=view_BCHW).last_hidden_state
        query_BTD = self.query_tokens.expand(len(view_BCHW), -1, -1)
        return self.qformer(query_embeds=query_BTD, encoder_hidden_states=hidden_BND).last_hidden_state

    @torch.inference_mode()
    def tokens(self, views_BVHWC: np.ndarray) -> torch.Tensor:
        """Views of images -> tokens of images.

        Args:
            views_BVHWC: uint8 B,V,S,S,3 RGB, as :func:`fdi_lib.core.views.make_views` orders them.

        Returns:
            float32 B,2T,D on the CPU: the whole view's tokens, then the mean over the crops of theirs.

        Raises:
            FloatingPointError: a token is NaN or infinite.
        """
        count, views = views_BVHWC.shape[:2]
        flat = (
            torch.from_numpy(np.ascontiguousarray(views_BVHWC))
            .to(self.query_tokens.device)
            .flatten(0, 1)
            .permute(0, 3, 1, 2)
        )
        tokens = self.tokens_of_view(self._normalised(flat.float())).float().unflatten(0, (count, views))
        return torch.cat([_finite(tokens)[:, 0], tokens[:, 1:].mean(1)], dim=1).cpu()

    def _normalised(self, views_BCHW: torch.Tensor) -> torch.Tensor:
        """Values 0 to 255 as the vision model was trained on them: in [-1, 1], or by a checkpoint's own statistics."""
        if "mean" not in self.config:
            return views_BCHW / 127.5 - 1
        mean_C, std_C = (torch.tensor(self.config[key], device=views_BCHW.device) for key in ("mean", "std"))
        return (views_BCHW / 255 - mean_C[:, None, None]) / std_C[:, None, None]

    @torch.inference_mode()
    def features(self, views_BVHWC: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Views of images -> tokens and the classifier's feature q(x) of images.

        Args:
            views_BVHWC: see :meth:`tokens`.

        Returns:
            float32 on the CPU: tokens B,2T,D, and q B,N: the mean over each look's tokens, 2D numbers, then what the
            whole view's tones say, where the encoder has a part for them.

        Raises:
            FloatingPointError: see :meth:`tokens`.
        """
        tokens_BTD = self.tokens(views_BVHWC)
        pooled_BN = tokens_BTD.unflatten(1, (2, -1)).mean(2).flatten(1)
        if self.tones is None:
            return tokens_BTD, pooled_BN
        whole = torch.from_numpy(np.ascontiguousarray(views_BVHWC[:, 0])).to(self.query_tokens.device)
        said_BE = self.tones(quantiles(whole.permute(0, 3, 1, 2).float() / 255)).float().cpu()
        return tokens_BTD, torch.cat([pooled_BN, _finite(said_BE)], dim=1)

    @property
    def width(self) -> int:
        """Numbers of q."""
        return 2 * self.token_shape[1] + (self.tones.out.out_features if self.tones else 0)

    def with_tones(self, tones: Tones) -> Encoder:
        """A frozen copy on the CPU, in float32, that looks at tones by this part."""
        form = {"width": tones.out.in_features, "size": tones.out.out_features}
        made = Encoder(self.config | {"tones": form})
        made.load_state_dict(self.state_dict() | {f"tones.{key}": value for key, value in tones.state_dict().items()})
        return made.eval().requires_grad_(False)

    def fingerprint(self) -> str:
        """Hash of configuration and weights, in memory."""
        return fingerprint(self, self.config)

    def save_pretrained(self, folder: Path) -> None:
        """Write ``config.json`` and ``encoder.safetensors`` (float16)."""
        save_half(self, folder / "encoder.safetensors")
        (folder / "config.json").write_text(json.dumps(self.config, indent=1) + "\n")

    @classmethod
    def from_pretrained(cls, folder: Path) -> Encoder:
        """Load what :meth:`save_pretrained` wrote, frozen, in float32.

        Raises:
            WeightsError: a file or a key is missing or does not fit.
        """
        config = read_config(folder)
        try:
            encoder = cls(config)
        except (KeyError, TypeError, ValueError) as error:
            remedy = "restore the file that came with the weights"
            raise WeightsError(
                f"{folder / 'config.json'}: no configuration of an encoder ({error}); {remedy}"
            ) from error
        load_strictly(encoder, folder / "encoder.safetensors")
        return encoder


def _finite(values: torch.Tensor) -> torch.Tensor:
    """The same; a comparison with NaN would only ever say "clean"."""
    if not values.isfinite().all():
        raise FloatingPointError("the encoder returned values that are not finite")
    return values
