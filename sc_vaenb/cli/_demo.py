"""`sc-vaenb demo`: the main job on cells that come with scanpy."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._results import losses
from ._write import check_new, make_folder, save_figure, write_adata

if TYPE_CHECKING:
    from anndata import AnnData

RESULT = "demo.h5ad"


def run_demo(options: argparse.Namespace) -> None:
    """Fit a VAE and a CVAE to 700 real blood cells, split into three batches, and compare them with PCA."""
    out: Path = options.out
    make_folder(out)
    check_new(out / RESULT, options.force)
    from .. import datasets, pp, tl
    from ..tl._graph import neighbors_leiden_umap

    start = time.perf_counter()
    adata = datasets.demo()
    pp.prepare(adata, batch_key="batch")
    n_batches, n_types = adata.obs["batch"].nunique(), adata.obs["cell_type"].nunique()
    print(f"{adata.n_obs} blood cells x {adata.n_vars} genes, {n_batches} batches, {n_types} published cell types\n")

    methods: dict[str, Callable[..., object]] = {
        "PCA": _pca,
        "VAE": tl.vae,
        "CVAE": lambda adata, **kwargs: tl.cvae(adata, "batch", **kwargs),
    }
    print(f"{'':6}{'seconds':>8}{'clusters':>10}{'NMI':>7}{'ARI':>7}{'own batch among neighbours':>29}")
    for name, method in methods.items():
        key = name.lower()
        fit_start = time.perf_counter()
        method(adata, key_added=key)
        seconds = time.perf_counter() - fit_start
        neighbors_leiden_umap(adata, key, 1.0, 0)
        print(f"{name:6}{seconds:8.1f}{_score_columns(adata, key)}")
    print("\nNMI and ARI: Leiden clusters against the published types, 1 is best. Own batch: the share of a cell's 15")
    print("nearest neighbours of its type that are of its batch, with what perfect mixing would give.\n")

    for key in ("vae", "cvae"):
        save_figure(partial(losses, adata, key), out / f"history_{key}.png")
    embeddings = [f"X_{name.lower()}" for name in methods]
    save_figure(partial(_draw_umaps, adata, embeddings), out / "umap.png")
    write_adata(adata, out / RESULT)
    files = "".join(f"\n  {out / name}" for name in (RESULT, "history_vae.png", "history_cvae.png", "umap.png"))
    print(f"written in {time.perf_counter() - start:.0f} s:{files}")


def _draw_umaps(adata: AnnData, embeddings: list[str]) -> Any:
    from .. import pl

    return pl.embedding(adata, embeddings, color=["batch", "cell_type"], show=False)[0, 0]  # type: ignore[index]


def _pca(adata: AnnData, *, key_added: str) -> None:
    """PCA as in scanpy's tutorials: log-normalise, then PCA of the variable genes."""
    import scanpy as sc

    logged = adata.copy()
    sc.pp.normalize_total(logged)
    sc.pp.log1p(logged)
    logged = logged[:, logged.var["highly_variable"]]
    adata.obsm[f"X_{key_added}"] = sc.pp.pca(logged.X, n_comps=30)


def _score_columns(adata: AnnData, key: str) -> str:
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    from ..metrics import same_batch_share

    types, clusters = adata.obs["cell_type"], adata.obs[f"leiden_{key}"]
    mixing = same_batch_share(adata.obsm[f"X_{key}"], adata.obs["batch"], types, k=15)
    scores = normalized_mutual_info_score(types, clusters), adjusted_rand_score(types, clusters)
    numbers = f"{clusters.nunique():10}{scores[0]:7.2f}{scores[1]:7.2f}"
    return f"{numbers}{f'{mixing.share:.2f} (mixed: {mixing.expected:.2f})':>29}"
