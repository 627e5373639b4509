"""One row for each public function that reads or writes an AnnData: all that a new function needs to be tested here.

`small` makes the data and `rows` the table. The tests of this folder and `benchmarks/attack/calls.py` go over it.
"""

from __future__ import annotations

import inspect
import os
import random
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import scanpy as sc
import torch
from anndata import AnnData
from scipy import sparse

import sc_vaenb
from sc_vaenb import pl, pp, report, tl

PARTS = {"pp": pp, "tl": tl, "pl": pl, "report": report}
FUNCTIONS = [f"{part}.{name}" for part, module in PARTS.items() for name in module.__all__]

FIT: dict[str, Any] = {"n_latent": 4, "hidden": (8,), "n_steps": 3, "device": "cpu"}
LABELLED = {"batch_key": "batch", "label_key": "cell_type"}
CPU = {"device": "cpu"}
SLOW = {"tl.compare"}  # a call takes seconds
TIMES = {"seconds", "version"}  # which differ from run to run


@dataclass(frozen=True)
class Row:
    """How to call a function with the AnnData of `small`, and what is to come of it."""

    call: dict[str, Any] = field(default_factory=dict)  # the arguments after adata
    writes: str = ""  # every key that is new after the call, as "obsm/X_vae uns/vae"
    bad: dict[str, Any] = field(default_factory=dict)  # values that are refused, each in the place of one argument
    in_memory: str = ""  # keys that are not written where X is on disk


def small(n_cells: int = 80, *, whole: bool = True) -> AnnData:
    """Counts with two fitted models and what reads one has written; `whole`: also a comparison and a search."""
    adata = sc_vaenb.datasets.simulate(n_cells, 30, n_types=3, n_batches=2, mean_depth=300, rng=0)
    adata.layers["counts"] = adata.X.copy()
    adata.obs["score"] = np.linspace(0, 1, n_cells)
    adata.obsm["X_pca"] = np.random.default_rng(0).normal(size=(n_cells, 5)).astype(np.float32)
    adata.obsm["spatial"] = np.random.default_rng(2).uniform(size=(n_cells, 2))
    adata.obsm["X_two"] = adata.obsm["X_pca"][:, :2]
    adata.obsm["proteins"] = pd.DataFrame(
        np.random.default_rng(1).poisson(5, (n_cells, 3)), index=adata.obs_names, columns=["CD3", "CD4", "CD8"]
    )
    adata.obsm["peaks"] = sparse.csr_matrix(np.random.default_rng(3).poisson(0.5, (n_cells, 40)))
    tl.cvae(adata, "batch", **FIT)
    tl.cvae(adata, "batch", protein_key="proteins", key_added="both", **FIT)
    tl.cvae(adata, "batch", peaks_key="peaks", key_added="open", **FIT)
    tl.factors(adata)
    tl.interpolate(adata, "type_0", "type_1", groupby="cell_type", n_points=5)
    tl.posterior_check(adata, n_samples=10)
    tl.score(adata, ["X_vae"], **LABELLED)
    if whole:
        tl.compare(adata, "batch", label_key="cell_type", variants={"wide": {"hidden": (8,)}}, device="cpu")
        tl.tune(adata, "batch", n_trials=2, n_seeds=0, space={"n_steps": [3], "n_latent": [4, 5]}, device="cpu")
    return adata


