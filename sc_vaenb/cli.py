"""The command line: `sc-vaenb`, also `python -m sc_vaenb`. Built on the public functions alone."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from . import __version__

if TYPE_CHECKING:
    from anndata import AnnData

RESULT = "demo.h5ad"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0 done, 1 refused or failed, 2 not understood, 130 interrupted."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except KeyboardInterrupt:
        print("sc-vaenb: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if options.debug:
            raise
        # a KeyError's own text is the repr of its message
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        print(f"sc-vaenb: {' '.join(str(text).split()) or type(error).__name__}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sc-vaenb", description="Variational autoencoders for single-cell counts.")
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    demo = commands.add_parser(
        "demo",
        help="the main job on 700 real cells, without network",
        description="Fit a VAE and a CVAE to 700 real blood cells, dealt to three batches whose capture efficiency "
        "differs gene by gene, and compare them with PCA: a table here, figures and an .h5ad in the folder.",
        epilog="example: sc-vaenb demo --out my_demo",
    )
    demo.add_argument("--out", type=Path, default=Path("sc_vaenb_demo"), help="folder for results (%(default)s)")
    demo.add_argument("--force", action="store_true", help="replace the results of an earlier demo there")
    demo.set_defaults(run=_demo)
    return parser


def _demo(options: argparse.Namespace) -> None:
    out: Path = options.out
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"{out} is a file, not a folder. Pass another --out.")
    if (out / RESULT).exists() and not options.force:
        raise FileExistsError(f"{out / RESULT} is already there. Pass --force to replace it, or another --out.")
    out.mkdir(parents=True, exist_ok=True)

    import matplotlib as mpl

    mpl.use("Agg")
    from . import datasets, pl, pp, tl

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
        begun = time.perf_counter()
        method(adata, key_added=key)
        seconds = time.perf_counter() - begun
        _downstream(adata, key)
        print(f"{name:6}{seconds:8.1f}{_found(adata, key)}")
    print("\nNMI and ARI: Leiden clusters against the published types, 1 is best. Own batch: the share of a cell's 15")
    print("nearest neighbours of its type that are of its batch, with what perfect mixing would give.\n")

    for key in ("vae", "cvae"):
        _save(pl.history(adata, key, show=False)["loss"], out / f"history_{key}.png")  # type: ignore[index]
    axes = pl.embedding(adata, [f"X_{m.lower()}" for m in methods], color=["batch", "cell_type"], show=False)
    _save(axes[0, 0], out / "umap.png")  # type: ignore[index]
    _write(adata, out / RESULT)
    files = "".join(f"\n  {out / name}" for name in (RESULT, "history_vae.png", "history_cvae.png", "umap.png"))
    print(f"written in {time.perf_counter() - start:.0f} s:{files}")


def _pca(adata: AnnData, *, key_added: str) -> None:
    """What scanpy's tutorials do: log-normalise, PCA of the variable genes."""
    import scanpy as sc

    plain = adata.copy()
    sc.pp.normalize_total(plain)
    sc.pp.log1p(plain)
    plain = plain[:, plain.var["highly_variable"]].copy()
    sc.pp.pca(plain, n_comps=30)
    adata.obsm[f"X_{key_added}"] = plain.obsm["X_pca"]


def _downstream(adata: AnnData, key: str) -> None:
    import scanpy as sc

    graph = f"neighbors_{key}"
    sc.pp.neighbors(adata, use_rep=f"X_{key}", key_added=graph, transformer="sklearn")
    sc.tl.leiden(adata, key_added=f"leiden_{key}", neighbors_key=graph, flavor="igraph", n_iterations=2, directed=False)
    sc.tl.umap(adata, neighbors_key=graph, key_added=f"X_umap_{key}")


def _found(adata: AnnData, key: str) -> str:
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    from .metrics import same_batch_share

    types, clusters = adata.obs["cell_type"], adata.obs[f"leiden_{key}"]
    mixing = same_batch_share(adata.obsm[f"X_{key}"], adata.obs["batch"], types, k=15)
    scores = normalized_mutual_info_score(types, clusters), adjusted_rand_score(types, clusters)
    counted = f"{clusters.nunique():10}{scores[0]:7.2f}{scores[1]:7.2f}"
    return f"{counted}{f'{mixing.share:.2f} (mixed: {mixing.expected:.2f})':>29}"


def _save(ax, path: Path) -> None:  # type: ignore[no-untyped-def]
    import matplotlib.pyplot as plt

    ax.figure.savefig(path, dpi=150, bbox_inches="tight")
    plt.close(ax.figure)


def _write(adata: AnnData, path: Path) -> None:
    """Write beside the target and rename: a run that fails or is killed leaves no broken file in its place."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        adata.write_h5ad(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
