"""Hostile names: of files, of members, of folders. Some are only odd, and must come through; others must not."""

from __future__ import annotations

import os
from collections.abc import Iterator

# Odd, but names that any store can hold: their images are restored under them.
ODD = [
    "<script>alert(1)</script>.png", "\"><img src=x onerror=alert(1)>.png", "' onmouseover='alert(1).png",
    "javascript:alert(1).png", "<svg onload=alert(1)>.png", "&lt;b&gt;&#x27;.png", "{{ 7 * 7 }}.png",
    "{% include 'x' %}.png", "${jndi:ldap:x}.png", "<!--.png", "]]>.png", "</style><script>.png",
    "right\u202egnp.png", "\u200bzero.png", "\ufeffmark.png", "line\u2028break.png", "e\u0301.png", "\u00e9.png",
    "\U0001f5bc.png", "%2e%2e%2fescape.png", "%00.png", "%n%s%d.png", "100%.png", "a b.png", " .png", "-rf.png",
    "--help.png", "*.png", "?.png", "[a].png", "~root.png", "$HOME.png", "`id`.png", "$(id).png", ";ls.png", "|x.png",
    "CON.png", "a:b.png", "case.png", "CASE.png", "Case.PNG", "...x.png", "..a.png", ".hidden.png", "x.png.json.png",
    "a#b.png", "a~2.png", "a.png", "index.html.png", "run.json.png", "s" * 236 + ".png", "t" * 231 + ".png",
    "\u00e9" * 118 + ".png",
]  # fmt: skip

# What no store of ours may ever be asked for.
UNSAFE = [
    "../escape.png", "../../../escape.png", "a/../../escape.png", "/etc/escape.png", "//escape.png", "..\\escape.png",
    "C:\\escape.png", "new\nline.png", "return\r.png", "tab\t.png", "escape\x1b[2J.png", "delete\x7f.png",
    "\udcff\udcfe.png", "caf\udce9.png", "\\xff\\xfe.png", "u" * 237 + ".png", "v" * 400 + ".png",
    "/".join(["d" * 200] * 5) + "/deep.png", "/".join("d" * 600) + "/deep.png",
]  # fmt: skip

# Names of files that are no images: counted by extension, and shown in the report.
IGNORED = ["notes.<script>alert(1)<", 'notes."onload=alert(1) x="', "notes.\u202etxt", "notes.\udcff", "notes.a\nb"]


def on_disk(names: list[str]) -> Iterator[str]:
    """Those of the names that a file can have."""
    return (name for name in names if "/" not in name and len(os.fsencode(name)) <= 255)
