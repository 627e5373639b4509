"""Code for the reader: the call that made the comparison, and how to go on from it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import tl
from .._obs import columns_of

if TYPE_CHECKING:
    from anndata import AnnData

DEFAULT_METHODS = {"PCA", "Harmony", "VAE", "CVAE"}
NOT_IN_VARIANTS = {"rng", "copy", "key_added", "device"}
WIDTH = 88


def call_of(adata: AnnData, record: Mapping[str, Any], key: str) -> str:
    """The call of `tl.compare`, as far as the records of the comparison and its fits contain the arguments."""
    params = {name: _to_python(value) for name, value in record["params"].items()}
    arguments = [f"{name}={value!r}" for name, value in params.items() if name != "batch_key"]
    first_fit = record["methods"].drop_duplicates("method").set_index("method")["embedding"].str.removeprefix("X_")
    fits = {str(method): name for method, name in first_fit.items() if "params" in adata.uns.get(name, {})}
    common_fit = fits.get("CVAE", fits.get("VAE", ""))
    parameters = inspect.signature(tl.cvae).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    common_params = adata.uns[common_fit]["params"] if common_fit else defaults
    for name in ("layer", "mask_var"):
        if common_fit and not _are_equal(common_params.get(name), defaults[name]):
            arguments.append(f"{name}={_as_code(common_params.get(name), common_fit, name)}")
    variants = []
    for method in fits.keys() - DEFAULT_METHODS:
        variant_params = adata.uns[fits[method]]["params"]
        changed_names = [
            name
            for name in defaults
            if name not in NOT_IN_VARIANTS and not _are_equal(variant_params.get(name), common_params.get(name))
        ]
        settings = ", ".join(
            f"{name!r}: {_as_code(variant_params.get(name), fits[method], name)}" for name in changed_names
        )
        variants.append(f"{method!r}: {{{settings}}}")
    if variants:
        arguments.append(f"variants={{{', '.join(sorted(variants))}}}")
    if key != "compare":
        arguments.append(f"key_added={key!r}")
    call_arguments = ["adata", repr(params["batch_key"]), *arguments]
    line = f"sc_vaenb.tl.compare({', '.join(call_arguments)})"
    if len(line) <= WIDTH:
        return line
    return "\n".join(["sc_vaenb.tl.compare(", *(f"    {part}," for part in call_arguments), ")"])


def next_steps(params: Mapping[str, Any], best: str, data: str) -> str:
    """A code snippet that computes clusters and a UMAP from the best embedding with scanpy."""
    keys = [params[name] for name in ("batch_key", "label_key") if name in params]
    colours = [column for key in keys for column in columns_of(key)]
    return "\n".join([
        "import anndata",
        "import scanpy as sc",
        "",
        f"adata = anndata.read_h5ad({data!r})",
        f"sc.pp.neighbors(adata, use_rep={best!r})",
        "sc.tl.leiden(adata, flavor='igraph', n_iterations=2, directed=False)",
        "sc.tl.umap(adata)",
        f"sc.pl.umap(adata, color={[*colours, 'leiden']!r})",
    ])  # fmt: skip


def _to_python(value: Any) -> Any:
    """Turn arrays, which files make of numbers and sequences, into Python numbers and tuples."""
    value = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
    return tuple(value) if isinstance(value, list) else value


def _are_equal(a: Any, b: Any) -> bool:
    return bool(_to_python(a) == _to_python(b))


def _as_code(value: Any, fit: str, name: str) -> str:
    """A value as code; for a long array such as a gene mask, the code that reads it from `uns`."""
    return f"adata.uns[{fit!r}]['params'][{name!r}]" if np.size(value) > 20 else repr(_to_python(value))
