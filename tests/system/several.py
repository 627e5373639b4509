"""What `test_several.py` has torchrun start: `python several.py FOLDER` fits in one process, torchrun in several.

What each process finds is written to FOLDER: arrays by the name of the case, and the refusals that it met.
"""

import json
import sys
from itertools import count
from pathlib import Path

import anndata as ad
import numpy as np
import torch
import torch.distributed as dist
from scipy.sparse import csr_matrix

import sc_vaenb
from sc_vaenb.fit.distributed import process_group, rank_and_size, scan_together

FAST = {"layer": None, "n_latent": 4, "hidden": (16,), "n_steps": 40, "device": "cpu"}
CASES = {
    "33 cells a step": {"batch_size": 33},
    "one cell a step": {"batch_size": 1},
    "proteins and labels": {"protein_key": "protein", "labels_key": "cell_type", "encode_batch": True},
    "counts on disk": {"batch_size": 50},
    "a group of the caller": {"prior": "conditional", "patience": 2, "target_kl": 2.0},
}
CSR = "data", "indices", "indptr"
files = count()
COMMAND = {"n_steps": 1000, "batch_size": 33}


def simulated():
    adata = sc_vaenb.datasets.simulate(301, 100, n_types=3, n_batches=2, mean_depth=500, rng=0)
    adata.obsm["protein"] = np.random.default_rng(0).poisson(5, (301, 3))
    adata.uns["protein_names"] = np.array(["a", "b", "c"], dtype=object)
    return adata


def stored(adata, folder):
    """The same with its counts on disk, in a file of this process."""
    path = folder / f"process_{rank_and_size()[0]}_{next(files)}.h5ad"
    adata.write_h5ad(path)
    return ad.read_h5ad(path, backed="r")


def one_pass():
    """What one pass over counts on disk finds, of which each process reads its part alone."""
    read = []

    def blocks(cells):
        first, last, _ = cells.indices(adata.n_obs)
        for start in range(first, last, 70):
            read.append(min(start + 70, last) - start)
            yield adata.X[start : start + read[-1]]

    adata = simulated()
    adata.X = adata.X.astype(np.float32)
    adata.X[:, :3] = adata.X[:, :3].multiply(np.arange(adata.n_obs)[:, None] > 290)
    adata.X[:, 3] = 0
    adata.X.eliminate_zeros()
    with process_group(torch.device("cpu")) as processes:
        found = scan_together(processes, blocks, adata.n_vars, adata.n_obs, np.array([0, 5, 149, 150, 151, 299, 300]))
        assert sum(read) == len(range(adata.n_obs)[processes.part(adata.n_obs)])
    return {"depth": found.depth, "seen": found.seen, **{name: getattr(found.matrix, name) for name in CSR}}


def fitted(case, folder):
    adata = simulated()
    if case == "counts on disk":
        adata = stored(adata, folder)
    if case == "a group of the caller" and rank_and_size()[1] > 1:
        dist.init_process_group("gloo")
    sc_vaenb.tl.cvae(adata, "batch", **FAST | CASES[case])
    history = adata.uns["vae"]["history"]
    names = [name for name in history if name != "seconds"]
    return {"X_vae": adata.obsm["X_vae"], **{name: history[name] for name in names}}


def as_the_command(folder):
    """The embedding that `sc-vaenb cvae` gives of a file with these cells, and the losses."""
    adata = simulated()
    if rank_and_size()[0] == 0:
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


def spoilt(cells, value):
    adata, counts = simulated(), simulated().X.toarray()
    counts[cells] = value
    adata.X = csr_matrix(counts)
    return adata


def refusals(folder):
    """Refusals that only several processes meet; rank 0 alone knows what the folder of the checkpoint holds."""
    kept = folder / "kept"
    first = rank_and_size()[0] == 0
    return {
        "other counts": refusal(simulated() if first else simulated()[:300].copy()),
        "no seed": refusal(simulated(), rng=None),
        "cells that must be together": refusal(simulated(), norm="batch", prior="mog", mmd=1.0),
        "a bad count in one part": refusal(stored(spoilt(300, -1), folder)),
        "empty cells in both parts": refusal(stored(spoilt([299, 7], 0), folder)),
        "on disk here, in memory there": refusal(stored(simulated(), folder) if first else simulated()),
        "other counts on disk": refusal(stored(simulated() if first else simulated()[:300].copy(), folder)),
        "written": refusal(simulated(), checkpoint=kept),
        "another fit": refusal(simulated(), checkpoint=kept if first else folder / "elsewhere", n_latent=5),
    }


if __name__ == "__main__":
    (folder,) = map(Path, sys.argv[1:])
    folder.mkdir(exist_ok=True)
    rank, size = rank_and_size()
    met = refusals(folder) if size > 1 else {}
    if size > 1:
        np.savez(folder / f"command_{rank}.npz", **as_the_command(folder))
    found = {f"{case}: {name}": values for case in CASES for name, values in fitted(case, folder).items()}
    found |= {f"one pass: {name}": values for name, values in one_pass().items()}
    assert dist.is_initialized() == (size > 1)  # that of the caller, still there
    np.savez(folder / f"process_{rank}.npz", **found)
    (folder / f"process_{rank}.json").write_text(json.dumps(met))
    if size > 1:
        dist.destroy_process_group()
