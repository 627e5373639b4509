from __future__ import annotations

import os
from collections.abc import Sequence
from inspect import signature
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scanpy import logging as logg

from .. import _adata, _obs
from .._checks import checked, seed_of
from .._session import own_state
from ._arguments import to_uns
from ._pca import log_pca

if TYPE_CHECKING:
    from anndata import AnnData

KEY = "pca_harmony"
MIN_CELLS_FOR_HARMONY = 20  # with fewer, harmonypy (of some versions) returns NaN, makes no cluster or does not end


@own_state()
@checked
def harmony(
    adata: AnnData,
    batch_key: str | Sequence[str],
    *,
    basis: str = "X_pca",
    layer: str | None = "counts",
    mask_var: str | NDArray[np.bool_] | None = "highly_variable",
    rng: int | np.random.Generator | None = 0,
    key_added: str | None = None,
    copy: bool = False,
) -> AnnData | None:
    """Correct principal components for batch effects with Harmony, to compare with the count models.

    Calls harmonypy (Korsunsky et al. 2019, Nature Methods, "Fast, sensitive and accurate integration of single-cell
    data with Harmony") with its defaults.

    Parameters
    ----------
    adata
        Cells x genes.
    batch_key
        Column of `obs` with the batch of each cell, or several columns, as in :func:`sc_vaenb.tl.cvae`; two batches or
        more.
    basis
        Embedding in `obsm` to correct. If `"X_pca"` does not exist, it is computed first, from the counts. (With its
        preset for version 2, scanpy writes its own PCA as `"pca"`.)
    layer
        The raw counts for that PCA: a layer, or `None` for `X`.
    mask_var
        The genes for that PCA: a boolean column of `var`, an array with one value per gene, or `None` for all.
    rng
        Seed.
    key_added
        Name for the result, `"pca_harmony"` by default: `obsm["X_" + key_added]` and `uns[key_added]`.
    copy
        Work on a copy of `adata` and return it.

    Returns
    -------
    `None`, or the copy if `copy`. Written are:

    `obsm["X_pca_harmony"]`
        The corrected components, float32, cells x components of `basis`.
    `uns["pca_harmony"]["params"]`
        The parameters.
    `obsm["X_pca"]`
        The PCA, if it did not exist: 50 components of the log1p of the counts scaled to the median depth.

    Raises
    ------
    KeyError, TypeError, ValueError
        `basis`, `batch_key` or the counts do not exist or are not valid. `adata` is unchanged.

    See Also
    --------
    sc_vaenb.tl.cvae : Removes batch effects with a count model.
    sc_vaenb.tl.compare : Both on the same data, with scores.

    References
    ----------
    .. [1] Korsunsky et al. (2019), Fast, sensitive and accurate integration of single-cell data with Harmony, Nature
       Methods 16:1289-1296.

    Examples
    --------
    >>> import sc_vaenb
    >>> adata = sc_vaenb.datasets.simulate()
    >>> sc_vaenb.pp.prepare(adata, batch_key="batch")
    >>> sc_vaenb.tl.harmony(adata, "batch")
    """
    key = KEY if key_added is None else key_added
    rng = seed_of(rng)
    if key == "pca" or f"X_{key}" == basis:
        msg = f"key_added={key!r} would replace the components that are corrected. Choose another name."
        raise ValueError(msg)
    codes, names = _obs.read_batches(adata, batch_key)
    if basis in adata.obsm:
        components, computed = _adata.read_embedding(adata, basis), False
    elif basis == "X_pca":
        components, computed = log_pca(adata, layer, mask_var, rng), True
    else:
        msg = f"basis={basis!r} is not in adata.obsm, which holds {list(adata.obsm)}. Choose one of these, or 'X_pca'."
        raise KeyError(msg)

    if adata.n_obs < MIN_CELLS_FOR_HARMONY:
        msg = (
            f"adata has {adata.n_obs} cells: Harmony makes one cluster per 30 cells and needs at least "
            f"{MIN_CELLS_FOR_HARMONY} cells."
        )
        raise ValueError(msg)

    start = logg.info(f"correcting {basis} for {len(names)} batches with Harmony")
    adata = adata.copy() if copy else adata
    corrected = _run_harmony(components, codes, rng)
    if computed:
        _adata.write_result(adata, "pca", components)
    params = {"batch_key": batch_key, "basis": basis, "rng": rng, "method": "harmony"}
    _adata.write_result(adata, key, corrected, {"params": to_uns(params)})
    logg.info("    finished", time=start, deep=f"added\n    'X_{key}', the corrected components (adata.obsm)")
    return adata if copy else None


def _run_harmony(components: NDArray[np.float32], codes: NDArray[np.int64], seed: int) -> NDArray[np.float32]:
    import harmonypy
    import pandas as pd

    # One factor, also for several columns. Of a list, harmonypy penalises and shifts by each column on its own. That
    # would count nested columns twice, and not correct for the batches of the other methods.
    batches = pd.DataFrame({"batch": codes.astype(str)})
    components = np.ascontiguousarray(components, dtype=np.float64)
    is_square = components.shape[0] == components.shape[1]  # harmonypy confuses cells and components then
    if is_square:
        components = np.pad(components, ((0, 0), (0, 1)))  # a column of zeros changes no distance
    options: dict[str, Any] = {"verbose": False, "random_state": seed}
    if "ncores" in signature(harmonypy.run_harmony).parameters:  # since 2
        options["ncores"] = _n_cores()  # by default it starts a thread per core of the machine, even in a container
    if round(len(components) / 30) == 1:  # one cluster: harmonypy before 2 needs its own default as an array
        options["sigma"] = np.array([0.1])
    corrected = np.asarray(harmonypy.run_harmony(components, batches, "batch", **options).Z_corr)
    return np.ascontiguousarray(corrected[:, :-1] if is_square else corrected, dtype=np.float32)


def _n_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
