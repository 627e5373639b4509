"""Every public function that computes, called on small data, and all that it wrote: one table for many tests.

`CALLS` maps a name to a call of one argument, an AnnData from `prepared` with fitted models in it. `snapshot` turns
what a call wrote or returned into bytes by name, so that two runs can be compared bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

import sc_vaenb
from sc_vaenb import metrics, pp, tl

TIMES = {"seconds", "version"}  # which differ from run to run
SHORT: dict[str, Any] = {"n_steps": 12, "hidden": (16,), "n_latent": 4, "device": "cpu"}


def prepared() -> AnnData:
    """Cells of three batches with types, a covariate and proteins, and two models: `vae` and `cvae`."""
    adata = sc_vaenb.datasets.simulate(300, 120, n_types=3, n_batches=3, rng=1)
    pp.prepare(adata, batch_key="batch")
    rng = np.random.default_rng(0)
    adata.obs["age"] = rng.normal(size=adata.n_obs)
    bound = 30.0 * (adata.obs["cell_type"].cat.codes.to_numpy()[:, None] == np.arange(2))
    adata.obsm["protein"] = rng.poisson(3 + bound).astype(np.float32)
    tl.vae(adata, dropout=0.1, protein_key="protein", **SHORT)
    tl.cvae(adata, "batch", key_added="cvae", labels_key="cell_type", **SHORT)
    return adata


def _half(adata: AnnData) -> AnnData:
    return adata[::2].copy()


def _mapped(adata: AnnData) -> AnnData:
    query = _half(adata)
    query.obs["batch"] = "new"
    tl.map_query(query, adata, "cvae", label_key="cell_type", n_steps=10, device="cpu")
    return query


def _scores(adata: AnnData) -> dict[str, Any]:
    batch, label = (adata.obs[name].to_numpy(str) for name in ("batch", "cell_type"))
    return {"scores": metrics.score(adata.obsm["X_vae"], label, batch, k=30)}


def _clusters(adata: AnnData) -> list[Any]:
    return metrics.leiden(metrics.fuzzy_graph(metrics.knn(adata.obsm["X_cvae"], 15)), (0.5, 1.0))


CALLS: dict[str, Callable[[AnnData], Any]] = {
    "vae": lambda a: tl.vae(a, key_added="k", dropout=0.2, prior="mog", n_components=3, **SHORT),
    "vae vamp": lambda a: tl.vae(a, key_added="k", prior="vamp", n_components=3, dropout=0.1, **SHORT),
    "vae zinb": lambda a: tl.vae(a, key_added="k", likelihood="zinb", norm="batch", **SHORT),
    "vae protein": lambda a: tl.vae(a, key_added="k", protein_key="protein", patience=1, **SHORT),
    "cvae": lambda a: tl.cvae(a, "batch", key_added="k", **SHORT),
    "cvae penalties": lambda a: tl.cvae(
        a, "batch", key_added="k", prior="conditional", dispersion="gene-batch", adversary=1.0, mmd=1.0, **SHORT
    ),
    "cvae labels": lambda a: tl.cvae(
        a, "batch", key_added="k", labels_key="cell_type", covariate_keys=["age"], encode_batch=True, **SHORT
    ),
    "embed": lambda a: tl.embed(a, "cvae"),
    "normalized": lambda a: tl.normalized(a, "cvae", n_samples=2),
    "corrected": lambda a: tl.corrected(a, "cvae", n_samples=1),
    "denoised_protein": lambda a: tl.denoised_protein(a),
    "differential": lambda a: tl.differential(a, "cell_type", "cvae"),
    "factors": lambda a: tl.factors(a, "cvae", max_cells=100),
    "importance": lambda a: tl.importance(a, "cvae", max_cells=50),
    "interpolate": lambda a: tl.interpolate(a, "type_0", "type_1", groupby="cell_type", path="manifold", key="cvae"),
    "sample": lambda a: tl.sample(a, 60, "cvae"),
    "sample prior": lambda a: tl.sample(a, 60, "cvae", source="prior"),
    "posterior_check": lambda a: tl.posterior_check(a, "cvae", n_samples=10),
    "posterior_check likelihoods": lambda a: tl.posterior_check(
        a, "cvae", n_samples=10, likelihoods=["nb", "zinb"], n_seeds=1
    ),
    "map_query": _mapped,
    "harmony": lambda a: tl.harmony(a, "batch"),
    "design": lambda a: tl.design(a, "batch", label_key="cell_type"),
    "score": lambda a: tl.score(a, ["X_vae", "X_cvae"], batch_key="batch", label_key="cell_type", reference=None),
    "metrics.score": _scores,
    "metrics.leiden": _clusters,
    "pp.prepare": lambda a: pp.prepare(a, batch_key="batch", n_top_genes=60),
    "datasets.simulate": lambda a: sc_vaenb.datasets.simulate(100, 30),
}


def run(name: str, adata: AnnData) -> dict[str, bytes]:
    """What a call writes into a copy of the data, and what it returns."""
    own = adata.copy()
    return snapshot({"adata": own, "returned": CALLS[name](own)})


def snapshot(value: Any, name: str = "") -> dict[str, bytes]:
    """All numbers and texts in a value, as bytes by where they are."""
    if isinstance(value, AnnData):
        parts = {slot: dict(getattr(value, slot)) for slot in ("obsm", "varm", "layers", "obsp", "uns")}
        return snapshot({**parts, "X": value.X, "obs": value.obs, "var": value.var}, name)
    if isinstance(value, pd.DataFrame):
        return snapshot({"index": value.index, **{str(column): value[column] for column in value}}, name)
    if isinstance(value, Mapping):
        found = [snapshot(part, f"{name}/{key}") for key, part in value.items() if key not in TIMES]
        return {path: data for part in found for path, data in part.items()}
    if isinstance(value, list | tuple):
        return snapshot(dict(enumerate(value)), name)
    if hasattr(value, "__dataclass_fields__"):
        return snapshot(vars(value), name)
    if hasattr(value, "toarray"):
        value = value.toarray()
    array = np.asarray(value)
    if array.dtype.names:
        return snapshot({field: array[field] for field in array.dtype.names}, name)
    if array.dtype.kind in "biufc":
        return {name: array.dtype.str.encode() + array.tobytes()}
    return {name: repr(array.astype(str).tolist()).encode()}
