"""Does an embedding of a time course keep the time, and mix the captures of one time point?

    python benchmarks/time_course.py [--seeds 3] [DATA.h5ad --time day [--nested] [--shuffled] [--baselines FILE.npz]]
    python benchmarks/time_course.py --scvi ...  # scVI alone, with its defaults, where scvi-tools is installed

Without DATA, three designs of time courses are simulated, a new one for each seed: each time point has captures of its
own, with effects of their own on all genes (in "five times, strong" also other effects on each type), and types that
change along time. DATA has raw counts in X, and in obs `batch` and the column --time. With --nested, a batch is what
a batch of DATA has at one time; with --shuffled, the times are those of other batches, drawn at random, so that nothing
is to be found. FILE.npz has embeddings of other methods, in the order of the cells.

`order`: Spearman's correlation of the time with the mean time of the 15 nearest neighbours (7 if there are fewer than
200 cells). `elsewhere`: the same with neighbours of other batches. Batches that are apart are in order, too, so this is
the harder question. `mixing`: iLISI of the batches of a time point (mean over the time points that have several). If
the data are simulated, `place` is Spearman's correlation, within each time point (mean), of the true place of a cell on
its path with that of its 15 neighbours of other batches; `within` is the same with 5 neighbours, of other batches of
the own time point alone; and `type` is the share of the 15 that are of the own type.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
from numpy.typing import NDArray
from scipy import sparse
from scipy.stats import spearmanr

import sc_vaenb
from sc_vaenb.metrics import ilisi, knn

DESIGNS: dict[str, dict[str, Any]] = {
    "seven times, small": {"n_times": 7, "n_types": 5, "captures": (1, 3), "cells": (40, 120), "depth": 600},
    "three times, weak": {"n_times": 3, "n_types": 2, "captures": (2, 4), "cells": (150, 300), "strength": 0.2},
    "five times, strong": {"n_times": 5, "n_types": 5, "captures": (2, 2), "strength": 0.6, "strength_in_type": 0.2},
}
CPU = {"device": "cpu"}
Ways = Callable[[ad.AnnData, int], Iterator[tuple[str, NDArray]]]  # name and embedding of each method
N_WITHIN = 5  # neighbours within a time point, which has few cells of a type in other batches


def simulate(
    seed: int,
    *,
    n_times: int,
    n_types: int,
    captures: tuple[int, int],
    cells: tuple[int, int] = (60, 150),
    depth: float = 1000,
    strength: float = 0.4,
    strength_in_type: float = 0.0,
    n_genes: int = 600,
) -> ad.AnnData:
    """Negative-binomial counts (theta 2). The place of a cell on the path of its type is its time, give or take 0.6."""
    rng = np.random.default_rng(seed)
    change = rng.normal(0, 0.35, (n_times, n_genes)) * (rng.random((n_times, n_genes)) < 0.4)  # of all types
    size = (n_types, n_times, n_genes)
    own_change = rng.normal(0, 0.35, size) * (rng.random(size) < 0.3)
    profiles = rng.normal(0, 1.2, n_genes) + rng.normal(0, 0.6, (n_types, 1, n_genes))
    path = profiles + (change + own_change).cumsum(1)  # types x times x genes
    parts = []
    for time in range(n_times):
        for number in range(rng.integers(captures[0], captures[1] + 1)):
            n = int(rng.integers(*cells))
            kind = rng.choice(n_types, n, p=rng.dirichlet(np.full(n_types, 4.0)))
            place = np.clip(time + rng.normal(0, 0.6, n), 0, n_times - 1)
            before = np.minimum(place.astype(int), n_times - 2)
            share = (place - before)[:, None]
            log_rate = (1 - share) * path[kind, before] + share * path[kind, before + 1]
            log_rate += rng.normal(0, strength, n_genes) + rng.normal(0, strength_in_type, (n_types, n_genes))[kind]
            rate = np.exp(log_rate)
            mean = depth * rng.lognormal(0, 0.3, (n, 1)) * rate / rate.sum(1, keepdims=True)
            counts = rng.poisson(mean * rng.gamma(2, 1 / 2, mean.shape)).astype(np.float32)
            obs = pd.DataFrame(
                {"time": time, "batch": f"{time}-{number}", "place": place, "cell_type": kind.astype(str)}
            )
            parts.append(
                ad.AnnData(sparse.csr_matrix(counts), obs.set_index(f"{time}-{number}-" + obs.index.astype(str)))
            )
    adata = ad.concat(parts)
    return adata[:, adata.X.sum(0).A1 > 0].copy()


def read(path: str, time: str, nested: bool, shuffled: bool, seed: int) -> ad.AnnData:
    adata = sc.read_h5ad(path)
    adata.obs["time"] = pd.to_numeric(adata.obs[time].astype(str).str.lstrip("E"))
    if nested:
        adata.obs["batch"] = adata.obs["batch"].astype(str) + " at " + adata.obs["time"].astype(str)
    if shuffled:
        time_of_batch = adata.obs.groupby("batch", observed=True)["time"].first()
        drawn = dict(zip(time_of_batch.index, np.random.default_rng(seed).permutation(time_of_batch), strict=True))
        adata.obs["time"] = adata.obs["batch"].map(drawn).astype(float)
    return adata


def evaluate(x: NDArray, obs: pd.DataFrame) -> dict[str, float]:
    x, time, batch = np.asarray(x, np.float64), obs["time"].to_numpy(float), obs["batch"].astype(str).to_numpy()
    k = 15 if len(x) >= 200 else 7
    near = knn(x, k + 1).indices[:, 1:]
    squares = (x**2).sum(1)
    distance = squares[:, None] + squares - 2 * x @ x.T
    distance[batch[:, None] == batch] = np.inf
    elsewhere = np.argsort(distance, 1)[:, :k]
    mixing = []
    for value in np.unique(time):
        cells = np.flatnonzero(time == value)
        if len(cells) > 6 and len(np.unique(batch[cells])) > 1:  # LISI needs six neighbours
            mixing.append(ilisi(knn(x[cells], min(2 * k + 1, len(cells))), batch[cells]))
    scores = {
        "order": spearmanr(time, time[near].mean(1)).statistic,
        "elsewhere": spearmanr(time, time[elsewhere].mean(1)).statistic,
        "mixing": float(np.mean(mixing)),
    }
    if "place" in obs:
        place, kind = obs["place"].to_numpy(), obs["cell_type"].to_numpy()
        found = place[elsewhere].mean(1)
        parts = [time == value for value in np.unique(time)]
        scores["place"] = float(np.mean([spearmanr(place[part], found[part]).statistic for part in parts]))
        distance[time[:, None] != time] = np.inf
        several = [part for part in parts if len(np.unique(batch[part])) > 1]
        found = place[np.argsort(distance, 1)[:, :N_WITHIN]].mean(1)
        scores["within"] = float(np.mean([spearmanr(place[part], found[part]).statistic for part in several]))
        scores["type"] = float((kind[elsewhere] == kind[:, None]).mean())
    return scores


def embeddings(adata: ad.AnnData, seed: int) -> Iterator[tuple[str, NDArray]]:
    sc_vaenb.pp.prepare(adata, log1p=True)
    sc.pp.pca(adata, min(50, *(n - 1 for n in adata.shape)), random_state=seed)
    yield "PCA", adata.obsm["X_pca"]
    sc_vaenb.tl.harmony(adata, "batch", rng=seed)
    yield "Harmony", adata.obsm["X_pca_harmony"]
    ways: dict[str, Callable[..., Any]] = {
        "tl.vae": lambda **options: sc_vaenb.tl.vae(adata, **options),
        "tl.cvae": lambda **options: sc_vaenb.tl.cvae(adata, "batch", **options),
        "tl.cvae, batches of a time merged": lambda **options: sc_vaenb.tl.cvae(adata, "time", **options),
        "tl.cvae, time_key": lambda **options: sc_vaenb.tl.cvae(adata, "batch", time_key="time", **options),
    }
    for name, fit in ways.items():
        fit(rng=seed, key_added="fit", **CPU)
        yield name, adata.obsm["X_fit"]
    if "place" in adata.obs:
        yield "truth", truth(adata)


def truth(adata: ad.AnnData) -> NDArray:
    """The true place on the path, and the types far from each other: the scores of an embedding without faults."""
    place = adata.obs["place"] + np.random.default_rng(0).normal(0, 0.01, adata.n_obs)  # many are at the very end
    return np.c_[place, 1e3 * adata.obs["cell_type"].astype(int)]


def scvi_defaults(adata: ad.AnnData, seed: int) -> Iterator[tuple[str, NDArray]]:
    import scvi

    sc_vaenb.pp.prepare(adata)
    counts = ad.AnnData(
        adata.layers["counts"][:, adata.var["highly_variable"].to_numpy()].copy(), obs=adata.obs[["batch"]]
    )
    scvi.settings.seed = seed
    scvi.model.SCVI.setup_anndata(counts, batch_key="batch")
    model = scvi.model.SCVI(counts)
    model.train(enable_progress_bar=False)
    yield f"scVI {scvi.__version__}", model.get_latent_representation()


def rows(
    name: str, make: Callable[[int], ad.AnnData], n_seeds: int, baselines: dict[str, NDArray], ways: Ways
) -> pd.DataFrame:
    found = []
    for seed in range(n_seeds):
        adata = make(seed)
        adata.obs["time"] = adata.obs["time"].astype(float)
        for method, x in itertools.chain(ways(adata, seed), baselines.items()):
            found.append({"data": name, "seed": seed, "method": method, **evaluate(x, adata.obs)})
            print({key: round(v, 3) if isinstance(v, float) else v for key, v in found[-1].items()}, flush=True)
    return pd.DataFrame(found)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?")
    parser.add_argument("--time", default="time")
    parser.add_argument("--nested", action="store_true")
    parser.add_argument("--shuffled", action="store_true")
    parser.add_argument("--baselines")
    parser.add_argument("--scvi", action="store_true")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--write", type=Path, help="append the rows to this CSV")
    options = parser.parse_args()
    sc.settings.verbosity = 0
    ways, baselines = scvi_defaults if options.scvi else embeddings, {}
    if options.baselines:
        with np.load(options.baselines) as stored:
            baselines = {"scVI": stored["scvi"]}
    if options.data:
        arguments = options.data, options.time, options.nested, options.shuffled
        name = Path(options.data).stem + " nested" * options.nested + " shuffled" * options.shuffled
        tables = [rows(name, lambda seed: read(*arguments, seed), options.seeds, baselines, ways)]
    else:
        tables = [
            rows(name, lambda seed, d=design, i=i: simulate(1000 * (i + 1) + seed, **d), options.seeds, {}, ways)
            for i, (name, design) in enumerate(DESIGNS.items())
        ]
    table = pd.concat(tables)
    if options.write:
        table.round(4).to_csv(options.write, mode="a", header=not options.write.exists(), index=False)
    print(table.drop(columns="seed").groupby(["data", "method"], sort=False).mean().round(2).to_string())
