"""The conventions of the house: which file may know which, and what every public function looks like."""

import ast
import inspect
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

import sc_vaenb

ROOT = Path(sc_vaenb.__file__).parent
ARROWS = {  # what may be imported from where, within the package
    "_schema": set(),
    "_names": set(),
    "_session": set(),
    "_caches": set(),
    "_scanpy": {"_session"},
    "_files": set(),
    "_command": set(),
    "_constraints": set(),
    "_anndata_checks": {"_constraints", "data"},
    "_checks": {"_anndata_checks", "_constraints", "_names"},
    "_obs": {"_names"},
    "model": {"model", "_session"},
    "data": {"data", "model"},
    "fit": {"fit", "data", "metrics", "model", "_files", "_schema", "_session"},
    "inference": {"inference", "fit", "data", "metrics", "model", "_session"},
    "metrics": {"metrics", "_checks", "_session"},
    "datasets": {"datasets", "_checks", "_files", "_session"},
    "_record_weights": {"_schema", "model"},
    "_record_checks": {"_names", "_record_weights", "_schema", "model"},
    "_model_file": {"_record", "_record_checks", "_record_weights", "_schema"},
    "_record": {"_record_checks", "_record_weights", "_schema", "model"},
    "_results": {"_schema"},
    "_adata": {"_obs", "_session", "data"},
    "pp": {"pp", "_adata", "_checks", "_obs", "_scanpy", "_session", "data", "metrics"},
    "tl": {
        *("tl", "_adata", "_anndata_checks", "_checks", "_constraints", "_files", "_model_file", "_names", "_obs"),
        *("_record", "_results", "_scanpy", "_schema", "_session"),
        *("inference", "fit", "data", "metrics", "model"),
    },
    "pl": {"pl", "_adata", "_checks", "_obs", "_record", "_results", "_scanpy", "_session", "metrics"},
    "report": {"report", "_files", "_checks", "_names", "_obs", "pp", "tl", "pl", "_record", "_results"},
    "cli": {
        *("cli", "datasets", "report", "pp", "tl", "pl", "metrics", "data", "__version__"),
        *("_caches", "_checks", "_command", "_files", "_names", "_obs"),
        *("_record", "_record_checks", "_results", "_session"),
    },
}
FILES = sorted(path for path in ROOT.rglob("*.py") if path.relative_to(ROOT).parts[0].removesuffix(".py") in ARROWS)
FUNCTIONS = [
    pytest.param(module, name, id=f"{module}.{name}")
    for module in ("pp", "tl", "pl", "report", "datasets")
    for name in import_module(f"sc_vaenb.{module}").__all__
]
every_function = pytest.mark.parametrize(("module", "name"), FUNCTIONS)


