"""What `test_several.py` has torchrun start: `python several.py FOLDER` fits in one process, torchrun in several.

What each process finds is written to FOLDER: arrays by the name of the case, and the refusals that it met.
"""

import json
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import torch.distributed as dist

import sc_vaenb
from sc_vaenb.fit.distributed import place

FAST = {"layer": None, "n_latent": 4, "hidden": (16,), "n_steps": 40, "device": "cpu"}
CASES = {
    "33 cells a step": {"batch_size": 33},
    "one cell a step": {"batch_size": 1},
    "proteins and labels": {"protein_key": "protein", "labels_key": "cell_type", "encode_batch": True},
    "counts on disk": {"batch_size": 50},
    "a group of the caller": {"prior": "conditional", "patience": 2, "target_kl": 2.0},
}
COMMAND = {"n_steps": 1000, "batch_size": 33}


def simulated():
    adata = sc_vaenb.datasets.simulate(301, 100, n_types=3, n_batches=2, mean_depth=500, rng=0)
    adata.obsm["protein"] = np.random.default_rng(0).poisson(5, (301, 3))
    adata.uns["protein_names"] = np.array(["a", "b", "c"], dtype=object)
    return adata


def fitted(case, folder):
    adata = simulated()
    if case == "counts on disk":
        path = folder / f"process_{place()[0]}.h5ad"
        adata.write_h5ad(path)
        adata = ad.read_h5ad(path, backed="r")
    if case == "a group of the caller" and place()[1] > 1:
        dist.init_process_group("gloo")
    sc_vaenb.tl.cvae(adata, "batch", **FAST | CASES[case])
    history = adata.uns["vae"]["history"]
    names = [name for name in history if name != "seconds"]
    return {"X_vae": adata.obsm["X_vae"], **{name: history[name] for name in names}}


def as_the_command(folder):
    """The embedding that `sc-vaenb cvae` gives of a file with these cells, and the losses."""
    adata = simulated()
    if place()[0] == 0:
        adata.write_h5ad(folder / "data.h5ad")
    sc_vaenb.pp.prepare(adata, "batch")
    sc_vaenb.tl.cvae(adata, "batch", **FAST | COMMAND | {"layer": "counts"})
    return {"X_vae": adata.obsm["X_vae"], "train_loss": adata.uns["vae"]["history"]["train_loss"]}


def refusal(adata, **options):
    try:
        sc_vaenb.tl.cvae(adata, "batch", **FAST | options)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "none"


def refusals(folder):
    """Refusals that only several processes meet; rank 0 alone knows what the folder of the checkpoint holds."""
    kept = folder / "kept"
    first = place()[0] == 0
    return {
        "other counts": refusal(simulated() if first else simulated()[:300].copy()),
        "no seed": refusal(simulated(), rng=None),
        "cells that must be together": refusal(simulated(), norm="batch", prior="mog", mmd=1.0),
        "written": refusal(simulated(), checkpoint=kept),
        "another fit": refusal(simulated(), checkpoint=kept if first else folder / "elsewhere", n_latent=5),
    }


if __name__ == "__main__":
    (folder,) = map(Path, sys.argv[1:])
    folder.mkdir(exist_ok=True)
    rank, size = place()
    met = refusals(folder) if size > 1 else {}
    if size > 1:
        np.savez(folder / f"command_{rank}.npz", **as_the_command(folder))
    found = {f"{case}: {name}": values for case in CASES for name, values in fitted(case, folder).items()}
    assert dist.is_initialized() == (size > 1)  # that of the caller, still there
    np.savez(folder / f"process_{rank}.npz", **found)
    (folder / f"process_{rank}.json").write_text(json.dumps(met))
    if size > 1:
        dist.destroy_process_group()
