"""An adapter for another encoder's FDI, doing what it did. Does NOT know banks, files or training."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch

from fdi_lib.errors import WeightsError
from fdi_lib.models.adapter import FDIAdapter
from fdi_lib.models.layers import Decoupling

_TOLERANCE = 2e-3  # of the largest query: about what storing weights as float16 costs


def carried(adapter: FDIAdapter, fdi_TD: torch.Tensor, encoder_sha256: str) -> FDIAdapter:
    """Return an adapter that gives with other FDI tokens the guidance that it gave with its own.

    The FDI is a constant of an adapter and enters as the query of the noise decoupling only, through one linear layer a
    scale. That layer's weights are changed as little as makes the new tokens' queries those of the old tokens.

    Args:
        adapter: stays as it is.
        fdi_TD: float32 T,D, the FDI of the same degradation by another encoder.
        encoder_sha256: hash of that encoder's weights file.

    Raises:
        WeightsError: as many tokens of the same width are needed, and none that is a combination of others.
    """
    config = replace(adapter.config, encoder_sha256=encoder_sha256)
    if tuple(fdi_TD.shape) != config.fdi_shape:
        raise WeightsError(
            f"adapter {config.task}: FDI tokens of shape {tuple(fdi_TD.shape)}, expected {adapter.config.fdi_shape}: "
            "train it anew"
        )
    made = FDIAdapter(config, fdi_TD)
    state = copy.deepcopy(adapter.state_dict())
    before_TD, after_TD = adapter.fdi_TD.double(), made.fdi_TD.double()
    for name, block in adapter.decoupling.named_children():
        assert isinstance(block, Decoupling)
        weight_CD = block.to_q.weight.detach().double()
        wanted_CT = weight_CD @ before_TD.T
        changed_CD = weight_CD + (wanted_CT - weight_CD @ after_TD.T) @ torch.linalg.pinv(after_TD.T)
        changed_CD = changed_CD.half().double()  # as it is stored
        missed = (changed_CD @ after_TD.T - wanted_CT).abs().max()
        if not missed <= _TOLERANCE * wanted_CT.abs().max():  # infinite weights miss by what is no number
            raise WeightsError(
                f"adapter {config.task}: the new FDI's tokens can't tell its queries apart: train it anew"
            )
        state[f"decoupling.{name}.to_q.weight"] = changed_CD.float()
    made.load_state_dict(state)
    return made.eval().requires_grad_(False)
