"""How long tl.cvae takes, beside scvi-tools and PCA + Harmony: a CSV with every repeat, tables and a figure.

    python benchmarks/speed.py whole DATA.h5ad ...     fit and embed, against PCA + Harmony and scVI
    python benchmarks/speed.py step DATA.h5ad          cells per second of a training step, against scVI and the floor
    python benchmarks/speed.py growth DATA.h5ad        10k, 100k, 1M cells of DATA: time and memory; PCA + Harmony
    python benchmarks/speed.py busy DATA.h5ad          the job of 10k cells, alone and beside another busy process
    python benchmarks/speed.py batches DATA.h5ad       100k cells of DATA in 8, 1,000 and 5,000 batches at random
    python benchmarks/speed.py gpu DATA.h5ad           steps and the job of a million cells on a CUDA device
    python benchmarks/speed.py show                    tables and figure from the results

DATA holds raw counts in X and obs["batch"]. Runs use two threads (OMP_NUM_THREADS=2 unless set). scVI is timed over
three of its epochs, after one to warm up, and extrapolated to its own rule, min(400, 20,000 / cells * 400) epochs; it
is left out where scvi-tools is not installed. Methods take turns, so that a machine that slows down slows all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("NUMBA_NUM_THREADS", "2")

RESULTS = Path(__file__).parent / "results"
EPOCHS_TIMED = 3
SIZES = 10_000, 100_000, 1_000_000


def write(name: str, rows: list[dict[str, object]]) -> None:
    import pandas as pd

    RESULTS.mkdir(exist_ok=True)
    pd.DataFrame(rows).to_csv(RESULTS / f"speed_{name}.csv", index=False, float_format="%.5g")


def prepared(path: Path):
    import scanpy as sc

    import sc_vaenb

    sc.settings.verbosity = 0
    adata = sc.read_h5ad(path)
    sc_vaenb.pp.prepare(adata, batch_key="batch")
    return adata[:, adata.var["highly_variable"]].copy()


def seconds(function, *args, **kwargs) -> float:
    start = time.perf_counter()
    function(*args, **kwargs)
    return time.perf_counter() - start


def pca_harmony(adata) -> None:
    import harmonypy
    import scanpy as sc

    plain = adata.copy()
    sc.pp.normalize_total(plain)
    sc.pp.log1p(plain)
    sc.pp.pca(plain)
    harmonypy.run_harmony(plain.obsm["X_pca"], plain.obs, "batch", verbose=False)


def scvi_model(adata):
    import logging
    import warnings

    import scvi

    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    plain = adata.copy()
    plain.X = plain.layers["counts"].astype("float32")
    scvi.model.SCVI.setup_anndata(plain, batch_key="batch")
    return scvi.model.SCVI(plain, n_layers=2, n_latent=30, gene_likelihood="nb")


def scvi_epoch(model) -> float:
    """Seconds of an epoch."""
    options = {"accelerator": "cpu", "enable_progress_bar": False}
    model.train(max_epochs=1, **options)
    return seconds(model.train, max_epochs=EPOCHS_TIMED, **options) / EPOCHS_TIMED


def has_scvi() -> bool:
    from importlib.util import find_spec

    return find_spec("scvi") is not None


def whole(paths: list[Path], repeats: int) -> None:
    import sc_vaenb

    rows = []
    for path in paths:
        adata = prepared(path)
        sc_vaenb.tl.cvae(adata, "batch", n_steps=5)  # what is imported and compiled once
        pca_harmony(adata[:1000].copy())
        for repeat in range(repeats):
            took = {"tl.cvae": seconds(sc_vaenb.tl.cvae, adata, "batch"), "PCA + Harmony": seconds(pca_harmony, adata)}
            rows += [{"data": path.stem, "method": m, "repeat": repeat, "seconds": s} for m, s in took.items()]
            if has_scvi() and repeat < 2:
                epochs = min(round(20_000 / adata.n_obs * 400), 400)
                extrapolated = scvi_epoch(scvi_model(adata)) * epochs
                rows.append({"data": path.stem, "method": "scVI", "repeat": repeat, "seconds": extrapolated})
            print(rows[-3:], flush=True)
    write("whole", rows)


def step(path: Path, repeats: int) -> None:
    """One training step of 128 cells of each, on one thread as in a fit, and a floor: what no step can do without."""
    import numpy as np
    import torch

    from sc_vaenb import _adata
    from sc_vaenb.data.counts import Counts
    from sc_vaenb.fit.loop import Step
    from sc_vaenb.fit.state import FitConfig
    from sc_vaenb.fit.step_cpu import step_on_cpu
    from sc_vaenb.model.config import ModelConfig
    from sc_vaenb.model.vae import CountVAE

    adata = prepared(path)
    matrix = _adata.read_counts(adata, "counts", np.ones(adata.n_vars, dtype=bool))
    depth = np.asarray(matrix.sum(1)).ravel()
    batch = adata.obs["batch"].astype("category").cat.codes.to_numpy(np.int64)
    counts = Counts(matrix, (depth / depth.mean()).astype(np.float32), batch)
    n_genes, n, rng = adata.n_vars, 128, np.random.default_rng(0)
    rows = []
    reads = matrix.copy()  # as many non-zeros, but large, as in Smart-seq2
    reads.data = rng.poisson(40 * matrix.data).astype(np.float32) + 1
    read_counts = Counts(reads, counts.size_factor, batch)
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    ways = {
        "ours": (1, step_on_cpu, counts),
        "ours, read counts": (1, step_on_cpu, read_counts),
        "ours, 2 hidden": (2, step_on_cpu, counts),  # as scVI
        "ours by autograd": (1, Step, counts),
    }
    for what, (layers, make, counts) in ways.items():
        widths = (128,) * layers
        config = ModelConfig(n_genes, int(batch.max()) + 1, 30, widths, widths, batch_width=3, encode_batch=True)
        model = CountVAE(config)
        model.initialise(counts.minibatch(slice(0, 2000), torch.device("cpu")))
        train_step = make(model, counts, FitConfig(1000, 0.1), n, torch.Generator().manual_seed(0))
        for repeat in range(repeats):
            times = [seconds(train_step, rng.permutation(len(counts))[:n], 1e-3, 0.5) for _ in range(120)]
            rows.append({"what": what, "repeat": repeat, "ms": 1e3 * float(np.median(times[20:]))})
    x, h, w = torch.randn(n, n_genes), torch.randn(n, 128), torch.randn(n_genes, 128)
    n_seen = round(n_genes * matrix.nnz / np.prod(matrix.shape))  # as many products as a cell has non-zeros
    parameters = [torch.zeros(2 * w.numel(), requires_grad=True)]
    parameters[0].grad = torch.zeros_like(parameters[0])
    optimizer = torch.optim.AdamW(parameters, fused=True)

    def floor() -> None:
        x[:, :n_seen] @ w[:n_seen]  # encoder forward
        h.T @ x[:, :n_seen]  # and its weights' gradient
        y = h @ w.T  # decoder forward
        y.exp_()  # one pass over the output
        y @ w  # gradient in the hidden layer
        y.T @ h  # and of the decoder's weights
        optimizer.step()  # reads four arrays and writes three of the size of both networks

    for repeat in range(repeats):
        times = [seconds(floor) for _ in range(220)]
        rows.append({"what": "floor", "repeat": repeat, "ms": 1e3 * float(np.median(times[20:]))})
    torch.set_num_threads(n_threads)
    if has_scvi():
        model = scvi_model(adata)
        n_batches = int(np.ceil(0.9 * adata.n_obs / n))
        for repeat in range(2):
            rows.append({"what": "scVI, 2 hidden", "repeat": repeat, "ms": 1e3 * scvi_epoch(model) / n_batches})
    print(f"density {matrix.nnz / np.prod(matrix.shape):.1%}")
    write("step", rows)


def resampled(path: Path, n: int):
    import anndata
    import numpy as np
    from scipy import sparse

    adata, rng = prepared(path), np.random.default_rng(0)
    chosen = rng.integers(adata.n_obs, size=n)
    matrix = sparse.csr_matrix(adata.layers["counts"], dtype=np.float32)[chosen]
    large = anndata.AnnData(matrix)
    large.obs["batch"] = adata.obs["batch"].to_numpy()[chosen]
    return large


def growth(path: Path, n: int | None) -> None:
    """Each size in a process of its own, so that its peak memory is its own."""
    if n is None:
        output = [
            subprocess.run([sys.executable, __file__, "growth", path, "--cells", str(size)], check=True, text=True,
                           stdout=subprocess.PIPE).stdout
            for size in SIZES
        ]  # fmt: skip
        write("growth", [json.loads(text.splitlines()[-1]) for text in output])
        return
    import sc_vaenb

    adata = resampled(path, n)
    sc_vaenb.tl.cvae(adata[:500].copy(), "batch", layer=None, n_steps=5)
    counts_gib = (adata.X.data.nbytes + adata.X.indices.nbytes + adata.X.indptr.nbytes) / 2**30
    took = seconds(lambda: sc_vaenb.tl.cvae(adata, "batch", layer=None))
    fit_seconds = float(adata.uns["vae"]["history"]["seconds"][-1])
    embedding = seconds(sc_vaenb.tl.embed, adata, key_added="again")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    row = {"cells": n, "seconds": took, "of_it_steps": fit_seconds, "embed_seconds": embedding}
    row |= {"counts_gib": counts_gib, "peak_gib": peak, "pca_harmony_seconds": seconds(pca_harmony, adata)}
    print(json.dumps(row | {"threads": os.environ["OMP_NUM_THREADS"]}))


def busy(path: Path, repeats: int) -> None:
    import sc_vaenb

    adata = resampled(path, SIZES[0])
    sc_vaenb.tl.cvae(adata[:500].copy(), "batch", layer=None, n_steps=5)
    n_others = max((os.cpu_count() or 2) - 1, 1)
    rows = []
    for repeat in range(repeats):
        quiet = seconds(sc_vaenb.tl.cvae, adata, "batch", layer=None)
        others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(n_others)]
        try:
            loaded = seconds(sc_vaenb.tl.cvae, adata, "batch", layer=None)
        finally:
            for other in others:
                other.kill()
        took = {"alone": quiet, f"beside {n_others} busy of {n_others + 1}": loaded}
        rows += [{"what": what, "repeat": repeat, "seconds": s} for what, s in took.items()]
        print(rows[-2:], flush=True)
    write("busy", rows)


def batches(path: Path, repeats: int) -> None:
    import numpy as np

    import sc_vaenb

    adata, rng, rows = resampled(path, 100_000), np.random.default_rng(0), []
    sc_vaenb.tl.cvae(adata[:500].copy(), "batch", layer=None, n_steps=5)
    for repeat in range(repeats):
        for n_batches in (8, 1000, 5000):
            adata.obs["batch"] = np.array([f"b{i}" for i in range(n_batches)])[
                rng.integers(n_batches, size=adata.n_obs)
            ]
            cpu_before = time.process_time()  # does not grow while others use the machine
            took = seconds(sc_vaenb.tl.cvae, adata, "batch", layer=None)
            row = {"what": f"{n_batches} batches", "repeat": repeat, "seconds": took}
            rows.append(row | {"cpu_seconds": time.process_time() - cpu_before})
            print(rows[-1], flush=True)
    write("batches", rows)


def gpu(path: Path) -> None:
    import numpy as np
    import torch

    import sc_vaenb

    rows = []
    adata = resampled(path, 1_000_000)
    sc_vaenb.tl.cvae(adata[:2000].copy(), "batch", layer=None, n_steps=10, device="cuda")
    for batch_size in (128, 1024, 4096):
        took = seconds(sc_vaenb.tl.cvae, adata, "batch", layer=None, device="cuda", batch_size=batch_size)
        history = adata.uns["vae"]["history"]
        per_step = float(np.median(np.diff(history["seconds"]) / np.diff(history["step"])))
        rows.append(
            {"what": f"job, batch_size {batch_size}", "seconds": took, "cells_per_second": batch_size / per_step}
        )
    took = seconds(sc_vaenb.tl.embed, adata, device="cuda")
    rows.append({"what": "tl.embed", "seconds": took, "cells_per_second": adata.n_obs / took})
    for row in rows:
        print(row | {"device": torch.cuda.get_device_name()})
    write("gpu", rows)


def show() -> None:
    import matplotlib.pyplot as plt
    import pandas as pd

    for name in ("whole", "step", "growth", "busy", "batches", "gpu"):
        path = RESULTS / f"speed_{name}.csv"
        if not path.exists():
            continue
        table = pd.read_csv(path)
        by = [c for c in ("data", "method", "what") if c in table]
        if "repeat" in table:
            value = "seconds" if "seconds" in table else "ms"
            table = table.groupby(by, sort=False)[value].agg(["median", "min", "max", "count"]).reset_index()
        print(f"\n{name}\n{table.to_string(index=False, float_format=lambda v: f'{v:.4g}')}")
        if name == "whole":
            figure, axes = plt.subplots(1, table["data"].nunique(), figsize=(8, 2.4), layout="constrained", sharex=True)
            for axis, (data, part) in zip(axes, table.groupby("data", sort=False), strict=True):
                axis.barh(
                    part["method"], part["median"], xerr=[part["median"] - part["min"], part["max"] - part["median"]]
                )
                axis.set(title=data, xscale="log", xlabel="seconds, two threads")
            figure.savefig(RESULTS / "speed.png", dpi=110)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["whole", "step", "growth", "busy", "batches", "gpu", "show"])
    parser.add_argument("data", nargs="*", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cells", type=int)
    options = parser.parse_args()
    if options.command == "whole":
        whole(options.data, options.repeats)
    elif options.command == "step":
        step(options.data[0], options.repeats)
    elif options.command == "growth":
        growth(options.data[0], options.cells)
    elif options.command == "busy":
        busy(options.data[0], options.repeats)
    elif options.command == "batches":
        batches(options.data[0], options.repeats)
    elif options.command == "gpu":
        gpu(options.data[0])
    else:
        show()
