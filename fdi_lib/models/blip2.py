"""BLIP-2 checkpoints as FDI encoders: which of their tensors an image query needs, read strictly and nothing else.

A full checkpoint given to ``Blip2VisionModel.from_pretrained`` loads *nothing* and only warns, for its names carry
prefixes: so names are compared here, one by one. Of the sharded ones only the shards with the encoder in them are
needed. Knows neither the Hub (:mod:`fdi_lib.models.encoders`) nor the compact encoder's files.

Read, below one prefix (none, or ``model.``, say): ``query_tokens``, ``vision_model.*`` and ``qformer.*``, all of them,
but for what only text goes through in the Q-Former (``TEXT_ONLY``). Never read, for they lie outside of the three: the
language model (``language_model``, ``language_projection``), the text embeddings of Blip2ForImageTextRetrieval
(``embeddings``), projections and heads (``vision_projection``, ``text_projection``, ``itm_head``).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fdi_lib.errors import WeightsError
from fdi_lib.models.checkpoints import fill, read_tensors, shards_of, tensor_names, weight_files
from fdi_lib.models.configs import read_config, read_json

if TYPE_CHECKING:
    from fdi_lib.models.encoder import Encoder

MODEL_TYPE, STEM, INDEX = "blip-2", "model", "model.safetensors.index.json"
CONFIG_FILES = ("config.json", "preprocessor_config.json", "processor_config.json", INDEX)

# The Q-Former's feed-forward layers for text, there with use_qformer_text_input; queries have their own (`*_query`).
TEXT_ONLY = re.compile(r"qformer\.encoder\.layer\.\d+\.(intermediate|output)\.(dense|LayerNorm)\.(weight|bias)")
_QUERY = "query_tokens"
_OF_ENCODER = re.compile(rf"(?:.*\.)?(?:{_QUERY}|(?:vision_model|qformer)\..+)")

# What of the configuration fixes the architecture; the rest concerns training, or text. Defaults are transformers'.
_BOTH = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "hidden_act", "layer_norm_eps")
_VISION = (*_BOTH, "image_size", "patch_size", "qkv_bias")
_QFORMER = (*_BOTH, "cross_attention_frequency")
_IMAGE_PX, _WIDTH, _QUERIES = 224, 1408, 32

_CLIP_MEAN, _CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_CROPS = 4


def is_blip2(folder: Path) -> bool:
    """Whether ``config.json`` says so.

    Raises:
        WeightsError: it is missing or not JSON.
    """
    return read_config(folder).get("model_type") == MODEL_TYPE


def encoder_config(folder: Path) -> dict[str, Any]:
    """A checkpoint's configuration, as :class:`Encoder` takes it; views are shown as they are.

    Raises:
        WeightsError: a file is missing, not JSON, or of another kind of model.
    """
    path, given = folder / "config.json", read_config(folder)
    if given.get("model_type") != MODEL_TYPE:
        raise WeightsError(f"{path}: expected model_type {MODEL_TYPE}, found {given.get('model_type')}")
    # transformers writes only what differs from its defaults.
    vision = {"image_size": _IMAGE_PX, "hidden_size": _WIDTH} | _picked(given.get("vision_config"), _VISION)
    qformer = _picked(given.get("qformer_config"), _QFORMER)
    for key in ("image_size", "patch_size"):
        if isinstance(vision.get(key), list) and len(set(vision[key])) == 1:
            vision[key] = vision[key][0]
    if not isinstance(vision["image_size"], int):
        raise WeightsError(f"{path}: expected square images, found image_size {vision['image_size']}")
    mean, std = _normalisation(folder, vision["image_size"])
    return {
        "vision": vision,
        "qformer": qformer | {"encoder_hidden_size": vision["hidden_size"]},
        "query_tokens": given.get("num_query_tokens", _QUERIES),
        "crops": _CROPS,
        "detail_gain": 0.0,
        "mean": mean,
        "std": std,
    }


def encoder_files(folder: Path) -> list[Path]:
    """The files that hold the encoder's tensors, by the index of a sharded checkpoint.

    Raises:
        WeightsError: one is missing, or there are only pickles.
    """
    return weight_files(folder, STEM, of_encoder)


def file_names(folder: Path) -> list[str]:
    """Names of those files, when only ``CONFIG_FILES`` are there yet."""
    index = folder / INDEX
    return [path.name for path in shards_of(index, of_encoder)] if index.is_file() else [f"{STEM}.safetensors"]


def of_encoder(name: str) -> bool:
    """Whether a tensor of this name, with any prefix, belongs to the encoder."""
    return _OF_ENCODER.fullmatch(name) is not None


def read_encoder(files: Sequence[Path], config: dict[str, Any]) -> Encoder:
    """Load an encoder, frozen, in float32, on the CPU.

    Args:
        files: see :func:`encoder_files`.
        config: see :func:`encoder_config`.

    Raises:
        WeightsError: a tensor is missing, is one too many, or of another shape; names file, expected and found.
    """
    from fdi_lib.models.encoder import Encoder  # transformers is imported only where a model lives

    folder = files[0].parent
    where = str(files[0] if len(files) == 1 else folder / INDEX)
    try:
        with torch.device("meta"):  # a billion random numbers would only be thrown away
            encoder = Encoder(config)
    except (TypeError, ValueError) as error:
        raise WeightsError(f"{folder / 'config.json'}: no configuration of BLIP-2 ({error})") from error
    names = tensor_names(files)
    queries = [name for name in names if name == _QUERY or name.endswith(f".{_QUERY}")]
    if len(queries) != 1:
        raise WeightsError(f"{where}: expected one {_QUERY}, found {', '.join(queries) or 'none'}; no BLIP-2?")
    prefix = queries[0].removesuffix(_QUERY)
    own = {name.removeprefix(prefix) for name in names if name.startswith(prefix) and of_encoder(name)}
    needed, found = set(encoder.state_dict()), {name for name in own if not TEXT_ONLY.fullmatch(name)}
    for what, odd in (("is missing", needed - found), ("is not BLIP-2's", found - needed)):
        if odd:
            raise WeightsError(
                f"{where}: {prefix}{min(odd)} {what}; expected the {len(needed)} tensors of config.json's vision model "
                f"and Q-Former, found {len(needed & found)} of them and {len(found - needed)} others"
            )
    tensors = read_tensors(files, [prefix + name for name in needed])
    fill(encoder, {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}, where, torch.float32)
    return encoder


def _picked(given: Any, keys: Sequence[str]) -> dict[str, Any]:
    return {key: given[key] for key in keys if given and given.get(key) is not None}


def _normalisation(folder: Path, image_px: int) -> tuple[list[float], list[float]]:
    """The checkpoint's own mean and spread of each colour, of values in [0, 1]; CLIP's, which BLIP-2 uses, else."""
    path, given = folder / CONFIG_FILES[1], {}
    if path.is_file():
        given = read_json(path, "a checkpoint")
    elif (folder / CONFIG_FILES[2]).is_file():  # where newer releases of transformers write it
        path = folder / CONFIG_FILES[2]
        given = read_json(path, "a checkpoint").get("image_processor") or {}
    size = given.get("size") or {}
    sides = set(size.values()) if isinstance(size, dict) else {size}
    if sides - {image_px}:
        raise WeightsError(f"{path}: expected the vision model's size, {image_px}, found {size}")
    if not given.get("do_rescale", True) or abs(given.get("rescale_factor", 1 / 255) * 255 - 1) > 1e-3:
        raise WeightsError(f"{path}: expected values scaled by 1/255, found {given.get('rescale_factor')}")
    if not given.get("do_normalize", True):
        return [0.0] * 3, [1.0] * 3
    mean, std = (list(given.get(key) or clip) for key, clip in (("image_mean", _CLIP_MEAN), ("image_std", _CLIP_STD)))
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise WeightsError(f"{path}: expected three numbers each, found image_mean {mean} and image_std {std}")
    return mean, std
