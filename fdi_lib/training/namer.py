"""Trains the network that names all degradations of an image at once (:mod:`fdi_lib.core.namer`)."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from fdi_lib.core.namer import Namer
from fdi_lib.training.features import Damage
from fdi_lib.training.rows import fit_rows

_WIDTH, _DROPOUT = 192, 0.2
_EPOCHS, _BATCH, _RATE, _DECAY = 15, 256, 2e-3, 0.05


def damage_to_name(
    names: Sequence[str], mixed: Collection[str], content: Sequence[np.ndarray], count: int, seed: int
) -> list[Damage]:
    """What becomes of pictures for it to learn on: ``count`` of every two of ``mixed``, as many of one alone.

    Args:
        names: all degradations; each is alone equally often, so that it learns what it can't name, too.
        mixed: those of which two come together.
        content: clean pictures, uint8 HW3 each; taken in turn.
        count: pictures of every two.
        seed: key of the damage.
    """
    both = list(itertools.combinations([name for name in names if name in mixed], 2))
    present: list[tuple[str, ...]] = [pair for pair in both for _ in range(count)]
    present += [(names[i % len(names)],) for i in range(len(present))]
    order = np.random.default_rng([seed, 96]).permutation(len(present))
    return [Damage(content[i % len(content)], present[j], (seed, 97, i)) for i, j in enumerate(order)]


def train_namer(r_ND: np.ndarray, present_NK: np.ndarray, known_K: np.ndarray, seed: int) -> Namer:
    """Train on the CPU; it takes seconds.

    Args:
        r_ND: whitened deviations of images from clean content, clean images among them.
        present_NK: bool, the degradations that each of them has.
        known_K: bool, those that it is to name.
        seed: of the first weights, the order and what is dropped.
    """
    torch.manual_seed(seed)
    x_ND, label_NK = torch.from_numpy(r_ND).float(), torch.from_numpy(present_NK[:, known_K]).float()
    sizes = (x_ND.shape[1], _WIDTH, _WIDTH, label_NK.shape[1])
    linears = [nn.Linear(i, o) for i, o in itertools.pairwise(sizes)]
    drop = nn.Dropout(_DROPOUT)
    net = nn.Sequential(drop, linears[0], nn.GELU(), drop, linears[1], nn.GELU(), drop, linears[2])

    def loss_of(rows: torch.Tensor) -> torch.Tensor:
        return F.binary_cross_entropy_with_logits(net(x_ND[rows]), label_NK[rows])

    fit_rows(net.parameters(), len(x_ND), loss_of, epochs=_EPOCHS, batch=_BATCH, rate=_RATE, decay=_DECAY)
    weights = [linear.weight.detach().numpy().T.astype(np.float64) for linear in linears]
    biases = [linear.bias.detach().numpy().astype(np.float64) for linear in linears]
    weight_IK, bias_K = np.zeros((_WIDTH, len(known_K))), np.zeros(len(known_K))
    weight_IK[:, known_K], bias_K[known_K] = weights[-1], biases[-1]
    return Namer(known_K, (*weights[:-1], weight_IK), (*biases[:-1], bias_K))
