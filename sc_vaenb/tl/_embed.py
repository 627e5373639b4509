from __future__ import annotations

from typing import TYPE_CHECKING

from scanpy import logging as logg

from .. import _adata
from .._checks import checked
from .._record import FittedModel
from .._session import own_state
from ..fit.device import resolve_device
from ..inference.embed import aligned
from ..inference.embed import embed as embed_cells
from ._counts import read_counts
from ._labels import write_labels

if TYPE_CHECKING:
    from anndata import AnnData


@own_state()
@checked
def embed(
    adata: AnnData,
    key: str = "vae",
    *,
    key_added: str | None = None,
    device: str = "auto",
    copy: bool = False,
) -> AnnData | None:
    """Embed the cells again with the model stored in `uns`, without fitting.

    Counts, size factors and batches are read from the same places as in the fit (`uns[key]["params"]`). Genes are
    matched by name. Counts on disk are read once, some thousand cells at a time.

    Parameters
    ----------
    adata
        Cells x genes, with a model in `uns[key]` (from :func:`sc_vaenb.tl.vae` or :func:`sc_vaenb.tl.cvae`).
    key
        Name of the stored model.
    key_added
        Name for the embedding, `key` by default: `obsm["X_" + key_added]`.
    device
        `"auto"` takes CUDA, then MPS, then CPU; or torch's name of a device.
    copy
        Work on a copy of `adata` and return it.

    Returns
    -------
    `None`, or the copy if `copy`. `obsm["X_" + key_added]` is written: the embedding as the fit writes it, float32,
    cells x latent dimensions. If the model was fitted with `labels_key`, predicted labels are written too:
    `obs[key_added + "_label"]`, `obs[key_added + "_label_probability"]`, `obsm[key_added + "_label_probabilities"]`.

    Raises
    ------
    KeyError, TypeError, ValueError
        There is no such model, it cannot be read, some of its genes are missing, or the counts are not valid.
        `adata` is unchanged.

    See Also
    --------
    sc_vaenb.tl.map_query : For cells of new batches.
    sc_vaenb.tl.import_model : Reads a model from a file.

    Examples
    --------
    >>> import sc_vaenb
    >>> adata = sc_vaenb.datasets.simulate()
    >>> sc_vaenb.pp.prepare(adata)
    >>> sc_vaenb.tl.vae(adata)
    >>> sc_vaenb.tl.embed(adata)
    """
    name = key if key_added is None else key_added
    torch_device = resolve_device(device)
    fitted = FittedModel.from_uns(adata, key)
    model = fitted.model
    needs_batches = model.config.encoder_needs_batch or model.alignment is not None
    counts = read_counts(adata, key, fitted, batches=needs_batches, in_one_pass=True, peaks_suffice=True)

    start = logg.info(f"embedding {adata.n_obs:,} cells with uns[{key!r}]")
    adata = adata.copy() if copy else adata
    embedding = aligned(model, embed_cells(model, counts, torch_device), counts.batch_index, torch_device)
    _adata.write_result(adata, name, embedding)
    predicted = write_labels(adata, name, model, embedding)
    added = f"added\n    'X_{name}', the embedding (adata.obsm)"
    logg.info("    finished", time=start, deep="\n    ".join([added, *predicted]))
    return adata if copy else None
