"""Every donor is a batch, half of the donors are cases: which embeddings keep what the disease does?

    python benchmarks/controls.py 0 1 --strength 0.15 0.3

Eight simulated donors, four of them cases, in which 40 genes of two of five types are changed 2.5-fold. For each
embedding: label accuracy across donors; among cells of the two types and of the others, the share of those whose 15
nearest cells of *other* donors tell their condition (0.3 to 0.4 if it cannot be told, as there are fewer other donors
of the own condition); and the share of 15 neighbours that come from the own donor (0.125 if all donors are mixed).

Beside `tl.vae` and `tl.cvae`, also with `controls=`: cases mapped on a reference of controls (`tl.map_query`), so that
batch effects are learned from controls alone, and the states of `tl.vae`, aligned, so that they are taken out in the
latent space alone.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import scanpy as sc
import torch

import sc_vaenb
from sc_vaenb.fit.align import align, n_clusters
from sc_vaenb.metrics import cross_batch_accuracy, knn
from sc_vaenb.model.alignment import Alignment

N_DONORS, N_GENES, CHANGED, FOLD, K = 8, 600, 40, 2.5, 15


def simulated(seed: int, strength: float) -> tuple[Any, np.ndarray, np.ndarray]:
    """Counts; which cells are of cases; which are of types that the disease changes."""
    adata = sc_vaenb.datasets.simulate(
        2400,
        N_GENES,
        n_types=5,
        n_batches=N_DONORS,
        batch_strength=strength,
        mean_depth=1500,
        marker_fold=3.0,
        rng=seed,
    )
    rng = np.random.default_rng(seed)
    case = adata.obs["batch"].cat.codes.to_numpy() >= N_DONORS // 2
    of_types = adata.obs["cell_type"].isin(["type_0", "type_1"]).to_numpy()
    genes, folds = rng.permutation(N_GENES)[:CHANGED], rng.choice([1 / FOLD, FOLD], CHANGED)
    counts = np.asarray(adata.X.toarray() if hasattr(adata.X, "toarray") else adata.X, np.float64)
    sick = np.ix_(case & of_types, genes)
    counts[sick] = rng.poisson(counts[sick] * folds)
    adata.X = adata.layers["counts"] = counts.astype(np.float32)
    return adata, case, of_types


def told(x: np.ndarray, donor: np.ndarray, case: np.ndarray) -> float:
    """The share of cells whose condition the nearest cells of other donors tell."""
    distance = np.linalg.norm(x[:, None] - x[None], axis=2)
    distance[donor[:, None] == donor[None]] = np.inf
    nearest = np.argsort(distance, 1)[:, :K]
    return float(np.mean((case[nearest].mean(1) > 0.5) == case))


def embeddings(adata: Any, case: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    fit: dict[str, Any] = {"mask_var": None, "device": "cpu"}
    sc_vaenb.tl.vae(adata, **fit)
    sc_vaenb.tl.cvae(adata, "batch", key_added="cvae", **fit)
    sc_vaenb.tl.cvae(adata, "batch", controls=~case, key_added="controls", **fit)
    z = adata.obsm["X_vae"]
    code = adata.obs["batch"].cat.codes.to_numpy(np.int64)
    alignment = Alignment(n_clusters(len(z)), N_DONORS, z.shape[1])
    align(alignment, z, code, np.zeros(N_DONORS, np.int64), seed)
    controls, cases = adata[~case].copy(), adata[case].copy()
    for part in (controls, cases):
        part.obs["batch"] = part.obs["batch"].astype(str)
    sc_vaenb.tl.cvae(controls, "batch", **fit)
    sc_vaenb.tl.map_query(cases, controls, device="cpu")
    mapped = np.empty_like(z)
    mapped[~case], mapped[case] = controls.obsm["X_vae"], cases.obsm["X_vae"]
    aligned = alignment(torch.from_numpy(z), torch.from_numpy(code)).numpy()
    return {
        "VAE": z,
        "CVAE": adata.obsm["X_cvae"],
        "CVAE, controls=": adata.obsm["X_controls"],
        "mapped on controls": mapped,
        "VAE, aligned": aligned,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seeds", type=int, nargs="*", default=[0, 1])
    parser.add_argument("--strength", type=float, nargs="*", default=[0.15, 0.3], help="of the donors' effects")
    options = parser.parse_args()
    sc.settings.verbosity = 0
    for strength in options.strength:
        for seed in options.seeds:
            adata, case, of_types = simulated(seed, strength)
            donor, label = (adata.obs[key].astype(str).to_numpy() for key in ("batch", "cell_type"))
            for name, x in embeddings(adata, case, seed).items():
                conditions = [told(x[part], donor[part], case[part]) for part in (of_types, ~of_types)]
                near = knn(x, K + 1).indices[:, 1:]
                numbers = [cross_batch_accuracy(x, label, donor), *conditions, (donor[near] == donor[:, None]).mean()]
                print(f"strength {strength}, seed {seed}, {name:20s}", *(f"{n:.2f}" for n in numbers), flush=True)
