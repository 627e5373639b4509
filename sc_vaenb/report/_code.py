"""Code for the reader: the call that made the comparison, and how to go on from it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import tl

if TYPE_CHECKING:
    from anndata import AnnData

OWN = {"PCA", "Harmony", "VAE", "CVAE"}
NOT_OF_A_VARIANT = {"rng", "copy", "key_added", "device"}
WIDTH = 88


def call_of(adata: AnnData, record: Mapping[str, Any], key: str) -> str:
    """The call of `tl.compare`, as far as its record and those of its fits tell."""
    params = {name: _plain(value) for name, value in record["params"].items()}
    arguments = [f"{name}={value!r}" for name, value in params.items() if name != "batch_key"]
    first = record["methods"].drop_duplicates("method").set_index("method")["embedding"].str.removeprefix("X_")
    fits = {str(method): name for method, name in first.items() if "params" in adata.uns.get(name, {})}
    common = fits.get("CVAE", fits.get("VAE", ""))
    parameters = inspect.signature(tl.cvae).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    plain = adata.uns[common]["params"] if common else defaults
    for name in ("layer", "mask_var"):
        if common and not _alike(plain.get(name), defaults[name]):
            arguments.append(f"{name}={_written(plain.get(name), common, name)}")
    variants = []
    for method in fits.keys() - OWN:
        own = adata.uns[fits[method]]["params"]
        changed = [n for n in defaults if n not in NOT_OF_A_VARIANT and not _alike(own.get(n), plain.get(n))]
        inside = ", ".join(f"{name!r}: {_written(own.get(name), fits[method], name)}" for name in changed)
        variants.append(f"{method!r}: {{{inside}}}")
    if variants:
        arguments.append(f"variants={{{', '.join(sorted(variants))}}}")
    if key != "compare":
        arguments.append(f"key_added={key!r}")
    parts = ["adata", repr(params["batch_key"]), *arguments]
    line = f"sc_vaenb.tl.compare({', '.join(parts)})"
    if len(line) <= WIDTH:
        return line
    return "\n".join(["sc_vaenb.tl.compare(", *(f"    {part}," for part in parts), ")"])


def way_on(params: Mapping[str, Any], best: str, data: str) -> str:
    """A snippet that takes the best embedding to clusters and a UMAP with scanpy alone."""
    colours = [str(params[name]) for name in ("batch_key", "label_key") if name in params]
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


def _plain(value: Any) -> Any:
    """Numbers and sequences as Python writes them, also after a file has made arrays of them."""
    value = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
    return tuple(value) if isinstance(value, list) else value


def _alike(a: Any, b: Any) -> bool:
    return bool(_plain(a) == _plain(b))


def _written(value: Any, fit: str, name: str) -> str:
    """A value as code; a mask of genes, which is as long as the genes are many, by where it is kept."""
    return f"adata.uns[{fit!r}]['params'][{name!r}]" if np.size(value) > 20 else repr(_plain(value))
