"""The rules of the house: what lies where, how long a file may be, which manifests parse, which commands exist."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fdi_lib.manifest import load_manifest

ROOT = Path(__file__).parents[1]
FOLDERS = {"jobs", "fdi_lib", "cluster", "manifests", "tests", "docs", ".ci"}
TOP_FILES = {"pyproject.toml", "README.md", "Makefile", "CHANGELOG.md", "LICENSE"}
WHOLE = ("faults", "hostile")  # folders of tests about no part of the source in particular: docs/SECURITY.md
MAX_LINES = 300
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
MANIFESTS = sorted((ROOT / "manifests").rglob("*.yaml"))


def project_files() -> list[Path]:
    """Every file that is, or is about to be, part of the repository."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout: what belongs to the project is not known")
    return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


def text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return ""


def test_top_level_holds_only_what_it_should() -> None:
    tops = {path.relative_to(ROOT).parts for path in project_files()}
    folders = {parts[0] for parts in tops if len(parts) > 1}
    files = {parts[0] for parts in tops if len(parts) == 1 and not parts[0].startswith(".")}
    assert folders == FOLDERS
    assert files == TOP_FILES


def test_no_file_is_long_without_a_reason() -> None:
    decisions = "".join(path.read_text() for path in (ROOT / "docs/decisions").glob("*.md"))
    code = [p for p in project_files() if p.suffix in {".py", ".yaml", ".toml"} or p.name in {"Makefile", "run"}]
    lines = {str(path.relative_to(ROOT)): len(text_of(path).splitlines()) for path in code}
    assert not {name: count for name, count in lines.items() if count > MAX_LINES and name not in decisions}


def test_test_folders_mirror_the_source() -> None:
    """tests/core is about fdi_lib/core, tests/jobs about jobs; what attacks the whole lies aside."""
    folders = {path.parent.relative_to(ROOT / "tests") for path in (ROOT / "tests").rglob("test_*.py")}
    folders -= {Path(name) for name in WHOLE}
    assert not {str(f) for f in folders if not (ROOT / f).is_dir() and not (ROOT / "fdi_lib" / f).is_dir()}


def test_no_job_knows_the_command_line() -> None:
    """Only `python -m jobs.x`, the block under `if __name__ == "__main__"`, may go through jobs.cli."""
    for path in sorted((ROOT / "jobs").rglob("*.py")):
        for part in ast.parse(path.read_text()).body:
            if isinstance(part, ast.If) and "__main__" in ast.unparse(part.test):
                continue
            imports = [ast.unparse(n) for n in ast.walk(part) if isinstance(n, ast.Import | ast.ImportFrom)]
            assert not re.search(r"jobs\.cli|from jobs import .*\bcli\b", "\n".join(imports)), path


# Calls that run, or may run, what a file from elsewhere says; each may stand with its harmless keyword.
UNSAFE_CALLS = {
    "eval": None, "exec": None, "os.system": None,
    "pickle.load": None, "pickle.loads": None, "pickle.Unpickler": None, "marshal.loads": None, "shelve.open": None,
    "cloudpickle.load": None, "cloudpickle.loads": None, "joblib.load": None, "dill.load": None, "dill.loads": None,
    "yaml.load": None, "yaml.load_all": None, "yaml.full_load": None, "yaml.unsafe_load": None,
    "torch.load": ("weights_only", True), "np.load": ("allow_pickle", False),
}  # fmt: skip
LIBRARIES = ("transformers", "diffusers")  # whose from_pretrained takes a pickle where no safetensors lie


def unsafe_calls(code: str) -> list[str]:
    """Calls that no file of this project may make."""
    tree = ast.parse(code)
    theirs: set[str] = set()
    whole: dict[str, str] = {}  # what a name from `from x import y as z` is in full
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            whole |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            theirs |= {a.asname or a.name for a in node.names if node.module.partition(".")[0] in LIBRARIES}
        if isinstance(node, ast.Import):
            whole |= {alias.asname: alias.name for alias in node.names if alias.asname and alias.name != "numpy"}
    found = []
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        first, dot, rest = ast.unparse(call.func).partition(".")
        name = f"{whole.get(first, first)}{dot}{rest}"
        said = {key.arg: getattr(key.value, "value", ...) for key in call.keywords}
        harmless = UNSAFE_CALLS.get(name)
        if name in UNSAFE_CALLS and not (harmless and said.get(harmless[0], ...) is harmless[1]):
            found.append(name)
        if said.get("trust_remote_code", False) is not False or said.get("shell", False) is not False:
            found.append(f"{name} that runs what it is given")
        loads = rest.rpartition(".")[2] == "from_pretrained" and (first in theirs or first in LIBRARIES)
        if loads and "Tokenizer" not in name and said.get("use_safetensors") is not True:  # tokenizers are JSON
            found.append(f"{name} without use_safetensors=True")
    return found


