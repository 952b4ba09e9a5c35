"""Reading a manifest is light."""

from __future__ import annotations

import subprocess
import sys


def test_no_heavy_library_is_imported() -> None:
    heavy = ["torch", "ray", "pyvips", "pyarrow", "numpy", "diffusers", "transformers"]
    code = f"import sys, fdi_lib.manifest; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
