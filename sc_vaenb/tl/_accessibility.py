from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd
from scanpy import logging as logg

from .. import _adata
from .._checks import checked
from .._names import column_names
from .._record import FittedModel
from .._session import own_state
from ..fit.device import resolve_device
from ..inference.accessibility import accessibility as expected_accessibility
from ..inference.normalized import all_batches_of_group, own_batch
from ._counts import read_counts

if TYPE_CHECKING:
    from anndata import AnnData


@own_state()
@checked
def accessibility(
    adata: AnnData,
    key: str = "vae",
    *,
    peaks: Sequence[str] | None = None,
    corrected: bool = False,
    device: str = "auto",
    copy: bool = False,
) -> AnnData | None:
    """Denoised accessibility of peaks: how many counts of each peak the model expects in each cell.

    A peak is decoded from the latent state of a cell, which genes and peaks share. So it is also imputed for cells in
    which only the genes were measured. The correlation of a peak with the denoised expression of a gene near it
    (:func:`sc_vaenb.tl.normalized`) is a hint that the peak regulates the gene, not a proof: it is that of cell types,
    and many genes and peaks of a type go together.

    Parameters
    ----------
    adata
        Cells x genes, with a model in `uns[key]` that was fitted with a `peaks_key`, and with genes, peaks and batches
        in the same places as in the fit.
    key
        Name of the stored model.
    peaks
        The peaks to write. `None`: all peaks of the model; that is a dense table, of 4 bytes a value.
    corrected
        Decode every cell in all batches that have cells of its kind and average over them, as
        :func:`sc_vaenb.tl.corrected` does. `False`: decode every cell in its own batch.
    device
        `"auto"` takes CUDA, then MPS, then CPU; or torch's name of a device.
    copy
        Work on a copy of `adata` and return it.

    Returns
    -------
    `None`, or the copy if `copy`. Written is

    `obsm["vae_accessibility"]`
        A table, cells x peaks, float32: expected counts of each peak per 10,000 counts in all peaks of the model (a "/"
        in a name becomes "|").

    Raises
    ------
    KeyError, TypeError, ValueError
        There is no such model, it knows no peaks or not these, some of its genes are missing, or the counts or batches
        are not valid. `adata` is unchanged.

    See Also
    --------
    sc_vaenb.tl.normalized : The same for genes.
    sc_vaenb.tl.cvae : Fits the model; see `peaks_key` there.

    References
    ----------
    .. [1] Ashuach et al. (2023), MultiVI: deep generative model for the integration of multimodal data, Nature Methods
       20:1222-1231.

    Examples
    --------
    >>> import numpy as np, sc_vaenb
    >>> adata = sc_vaenb.datasets.simulate()
    >>> sc_vaenb.pp.prepare(adata, batch_key="batch")
    >>> is_open = 0.1 + (adata.obs["cell_type"] == "type_0").to_numpy()[:, None] * np.arange(20)
    >>> adata.obsm["peaks"] = np.random.default_rng(0).poisson(is_open)
    >>> sc_vaenb.tl.cvae(adata, "batch", peaks_key="peaks")
    >>> sc_vaenb.tl.accessibility(adata, peaks=["peak_1", "peak_19"])
    >>> adata.obsm["vae_accessibility"].groupby(adata.obs["cell_type"], observed=True).mean()
    """
    torch_device = resolve_device(device)
    fitted = FittedModel.from_uns(adata, key)
    if not fitted.peaks:
        msg = f"The model in uns[{key!r}] knows no peaks. Fit one with peaks_key."
        raise ValueError(msg)
    names = fitted.peaks if peaks is None else list(peaks)
    found = pd.Index(fitted.peaks).get_indexer(names)
    if (found < 0).any():
        unknown = names[int((found < 0).argmax())]
        msg = (
            f"peaks: the model in uns[{key!r}] does not have {unknown!r}. It has {len(fitted.peaks):,} peaks, such as "
            f"{fitted.peaks[0]!r}."
        )
        raise KeyError(msg)
    counts = read_counts(adata, key, fitted, peaks_suffice=True)
    target = all_batches_of_group(fitted.groups) if corrected and fitted.batches else own_batch(len(fitted.batches))

    name = f"{key}_accessibility"
    start = logg.info(f"denoising {len(names):,} peaks of {adata.n_obs:,} cells with uns[{key!r}]")
    if name in adata.obsm:
        logg.warning(f"replacing obsm[{name!r}]")
    adata = adata.copy() if copy else adata
    values = expected_accessibility(fitted.model, counts, target, found, torch_device)
    _adata.write_table(adata, name, pd.DataFrame(values, index=adata.obs_names, columns=column_names(names)))
    logg.info("    finished", time=start, deep=f"added\n    {name!r}, expected counts per 10,000 in peaks (adata.obsm)")
    return adata if copy else None