def test_no_file_runs_what_comes_from_elsewhere() -> None:
    code = [path for folder in ("fdi_lib", "jobs") for path in (ROOT / folder).rglob("*.py")]
    assert len(code) > 100
    found = {str(path.relative_to(ROOT)): unsafe_calls(path.read_text()) for path in code}
    assert not {name: calls for name, calls in found.items() if calls}


@pytest.mark.parametrize(
    "code",
    [
        "import pickle\npickle.loads(b'')",
        "from pickle import loads as read\nread(b'')",
        "import pickle as p\np.load(f)",
        "import yaml\nyaml.load(f, Loader=yaml.Loader)",
        "import torch\ntorch.load(f)",
        "import torch\ntorch.load(f, weights_only=False)",
        "import numpy as np\nnp.load(f, allow_pickle=True)",
        "from transformers import AutoModel\nAutoModel.from_pretrained(x)",
        "import diffusers\ndiffusers.UNet2DConditionModel.from_pretrained(x, use_safetensors=None)",
        "from transformers import CLIPTokenizer\nCLIPTokenizer.from_pretrained(x, trust_remote_code=True)",
        "import subprocess\nsubprocess.run(x, shell=True)",
    ],
)
def test_unsafe_calls_are_found(code: str) -> None:
    assert len(unsafe_calls(code)) == 1


PRIVATE = re.compile(r"(?<![\w.])/(?:work|home/(?!ray\b)|Users)/|[.]library\b|\bissue #?\d|[.]{2}/shared")


def test_no_file_names_a_place_of_one_machine() -> None:
    found = {
        str(path.relative_to(ROOT)): PRIVATE.findall(text_of(path))
        for path in project_files()
        if path.suffix not in {".safetensors", ".tsv"}
    }
    found[".ci/run"] = [match for match in found[".ci/run"] if not match.endswith("shared")]  # where CI has schemas
    assert not {name: matches for name, matches in found.items() if matches}


@pytest.mark.parametrize("path", MANIFESTS, ids=[str(path.relative_to(ROOT)) for path in MANIFESTS])
def test_manifest_parses(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FDI_DATA", str(tmp_path))
    manifest = load_manifest(str(path), [])
    folder = path.relative_to(ROOT / "manifests").parts[0]
    assert manifest.kind == folder.removesuffix("s")  # manifests/banks holds kind: bank


def commands() -> list[tuple[str, str]]:
    """(document, command) for every `fdi ...` and `make ...` in a code span or code block."""
    found = []
    for document in DOCUMENTS:
        text = document.read_text()
        blocks = re.findall(r"^```\w*\n(.*?)^```|^((?:(?: {4}|\t).*\n)+)", text, re.MULTILINE | re.DOTALL)
        spans = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text)
        for line in [*"\n".join(a or b for a, b in blocks).splitlines(), *spans]:
            line = re.sub(r"^\s*(?:\$ )?(?:[A-Z_]+=\S+ )*(?:\.venv/bin/)?", "", line)
            if re.match(r"(?:fdi|make) [a-z]", line):
                found.append((str(document.relative_to(ROOT)), line))
    return sorted(set(found))


@pytest.mark.parametrize(("document", "command"), commands())
def test_documented_command_exists(document: str, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    program, name, *rest = command.split("#")[0].split()
    if program == "make":
        assert re.search(rf"^{name}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
        return
    from jobs.cli import main

    try:
        code: object = main([name, "--help"])
    except SystemExit as stop:  # argparse's way of ending --help
        code = stop.code
    assert not code, capsys.readouterr().err
    for word in rest:
        if word.startswith("manifests/") and "<" not in word and "*" not in word:
            assert (ROOT / word).is_file(), word


def test_make_has_the_promised_commands() -> None:
    for name in ["setup", "demo", "test", "check", "bench", "clean"]:
        assert re.search(rf"^{name}:", (ROOT / "Makefile").read_text(), re.MULTILINE), name


@pytest.mark.parametrize("module", ["fdi_lib", "fdi_lib.manifest", "fdi_lib.records", "fdi_lib.storage.ledger"])
def test_light_imports(module: str) -> None:
    code = f"import sys, {module}; print(sorted({{'torch', 'ray', 'transformers', 'diffusers'}} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
