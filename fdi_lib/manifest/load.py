"""A manifest file plus overrides into frozen settings, or one message that names file, line, key, value and remedy.

Does NOT know stores, models or Ray: nothing outside the file is looked at.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path as FilePath
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from fdi_lib.errors import ManifestError
from fdi_lib.manifest.kinds import KINDS, Manifest
from fdi_lib.manifest.locations import CREDENTIALS_REMEDY, has_secret, looks_secret, redact
from fdi_lib.manifest.yamltree import Path, Tree, dotted, override, parse

_MAX_VALUE_CHARS = 120


def load_manifest(path: str, overrides: list[str] | tuple[str, ...] = (), kind: str | None = None) -> Manifest:
    """Read a manifest of any kind.

    Args:
        path: YAML file.
        overrides: ``a.b=value`` each; the value is a YAML scalar, or a list or mapping in brackets.
        kind: the kind that the caller can use; None takes any.

    Raises:
        ManifestError: anything that is wrong with the file or an override; never repeats a secret.
    """
    tree = parse(_read(path), path)
    for text in overrides:
        override(tree, text)
    model = _model(tree, kind)
    try:
        return model.model_validate(tree.data)
    except ValidationError as exc:
        raise _explain(tree, model, exc.errors(include_url=False, include_input=False)) from None


def _read(path: str) -> str:
    try:
        return FilePath(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ManifestError("no such manifest", file=redact(path), remedy="check the path") from None
    except UnicodeDecodeError:
        raise ManifestError("not a text file in UTF-8", file=redact(path)) from None
    except (OSError, ValueError) as exc:
        text = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
        raise ManifestError(f"can't be read: {text}", file=redact(path)) from None


def _model(tree: Tree, wanted: str | None) -> type[Manifest]:
    kind = tree.data.get("kind")
    if "kind" not in tree.data:
        raise tree.error(("kind",), "missing", remedy=f"start the file with kind: {wanted or 'restore'}")
    if not isinstance(kind, str) or kind not in KINDS:
        raise tree.error(("kind",), "unknown kind", value=_shown(kind), remedy=f"use one of: {', '.join(KINDS)}")
    if wanted is not None and kind != wanted:
        raise tree.error(("kind",), f"this command takes a {wanted} manifest", value=kind, remedy=f"run fdi {kind}")
    return KINDS[kind]


def _explain(tree: Tree, model: type[BaseModel], errors: list[ErrorDetails]) -> ManifestError:
    """The first problem of the file, with the number of the others."""
    by_path: dict[Path, list[ErrorDetails]] = {}
    for error in errors:  # a union reports once for each branch, a list once for itself and once for an item
        by_path.setdefault(_key_path(tree, error["loc"]), []).append(error)
    inner = [path for path in by_path if not any(other != path and other[: len(path)] == path for other in by_path)]
    found = sorted((_one(tree, model, path, by_path[path]) for path in inner), key=lambda e: e.line or 0)
    first = found[0]
    if len(found) > 1:
        first.problem += f" (and {len(found) - 1} more problem{'s' if len(found) > 2 else ''} in this manifest)"
    return first


def _one(tree: Tree, model: type[BaseModel], path: Path, errors: list[ErrorDetails]) -> ManifestError:
    kind, context = errors[0]["type"], errors[0].get("ctx", {})
    if kind == "fdi":
        path = (*path, *context["key"].split(".")) if context["key"] else path
        return tree.error(path, context["problem"], value=_shown(tree.value(path)), remedy=context["remedy"])
    if kind == "extra_forbidden":  # the value isn't shown: it may be a password under a key of the user's own
        return tree.error(path, "unknown key", remedy=_nearest(model, path))
    if kind == "missing":
        return tree.error(path, "missing", remedy=f"add it to the manifest, or {dotted(path)}=VALUE to the command")
    wanted = " or ".join(dict.fromkeys(_wanted(error) for error in errors))
    quoted = ", not text" if isinstance(tree.value(path), str) and "number" in wanted else ""
    return tree.error(path, f"must be {wanted}{quoted}", value=_shown(tree.value(path)), remedy=_meaning(model, path))


def _key_path(tree: Tree, loc: Path) -> Path:
    """Drop what pydantic adds to a key path for the branches of a union."""
    path: Path = ()
    for index, part in enumerate(loc):
        node = tree.value(path)
        inside = isinstance(node, (dict, list)) and (isinstance(part, int) or part in node)
        if inside or (isinstance(node, dict) and index == len(loc) - 1):
            path = (*path, part)
    return path


_WORDS = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "tuple_type": "a list",
    "model_type": "a block of keys",
    "string_too_short": "at least one character",
    "too_short": "a list with something in it",
    "string_pattern_mismatch": "a name of lower-case letters, digits, '-' and '_'",
}


def _wanted(error: ErrorDetails) -> str:
    """What a value must be, in words that follow "must be"."""
    if error["type"] == "string_pattern_mismatch" and "{64}" in error.get("ctx", {}).get("pattern", ""):
        return "64 hexadecimal digits"
    return _WORDS.get(error["type"], error["msg"].removeprefix("Input should be "))


def _meaning(model: type[BaseModel], path: Path) -> str:
    """The remedy for a wrong value: what the key is for."""
    parent = block_at(model, path[:-1])
    info = parent.model_fields.get(str(path[-1])) if parent else None
    return f"this key is: {info.description}" if info and info.description else ""


def _shown(value: Any) -> str:
    if value is None:
        return ""
    text = redact(str(value).lower() if isinstance(value, bool) else str(value))
    return text if len(text) <= _MAX_VALUE_CHARS else text[:_MAX_VALUE_CHARS] + "..."


def _nearest(model: type[BaseModel], path: Path) -> str:
    """The remedy for an unknown key: the key that was probably meant."""
    name = str(path[-1])
    if looks_secret(name) or has_secret(name):
        return CREDENTIALS_REMEDY
    parent = block_at(model, path[:-1])
    known = list(parent.model_fields) if parent else []
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"did you mean {dotted((*path[:-1], close[0]))}?"
    elsewhere = [key for key in _all_keys(model) if key.rpartition(".")[2] == name]
    if elsewhere:
        return f"did you mean {elsewhere[0]}?"
    return f"known here: {', '.join(known)}"


def block_at(model: type[BaseModel], path: Path) -> type[BaseModel] | None:
    """The settings class at a key path below ``model``; None where there is a plain value."""
    block: type[BaseModel] | None = model
    names_next = False  # below a mapping lies a name of the user's own, and then the block's keys
    for part in path:
        if block is None:
            return None
        if names_next:
            names_next = False
        elif isinstance(part, str):
            annotation = block.model_fields[part].annotation if part in block.model_fields else None
            block, names_next = nested(annotation), is_mapping(annotation)
    return block


def is_mapping(annotation: Any) -> bool:
    """Whether a key holds blocks by names of the user's own, as ``restore.adapters`` does."""
    return get_origin(annotation) is Mapping


def nested(annotation: Any) -> type[BaseModel] | None:
    """The settings class inside an annotation such as ``SourceSettings | None`` or ``tuple[PairSettings, ...]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for arg in get_args(annotation) if (found := nested(arg))), None)


def _all_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    keys = []
    for name, info in model.model_fields.items():
        keys.append(prefix + name)
        block = nested(info.annotation)
        if block is not None:
            keys += _all_keys(block, f"{prefix}{name}.NAME." if is_mapping(info.annotation) else f"{prefix}{name}.")
    return keys
