"""What `tl.design` says, on layouts whose answer is known.

    python benchmarks/truth/design.py 1000 1001 1002

prints, for each question, how many answers are right with these seeds; rules were tried on seeds 0 to 3. Counts are
simulated (batches with a batch effect, libraries with and without) or real (../shared/data, left out where they are not
there), of which the largest batch is cut into random libraries, or real batches are put together into "sites".
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc

import sc_vaenb
from sc_vaenb._scanpy import override

DATA = Path(__file__).parents[3] / "shared" / "data"
SHARED, CONDITION, UNIT = (
    "Which batches share types?",
    "Can conditions be told from batches?",
    "Which column is the batch?",
)
STRENGTHS = 0.15, 0.3, 0.6  # of batch effects
REAL = "pbmc_kang_ctrl_8donors", "de_pig_airway_cf_7animals", "pancreas_5tech_small", "scmix_celllines_celseq2_dropseq"


def say(adata: ad.AnnData, name: str, seed: int, expected: dict[str, str], **keys: Any) -> list[dict[str, Any]]:
    """The answers beside those that are right."""
    sc_vaenb.tl.design(adata, mask_var=None, **keys)
    found = adata.uns["design"]["findings"].set_index("question")["answer"]
    return [
        {
            "question": question,
            "design": name,
            "seed": seed,
            "answer": found[question],
            "right": found[question] == right,
        }
        for question, right in expected.items()
    ]


def simulated(seed: int, **options: Any) -> ad.AnnData:
    """Five types in four batches, or as said."""
    given = {"n_cells": 1200, "n_genes": 300, "n_types": 5, "n_batches": 4, "mean_depth": 1000.0, **options}
    adata = sc_vaenb.datasets.simulate(**given, rng=seed)
    adata.layers["counts"] = adata.X.copy()
    return adata


def libraries(seed: int) -> list[dict[str, Any]]:
    """Libraries with a batch effect of their own, or none, in donors; any of the two named as the batch."""
    rng = np.random.default_rng(seed)
    said = []
    for strength in STRENGTHS:
        for label_key in ("cell_type", None):
            adata = simulated(seed, batch_strength=strength)
            batch = adata.obs["batch"].astype(str)
            adata.obs["library"] = batch + "_" + rng.integers(0, 2, adata.n_obs).astype(str)  # at random
            adata.obs["site"] = np.where(batch.isin(["batch_0", "batch_1"]), "north", "south")
            for key in ("batch", "library", "site"):
                name = f"batch effect {strength}, {key!r} given" + ("" if label_key else ", no labels")
                said += say(adata, name, seed, {UNIT: "batch"}, batch_key=key, label_key=label_key)
    adata = simulated(seed, n_batches=1)
    adata.obs["batch"] = rng.integers(0, 3, adata.n_obs).astype(str)
    for label_key in ("cell_type", None):
        said += say(adata, "no batch effect", seed, {UNIT: "none"}, batch_key="batch", label_key=label_key)
    return said


def conditions(seed: int) -> list[dict[str, Any]]:
    """Conditions that are crossed, nested, confounded, or in between."""
    adata = simulated(seed, n_cells=600, n_genes=100, n_batches=6)
    batch, rng = adata.obs["batch"].astype(str).to_numpy(), np.random.default_rng(seed)
    coin = rng.integers(0, 2, adata.n_obs) == 1
    chosen = rng.permutation(np.unique(batch))
    layouts = {
        "crossed": np.where(coin, "a", "b"),
        "nested": np.where(np.isin(batch, chosen[:3]), "a", "b"),
        "confounded": np.where(batch == chosen[0], "a", "b"),
        "partly crossed": np.where(np.isin(batch, chosen[:2]) & coin, "a", "b"),
        "partly nested": np.where(np.isin(batch, chosen[:3]), np.where(coin, "a", "b"), np.where(coin, "c", "d")),
    }
    said = []
    for right, condition in layouts.items():
        adata.obs["condition"] = condition
        said += say(adata, right, seed, {CONDITION: right}, batch_key="batch", condition_key="condition")
    adata.obs["condition"] = np.where(np.isin(batch, chosen[:3]), "a", "b")
    mislabelled = rng.random(adata.n_obs) < 0.02  # a few cells of each batch on the wrong side
    adata.obs["condition"] = np.where(mislabelled, "a", adata.obs["condition"])
    said += say(
        adata, "nested, few mislabelled", seed, {CONDITION: "nested"}, batch_key="batch", condition_key="condition"
    )
    return said


def types(seed: int) -> list[dict[str, Any]]:
    """Batches that share all, some, or none of their types."""
    rng = np.random.default_rng(seed)
    apart = np.zeros((4, 6))
    halves = rng.permutation(6)
    apart[:2, halves[:3]] = apart[2:, halves[3:]] = 1
    one = apart.copy()
    one[2:, halves[0]] = 1
    private = np.ones((4, 6))
    private[1:, halves[0]] = 0
    tables = {"all shared": (np.ones((4, 6)), "yes"), "two sets": (apart, "no"), "one type shared": (one, "yes")}
    tables |= {"a private type": (private, "yes"), "sorted": (np.eye(6), "no")}
    said = []
    for name, (table, right) in tables.items():
        table = table / table.sum(1, keepdims=True)
        adata = simulated(seed, n_cells=800, n_genes=100, n_types=6, n_batches=len(table), composition=table)
        said += say(adata, name, seed, {SHARED: right}, batch_key="batch", label_key="cell_type")
    return said


def real(seed: int) -> list[dict[str, Any]]:
    """Real batches, cut at random or put together."""
    said = []
    for name in REAL:
        if not (path := DATA / f"{name}.h5ad").exists():
            continue
        rng = np.random.default_rng(seed)
        whole = ad.read_h5ad(path)
        adata = whole[np.sort(rng.permutation(whole.n_obs)[:2500])].copy()
        adata.obs = adata.obs[["batch", "cell_type"]].astype(str)
        common = adata.obs["batch"].value_counts()
        adata = adata[adata.obs["batch"].isin(common.index[common >= 40])].copy()
        sc.pp.filter_genes(adata, min_cells=20)
        adata.layers["counts"] = adata.X.copy()
        batch = adata.obs["batch"]
        adata.obs["library"] = batch + "_" + rng.integers(0, 2, adata.n_obs).astype(str)
        names = rng.permutation(np.unique(batch))
        adata.obs["site"] = np.where(batch.isin(names[: max(len(names) // 2, 1)]), "north", "south")
        given = ("batch", "library", "site") if len(names) > 3 else ("batch", "library")
        if len(names) <= 3:
            del adata.obs["site"]
        for label_key in ("cell_type", None):
            for key in given:
                full = f"{name}, {key!r} given" + ("" if label_key else ", no labels")
                said += say(adata, full, seed, {UNIT: "batch"}, batch_key=key, label_key=label_key)
        half = adata[batch == common.index[0]].copy()
        half.obs["batch"] = rng.integers(0, 2, half.n_obs).astype(str)
        half.obs = half.obs[["batch", "cell_type"]]
        said += say(half, f"{name}, random halves", seed, {UNIT: "none"}, batch_key="batch", label_key="cell_type")
    return said


if __name__ == "__main__":
    seeds = [int(seed) for seed in sys.argv[1:]] or [0]
    with override(verbosity="error"):
        everything = [said for seed in seeds for part in (libraries, conditions, types, real) for said in part(seed)]
    for wrong in everything:
        if not wrong["right"]:
            print(wrong)
    print(pd.DataFrame(everything).groupby("question")["right"].agg(right="sum", asked="count").to_string())
