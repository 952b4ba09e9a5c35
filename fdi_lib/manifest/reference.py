"""The reference of every manifest key, written from the settings themselves: ``python -m fdi_lib.manifest.reference``.

Does NOT know what the settings do; it repeats their types, bounds, defaults and descriptions.
"""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from fdi_lib.manifest.kinds import KINDS
from fdi_lib.manifest.load import is_mapping, nested

_HEAD = """# Manifest reference

Every key of every manifest, with its default and what it may be. This page is written from the settings by
`python -m fdi_lib.manifest.reference > docs/manifest.md`; a test keeps the two equal.

A manifest is a YAML file that starts with its `kind`. Any key can be given on the command line instead, by its dotted
path: `fdi restore manifests/restore/demo.yaml restore.steps=4 output.uri=out/run1`. Unknown keys or wrong values
end the command with exit code 2 and one message that names file, line, key, value and remedy. Values are
YAML 1.2 (`no` is text, `1e-4` is a number); anchors, tags and keys written twice are refused. Relative local paths are
relative to the current folder. Credentials are never part of a manifest: they come from the environment, a profile or
the instance role.
"""
_SIGNS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<=", "multiple_of": "multiple of"}


def render() -> str:
    """The whole page as Markdown."""
    seen: dict[type[BaseModel], str] = {}
    parts = [_HEAD]
    for kind, model in KINDS.items():
        rows = _rows(model, "", kind, seen)
        parts.append(
            f"\n## kind: {kind}\n\n{_sentence(model)}\n\n| key | default | may be | meaning |\n|---|---|---|---|\n"
            + "\n".join(rows)
            + "\n"
        )
    return "".join(parts)


def _rows(model: type[BaseModel], prefix: str, kind: str, seen: dict[type[BaseModel], str]) -> list[str]:
    rows = []
    for name, info in model.model_fields.items():
        key, block = prefix + name, nested(info.annotation)
        if block is None:
            rows.append(f"| `{key}` | {_default(info)} | {_allowed(info)} | {info.description} |")
            continue
        below, what = key, "block of keys"
        if get_origin(info.annotation) is tuple:
            below, what = f"{key}[]", "list of blocks"
        elif is_mapping(info.annotation):
            below, what = f"{key}.NAME", "block of keys by name"
        if info.is_required() or info.default is None or is_mapping(info.annotation):
            rows.append(f"| `{key}` | {_default(info)} | {what} | {info.description} |")
        if seen.setdefault(block, kind) != kind:
            rows.append(f"| `{below}.*` | | | as in kind: {seen[block]} |")
        else:
            rows += _rows(block, f"{below}.", kind, seen)
    return rows


def _default(info: FieldInfo) -> str:
    if info.default_factory is not None:
        return "`$FDI_DATA`"
    value = info.default
    if value is PydanticUndefined:
        return "required"
    return f"`{_yaml(value)}`"


def _yaml(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_yaml, value)) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _allowed(info: FieldInfo) -> str:
    bounds = [
        f"{sign} {_yaml(getattr(m, name))}" for m in info.metadata for name, sign in _SIGNS.items() if hasattr(m, name)
    ]
    return ", ".join([_type(info.annotation), *bounds])


def _type(annotation: Any) -> str:
    """An annotation in words, bounds inside it included."""
    if annotation is type(None):
        return "null"
    if isinstance(annotation, type) and not get_args(annotation):
        return {int: "whole number", float: "number", bool: "true, false", str: "text"}[annotation]
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if hasattr(annotation, "__metadata__"):
        inner = FieldInfo.from_annotation(annotation)
        return _allowed(inner)
    if origin is tuple:
        return "list of " + _type(arguments[0])
    return " or ".join(_type(argument) for argument in arguments)


def _sentence(model: type[BaseModel]) -> str:
    return (model.__doc__ or "").strip().splitlines()[0].replace("``", "`")


if __name__ == "__main__":
    print(render(), end="")
