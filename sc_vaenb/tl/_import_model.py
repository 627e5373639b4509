from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from scanpy import logging as logg

from .. import _adata
from .._checks import checked
from .._model_file import read_file
from .._session import own_state

if TYPE_CHECKING:
    from anndata import AnnData


@own_state()
@checked
def import_model(
    adata: AnnData, path: str | os.PathLike[str], *, key_added: str = "vae", copy: bool = False
) -> AnnData | None:
    """Read a model from a file that :func:`sc_vaenb.tl.export_model` wrote, and store it in an AnnData.

    Then every function that reads a model from `uns` works, such as :func:`sc_vaenb.tl.embed`, if `adata` has the
    batches that the model needs. No code from the file is executed.

    Parameters
    ----------
    adata
        Cells x genes.
    path
        The file.
    key_added
        Name for the model.
    copy
        Work on a copy of `adata` and return it.

    Returns
    -------
    `None`, or the copy if `copy`. Written is `uns[key_added]` with `params`, `verdict`, `overlap` and `model`, as
    :func:`sc_vaenb.tl.cvae` writes them. Functions then read counts from the layer that the model was fitted on, or
    from `X` if `adata` lacks this layer.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        The file is truncated, damaged or changed, another version or program wrote it, or `adata` lacks genes of the
        model. `adata` is unchanged.

    See Also
    --------
    sc_vaenb.tl.export_model : Writes the file.
    sc_vaenb.tl.embed : Embeds cells with the model.
    sc_vaenb.tl.map_query : Embeds cells of new batches.

    Examples
    --------
    >>> import sc_vaenb
    >>> sc_vaenb.tl.import_model(adata, "model.safetensors")  # doctest: +SKIP
    >>> sc_vaenb.tl.embed(adata)  # doctest: +SKIP
    """
    record = read_file(Path(path))
    _adata.locate_genes(adata, [str(gene) for gene in record["model"]["genes"]], key_added)
    if record["params"].get("layer") not in _adata.keys(adata.layers):
        record["params"].pop("layer", None)  # counts are then read from X
    adata = adata.copy() if copy else adata
    if key_added in adata.uns:
        logg.warning(f"replacing uns[{key_added!r}]; pass key_added to keep several models side by side")
    _adata.remove_extras(adata, key_added)
    _adata.write_record(adata, key_added, record)
    logg.info("read a model", deep=f"added\n    {key_added!r}, the model (adata.uns)")
    return adata if copy else None
