from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.numpy import save_file
from scanpy import logging as logg

from .._checks import checked
from .._files import atomic_path
from .._model_file import checksum, to_text
from .._record import FittedModel, read_record
from .._session import own_state

if TYPE_CHECKING:
    from anndata import AnnData


@own_state()
@checked
def export_model(adata: AnnData, path: str | os.PathLike[str], key: str = "vae", *, force: bool = False) -> None:
    """Write a fitted model to one file, for use without the data.

    The file is in the safetensors format (arrays and text; reading it executes nothing), with a checksum of its
    content. :func:`sc_vaenb.tl.import_model` puts the model into another AnnData. The file holds names of genes and
    batches, but no counts and no names of cells.

    Parameters
    ----------
    adata
        Cells with a model in `uns[key]`. It is not changed.
    path
        File to write. Its name ends in `.safetensors`, and its folder exists.
    key
        Name of the stored model.
    force
        Replace the file if it exists.

    Returns
    -------
    `None`. The file is written under another name and then renamed, so there is never an incomplete file.

    Raises
    ------
    FileExistsError, FileNotFoundError
        The file exists and `force` is not set, or its folder does not exist.
    KeyError, ValueError
        There is no such model, it is damaged, or `path` does not end in `.safetensors`.

    See Also
    --------
    sc_vaenb.tl.import_model : Reads the file.

    Examples
    --------
    >>> import sc_vaenb
    >>> adata = sc_vaenb.datasets.simulate()
    >>> sc_vaenb.pp.prepare(adata)
    >>> sc_vaenb.tl.vae(adata)
    >>> sc_vaenb.tl.export_model(adata, "model.safetensors")
    """
    record = read_record(adata, key)
    fitted = FittedModel.from_uns(adata, key)  # check the model now, not when somebody reads the file
    file = Path(path)
    if file.suffix != ".safetensors":
        msg = f"path={str(file)!r} does not end in .safetensors. Give the file such a name."
        raise ValueError(msg)
    if not file.parent.is_dir():
        msg = f"there is no folder {str(file.parent)!r} to write {file.name!r} into. Make it first."
        raise FileNotFoundError(msg)
    if file.exists() and not force:
        msg = f"{str(file)!r} is already there. Pass force=True to replace it, or another path."
        raise FileExistsError(msg)
    model = fitted.to_uns()  # in the present format, also if the record is older
    weights, metadata = model["weights"], to_text({**record, "model": model})
    with atomic_path(file) as partial:
        save_file(weights, partial, metadata={**metadata, "sha256": checksum(weights, metadata)})
    logg.info(f"written {file}, the model in uns[{key!r}]")