def rows(adata: AnnData, folder: Path) -> dict[str, Row]:
    """The table. Files are written to and read from `folder`."""
    model = folder / "model.safetensors"
    if not model.exists():
        tl.export_model(adata, model)
    return {
        "pp.prepare": Row(
            {"batch_key": "batch", "n_top_genes": 20},
            "layers/counts obs/size_factor uns/prepare uns/hvg var/highly_variable var/highly_variable_rank var/means "
            "var/variances var/variances_norm var/highly_variable_nbatches",
            {"batch_key": "no", "layer": "no", "n_top_genes": 0},
            in_memory="layers/counts",
        ),
        "tl.vae": Row(
            FIT | {"dropout": 0.2},
            "obsm/X_vae varm/vae_loadings uns/vae",
            {"layer": "no", "protein_key": "no", "peaks_key": "no", "device": "abacus"},
        ),
        "tl.cvae": Row(
            {"batch_key": "batch"} | FIT,
            "obsm/X_vae varm/vae_loadings uns/vae",
            {"batch_key": "no", "covariate_keys": ["no"], "controls": "no", "time_key": "no", "rng": -1},
        ),
        "tl.compare": Row(
            LABELLED | CPU,
            " ".join(["uns/compare", *map(_of_a_method, ["pca_compare", "pca_harmony", "vae_compare", "cvae"])])
            + " uns/pca_harmony uns/vae_compare uns/cvae varm/vae_compare_loadings varm/cvae_loadings",
            {"label_key": "no", "variants": {"wide": {"no": 1}}, "resolution": -1, "key_added": "vae"},
        ),
        "tl.corrected": Row(CPU, "layers/corrected", {"key": "no", "batch": "no", "genes": ["no"]}),
        "tl.accessibility": Row(
            {"key": "open", "peaks": ["peak_0", "peak_39"]} | CPU,
            "obsm/open_accessibility",
            {"key": "vae", "peaks": ["no"], "corrected": "no", "device": "abacus"},
        ),
        "tl.denoised_protein": Row(
            {"key": "both"} | CPU,
            "obsm/both_protein obsm/both_protein_foreground",
            {"key": "vae", "corrected": "no", "device": "abacus"},
        ),
        "tl.design": Row(LABELLED, "uns/design", {"batch_key": "no", "label_key": "no", "key_added": "vae"}),
        "tl.differential": Row(
            {"groupby": "cell_type"} | CPU,
            "uns/differential",
            {"groups": ["no"], "reference": "no", "sample_key": "no", "key_added": "vae"},
        ),
        "tl.embed": Row(CPU, "obsm/X_vae", {"key": "no", "key_added": "a/b"}),
        "tl.export_model": Row({"path": folder / "again.safetensors", "force": True}, bad={"key": "no", "path": 3}),
        "tl.factors": Row(CPU, "uns/vae_factors obsm/X_vae_factors", {"covariates": "no", "n_top": 0}),
        "tl.harmony": Row(
            {"batch_key": "batch"}, "obsm/X_pca_harmony uns/pca_harmony", {"batch_key": "no", "basis": "no"}
        ),
        "tl.import_model": Row({"path": model}, "uns/vae", {"path": folder / "no.safetensors", "key_added": "a/b"}),
        "tl.importance": Row(
            {"groupby": "cell_type", "max_cells": 10} | CPU,
            "uns/vae_importance",
            {"of": "no", "groupby": "no", "key_added": "vae"},
        ),
        "tl.interpolate": Row(
            {"start": "type_0", "end": "type_1", "groupby": "cell_type", "n_points": 4} | CPU,
            "uns/interpolation",
            {"end": "no", "batch": "no", "genes": ["no"], "key_added": "vae"},
        ),
        "tl.map_query": Row(
            {"reference": adata, "label_key": "cell_type", "n_steps": 2} | CPU,
            "obsm/X_vae varm/vae_loadings uns/vae uns/vae_transfer obs/novelty obs/novelty_p obs/novel "
            "obs/cell_type_predicted obs/cell_type_uncertainty obs/cell_type_confidence",
            {"label_key": "no", "batch_key": "no", "layer": "no", "key": "no"},
        ),
        "tl.normalized": Row(
            {"n_samples": 2} | CPU, "layers/normalized", {"genes": ["no"], "threshold": -1, "key_added": "counts"}
        ),
        "tl.posterior_check": Row(
            {"n_samples": 10} | CPU, "uns/posterior_check", {"likelihoods": ["no"], "n_samples": 0, "key_added": "vae"}
        ),
        "tl.pseudobulk": Row({"sample_key": "batch"}, bad={"sample_key": "no", "groups_key": "no", "layer": "no"}),
        "tl.sample": Row({"n_cells": 5} | CPU, bad={"n_cells": 0, "batch": "no", "groups": {"no": "no"}}),
        "tl.score": Row(
            {"embeddings": ["X_vae"]} | LABELLED,
            "uns/scores",
            {"embeddings": "no", "reference": "no", "key_added": "vae"},
        ),
        "tl.spatial": Row(
            {}, "obsm/X_vae_spatial uns/vae_spatial", {"key": "no", "slice_key": "no", "n_hops": -1, "key_added": "vae"}
        ),
        "tl.tune": Row(
            {"batch_key": "batch", "n_trials": 1, "n_seeds": 0, "space": {"n_steps": [2]}} | CPU,
            "uns/tune",
            {"space": {"no": [1]}, "batch_key": "no", "key_added": "vae"},
        ),
        "pl.compare": Row(bad={"key": "no"}),
        "pl.confusion": Row(bad={"label_key": "no", "method": "no"}),
        "pl.embedding": Row(
            {"keys": "X_two", "color": ["batch", "score"]},
            bad={"keys": "no", "color": "no", "palette": "no", "cmap": "no", "legend_loc": "no", "ncols": 0},
        ),
        "pl.factors": Row(bad={"key": "no", "n_dimensions": 0}),
        "pl.history": Row(bad={"key": "no", "ncols": 0}),
        "pl.interpolation": Row(bad={"key": "no", "genes": ["no"]}),
        "pl.latent": Row({"groupby": "cell_type"}, bad={"groupby": "no", "dimension": "no"}),
        "pl.posterior_check": Row(bad={"key": "no", "ncols": 0}),
        "pl.scores": Row(bad={"key": "no", "metrics": "no", "swap_axes": 2}),
        "pl.spatial_domains": Row(
            {"color": "cell_type", "slice_key": "batch"},
            bad={"color": "no", "slice_key": "no", "basis": "no", "ncols": 0},
        ),
        "pl.tradeoff": Row(bad={"key": "no"}),
        "pl.trajectory": Row(
            {"genes": ["gene_0"], "time_key": "score", "sample_key": "batch", "layer": "counts"},
            bad={"genes": ["no"], "time_key": "cell_type", "sample_key": "no", "layer": "no"},
        ),
        "pl.tune": Row(bad={"key": "no"}),
        "report.write": Row({"path": folder / "page.html", "force": True}, bad={"key": "no", "title": 3}),
    }


