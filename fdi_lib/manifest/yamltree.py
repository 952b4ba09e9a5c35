"""YAML text into plain data that remembers where each key was written.

A small, safe YAML: tags, anchors and duplicate keys are refused, and scalars follow YAML 1.2 (``no`` is a string,
``1e-4`` a number).
Does NOT know what a manifest is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from fdi_lib.errors import ManifestError

Path = tuple[str | int, ...]
COMMAND_LINE = "command line"


class _Loader(yaml.SafeLoader):
    """The safe loader with the scalars of YAML 1.2's core schema."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML's own class attribute

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Refuse anchors and aliases: a line must say what it means, and a cycle must not be possible."""
        event = self.peek_event()
        if event.anchor is not None:
            raise yaml.composer.ComposerError(
                None, None, "anchors are not supported, write the value out", event.start_mark
            )
        return super().compose_node(parent, index)


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), _first)
_Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(node.value))  # 010 is ten


@dataclass
class Tree:
    """Plain data with the origin of every key.

    Attributes:
        data: nested dicts, lists and scalars.
        lines: 1-based line by key path; None where the key was given on the command line.
        file: the file's name.
    """

    data: dict[str, Any]
    file: str
    lines: dict[Path, int | None] = field(default_factory=dict)

    def value(self, path: Path) -> Any:
        """The value at ``path``, or None where there is none."""
        node: Any = self.data
        for part in path:
            try:
                node = node[part]
            except (KeyError, IndexError, TypeError):
                return None
        return node

    def error(self, path: Path, problem: str, *, value: str = "", remedy: str = "") -> ManifestError:
        """A ManifestError placed where the longest known part of ``path`` was written."""
        known = next((path[:n] for n in range(len(path), 0, -1) if path[:n] in self.lines), None)
        line = self.lines[known] if known is not None else None
        file = COMMAND_LINE if known is not None and line is None else self.file
        return ManifestError(problem, key=dotted(path), value=value, remedy=remedy, file=file, line=line)


def dotted(path: Path) -> str:
    """``("data", "degradations", 0)`` as ``data.degradations.0``."""
    return ".".join(str(part) for part in path)


def parse(text: str, file: str) -> Tree:
    """Read a manifest's text.

    Raises:
        ManifestError: not YAML, not a mapping, a duplicate key, an anchor or a tag.
    """
    tree = Tree({}, file)
    data = _load(text, file, tree.lines)
    if not isinstance(data, dict):
        what = "is empty" if data is None else "is not a mapping of keys to values"
        raise ManifestError(what, file=file, remedy="start it with a line like 'kind: restore'")
    tree.data = data
    return tree


def override(tree: Tree, text: str) -> None:
    """Apply one ``a.b=value`` to ``tree``; the value is a YAML scalar, or a list or mapping in brackets.

    Raises:
        ManifestError: no ``=``, an empty key, or a key below something that isn't a mapping.
    """
    key, equals, raw = text.partition("=")
    path = tuple(key.strip().split("."))
    if not equals or not all(path) or "://" in key:  # not repeated: it may be a URI with a secret
        raise ManifestError("not KEY=VALUE", file=COMMAND_LINE, remedy="write restore.steps=4, for example")
    node = tree.data
    for depth, part in enumerate(path[:-1], 1):
        if node.get(part) is None:
            node[part] = {}
            tree.lines.setdefault(path[:depth], None)
        node = node[part]
        if not isinstance(node, dict):
            raise ManifestError(f"{part} holds a value, not keys", file=COMMAND_LINE, key=dotted(path))
    node[path[-1]] = _scalar(raw, dotted(path))
    for known in [p for p in tree.lines if p[: len(path)] == path]:
        del tree.lines[known]
    tree.lines[path] = None


def _scalar(raw: str, key: str) -> Any:
    if raw[:1] in ("[", "{", '"', "'"):
        try:
            return _load(raw, COMMAND_LINE, {})
        except ManifestError as exc:
            raise ManifestError(exc.problem, file=COMMAND_LINE, key=key) from None
    loader = _Loader("")
    tag = loader.resolve(yaml.ScalarNode, raw, (True, False))
    return loader.construct_object(yaml.ScalarNode(tag, raw))  # a URI may hold ': ' or ' #', so it isn't parsed


def _load(text: str, file: str, lines: dict[Path, int | None]) -> Any:
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        return None if node is None else _plain(loader, node, (), file, lines)
    except yaml.MarkedYAMLError as exc:  # only .problem: str(exc) quotes the file, which may hold a secret
        line = exc.problem_mark.line + 1 if exc.problem_mark else None
        raise ManifestError(f"not readable as YAML: {exc.problem}", file=file, line=line) from None
    except yaml.YAMLError:
        raise ManifestError("not readable as YAML: not a text file", file=file) from None


def _plain(loader: _Loader, node: yaml.Node, path: Path, file: str, lines: dict[Path, int | None]) -> Any:
    if isinstance(node, yaml.MappingNode):
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else "?"
            here, key_line = (*path, key), key_node.start_mark.line + 1
            if key in result:
                raise ManifestError(
                    f"written twice, first on line {lines[here]}", key=dotted(here), file=file, line=key_line,
                    remedy="keep one of them",
                )  # fmt: skip
            lines[here] = key_line
            result[key] = _plain(loader, value_node, here, file, lines)
        return result
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            lines[(*path, index)] = item.start_mark.line + 1
        return [_plain(loader, item, (*path, i), file, lines) for i, item in enumerate(node.value)]
    return loader.construct_object(node)