def imports(path):
    """Full names of all that a file imports, anywhere in it."""
    package = ["sc_vaenb", *path.relative_to(ROOT).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            module = [*base, *((node.module or "").split(".") if node.module else [])]
            yield from (".".join([*module, alias.name]) for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_arrows_point_one_way(path):
    part = path.relative_to(ROOT).parts[0].removesuffix(".py")
    found = set(imports(path))
    own = {name.split(".")[1] for name in found if name.startswith("sc_vaenb.")}
    assert own <= ARROWS[part]
    if part in {"model", "data", "fit", "inference", "metrics"}:
        assert not {name.split(".")[0] for name in found} & {"anndata", "scanpy"}


def test_no_module_imports_itself_over_others():
    """Not for types either. What a package's `__init__` imports does not count: it is there for users."""
    modules = {
        ".".join(["sc_vaenb", *path.relative_to(ROOT).with_suffix("").parts]): path for path in ROOT.rglob("*.py")
    }
    graph = {
        module: {name if name in modules else name.rpartition(".")[0] for name in imports(path)}
        & set(modules) - {module}
        for module, path in modules.items()
        if path.name != "__init__.py"
    }
    order = list(TopologicalSorter(graph).static_order())  # raises CycleError
    assert order.index("sc_vaenb.model.config") < order.index("sc_vaenb.model.vae") < order.index("sc_vaenb.fit.loop")


def test_the_map_of_the_docs_is_that_of_the_imports():
    """The table in docs/architecture.md: which parts a part imports; those that begin with _ are at the ground."""
    text = (ROOT.parent / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| .* \| (.*) \|$", text, re.MULTILINE)
    told = {part: set(re.findall(r"`(\w+)`", parts)) for part, parts in rows}
    true: dict[str, set[str]] = {part: set() for part in told}
    for path in ROOT.rglob("*.py"):
        part = path.relative_to(ROOT).parts[0]
        if part in true:
            names = {name.split(".")[1] for name in imports(path) if name.startswith("sc_vaenb.")}
            true[part] |= {name for name in names if not name.startswith("_")} - {part}
    assert told == true
    assert set(told) == {path.name for path in ROOT.iterdir() if path.is_dir() and path.name[0] != "_"}


def test_the_import_check_sees_imports(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    (tmp_path / "fit").mkdir()
    path = tmp_path / "fit" / "loop.py"
    path.write_text(
        "import torch.nn\nfrom .. import _adata\nfrom ..model.vae import X\nfrom . import device\n"
        "def f():\n    from anndata import AnnData\n"
    )
    expected = {"torch.nn", "sc_vaenb._adata", "sc_vaenb.model.vae.X", "sc_vaenb.fit.device", "anndata.AnnData"}
    assert set(imports(path)) == expected


@pytest.mark.slow
def test_importing_the_package_loads_torch_and_nothing_else_that_is_heavy():
    code = (
        "import sys, sc_vaenb\n"
        "heavy = {'scanpy', 'anndata', 'pandas', 'sklearn', 'matplotlib', 'numba'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert 'torch' in sys.modules  # before numba starts threads\n"
        "assert sc_vaenb.__version__\n"
        "sc_vaenb.tl\n"
        "assert {'torch', 'scanpy'} <= set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_package_offers_its_public_parts():
    public = {path.name.removesuffix(".py") for path in ROOT.iterdir() if path.suffix in {".py", ""}}
    public = {name for name in public if not name.startswith("_")} - {"cli", "data", "fit", "inference", "model"}
    assert set(sc_vaenb.__all__) == public
    assert {*sc_vaenb.__all__, "__version__"} == set(dir(sc_vaenb))
    for name in sc_vaenb.__all__:
        assert getattr(sc_vaenb, name).__name__ == f"sc_vaenb.{name}"
    with pytest.raises(AttributeError, match="module 'sc_vaenb' has no attribute 'nothing'"):
        _ = sc_vaenb.nothing


@pytest.mark.parametrize("module", ["pp", "tl", "pl", "report", "datasets", "metrics"])
def test_all_lists_what_is_public(module):
    module = import_module(f"sc_vaenb.{module}")
    own = {
        name
        for name, value in vars(module).items()
        if inspect.isfunction(value) and not name.startswith("_") and value.__module__.startswith(module.__name__)
    }
    assert own <= set(module.__all__)
    assert module.__all__ == sorted(module.__all__, key=lambda name: (not name.isupper(), name))
    assert all(hasattr(module, name) for name in module.__all__)


@pytest.mark.parametrize("module", ["pp", "tl", "pl", "datasets", "report"])
def test_one_public_function_a_file(module):
    for name in import_module(f"sc_vaenb.{module}").__all__:
        function = getattr(import_module(f"sc_vaenb.{module}"), name)
        assert function.__module__ == f"sc_vaenb.{module}._{name}"


@every_function
def test_every_public_function_has_the_signature_of_the_house(module, name):
    function = getattr(getattr(sc_vaenb, module), name)
    signature = inspect.signature(function)
    parameters = list(signature.parameters.values())
    if module != "datasets":
        assert parameters[0].name == "adata"
    positional = [p for p in parameters if p.kind in {p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD}]
    assert len(positional) <= 3
    assert all(p.kind is p.KEYWORD_ONLY for p in parameters[len(positional) :])
    assert all(p.annotation is not p.empty for p in parameters)
    assert signature.return_annotation is not signature.empty
    assert all("mutable" not in str(type(p.default)) and not isinstance(p.default, list | dict) for p in parameters)
    if "copy" in signature.parameters:
        assert signature.parameters["copy"].default is False
        assert signature.return_annotation == "AnnData | None"