def _of_a_method(name: str) -> str:
    """What `tl.compare` writes for each method."""
    graph = f"uns/neighbors_{name} obsp/neighbors_{name}_distances obsp/neighbors_{name}_connectivities"
    return f"obsm/X_{name} obsm/X_umap_{name} uns/X_umap_{name} obs/leiden_{name} uns/leiden_{name} {graph}"


# calls


def parameters(name: str) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(function(name)).parameters


def function(name: str) -> Any:
    part, _, own = name.partition(".")
    return getattr(PARTS[part], own)


def without(adata: AnnData, writes: str) -> AnnData:
    """A copy that lacks these keys."""
    new = adata.copy()
    for slot, _, key in (place.partition("/") for place in writes.split()):
        if key in (part := getattr(new, slot)):
            del part[key]
    return new


def only(adata: AnnData, writes: str) -> AnnData:
    """Cells and genes with these keys alone."""
    new = AnnData(obs=adata.obs[[]], var=adata.var[[]])
    for slot, _, key in (place.partition("/") for place in writes.split()):
        getattr(new, slot)[key] = getattr(adata, slot)[key]
    return new


def run(name: str, call: Mapping[str, Any], adata: AnnData) -> dict[str, bytes]:
    """What a call writes into a copy of the data, and what it returns."""
    own = adata.copy()
    return snapshot({"adata": own, "returned": function(name)(own, **call)})


def snapshot(value: Any, name: str = "") -> dict[str, bytes]:
    """All numbers and texts in a value, as bytes by where they are: `/obsm/X_vae`, `/uns/vae/params/rng`."""
    if isinstance(value, AnnData):
        parts = {slot: dict(getattr(value, slot)) for slot in ("obsm", "varm", "layers", "obsp", "varp", "uns")}
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
    if hasattr(value, "to_memory"):  # on disk
        value = value.to_memory()
    if hasattr(value, "toarray"):
        value = value.toarray()
    array = np.asarray(value)
    if array.dtype.names:
        return snapshot({field: array[field] for field in array.dtype.names}, name)
    if array.ndim == 0 and array.dtype.kind in "biuf":
        return {name: repr(array.item()).encode()}  # h5ad makes a number of an array without dimensions
    if array.dtype.kind in "biufc":
        return {name: array.dtype.str.encode() + array.tobytes()}
    return {name: repr(array.astype(object).astype(str).tolist()).encode()}


def differing(one: Mapping[str, bytes], other: Mapping[str, bytes]) -> set[str]:
    """Where two snapshots are not the same."""
    return {path for path in one.keys() | other.keys() if one.get(path) != other.get(path)}


def written(before: Mapping[str, bytes], after: Mapping[str, bytes]) -> set[str]:
    """The keys, such as `obsm/X_vae`, whose contents two snapshots of an AnnData do not share."""
    return {"/".join(path.split("/")[1:3]) for path in differing(before, after)}


def session() -> dict[str, Any]:
    """The state of the session that a call must leave as it is."""
    return {
        "torch": torch.get_rng_state().tolist(),
        "numpy": repr(np.random.get_state()),  # noqa: NPY002
        "random": random.getstate(),
        "threads": torch.get_num_threads(),
        "dtype": torch.get_default_dtype(),
        "gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "filters": list(warnings.filters),
        "errors": np.geterr(),
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "matplotlib": dict(mpl.rcParams),
        "scanpy": [getattr(sc.settings, name, None) for name in ("verbosity", "n_jobs", "autosave", "preset")],
    }
