from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anndata import AnnData
from scanpy import logging as logg

from .._checks import checked
from .._files import move, work_folder
from .._results import check_result
from ._page import page
from ._tables import score_file

if TYPE_CHECKING:
    from collections.abc import Mapping


@checked
def write(
    adata: AnnData,
    path: str | os.PathLike[str],
    key: str = "compare",
    *,
    title: str | None = None,
    command: str | None = None,
    data: str | os.PathLike[str] | None = None,
    force: bool = False,
) -> list[Path]:
    """Write a comparison as one HTML file, to read, keep and send, with its scores as CSV beside it.

    The page holds the verdict, what the data are, all scores with what they mean, the plots, how the fits went, what
    failed, and what is needed to do it again and to go on. It needs nothing but itself: no script, no network.

    Parameters
    ----------
    adata
        Annotated data with a comparison by :func:`sc_vaenb.tl.compare`. It stays as it is.
    path
        The file to write, whose name ends in `.html`; its folder exists. The scores go to the same name with `.csv`.
    key
        Where the comparison is in ``adata.uns``: the ``key_added`` of that call.
    title
        Of the page. `None`: a plain one.
    command
        The command that made the comparison, to be shown in the page. `None`: the Python call, from what `uns` records.
    data
        The file that holds `adata`, for the code in the page with which to go on. `None`: the file by which `adata` is
        backed, or a placeholder.
    force
        Replace the files if they are already there.

    Returns
    -------
    The files written: page and scores. Either both are whole or an error was raised, and files that were there before
    are never left half-written.

    Raises
    ------
    FileExistsError
        A file is already there, and `force` is not set.
    FileNotFoundError, IsADirectoryError
        The folder does not exist, or a file to be written is a folder.
    KeyError
        There is no comparison, or embeddings, UMAPs, clusters or columns of it are gone.
    TypeError, ValueError
        `adata` is no AnnData, `path` does not end in `.html`, or the cells are not those that were compared.

    Examples
    --------
    >>> import sc_vaenb
    >>> adata = sc_vaenb.datasets.demo()
    >>> sc_vaenb.pp.prepare(adata, batch_key="batch")
    >>> sc_vaenb.tl.compare(adata, "batch", label_key="cell_type")
    >>> sc_vaenb.report.write(adata, "comparison.html")
    """
    _check_comparison(adata, key)
    html = Path(path)
    csv = _check_files(html, force=force)
    if data is None:
        data = adata.filename if adata.isbacked else "adata.h5ad"

    start = logg.info("writing a report")
    text = page(adata, key, command=command, title=title, data=os.fspath(data), table=csv.name)
    with work_folder(html.parent) as work:  # both are written before either takes its place
        for file, content in ((csv, score_file(adata.uns[key])), (html, text)):
            (work / file.name).write_text(content, encoding="utf-8")
        for file in (csv, html):
            move(work / file.name, file)
    logg.info("    finished", time=start, deep=f"written\n    {html}\n    {csv}")
    return [html, csv]


def _check_comparison(adata: AnnData, key: str) -> None:
    twice = adata.obs.columns[adata.obs.columns.duplicated()]
    if len(twice):
        msg = f"obs holds several columns named {twice[0]!r}. Rename all but one of them, or keep one."
        raise ValueError(msg)
    record = adata.uns.get(key)
    if not (isinstance(record, dict) and "made" in record):
        msg = f"uns[{key!r}] holds no comparison; uns has {list(adata.uns)}. Run sc_vaenb.tl.compare(adata, ...) first."
        raise KeyError(msg)
    again = "Run the same sc_vaenb.tl.compare again: it computes only what is missing."
    if "verdict" not in record:
        msg = f"the comparison in uns[{key!r}] was interrupted before its end. {again}"
        raise KeyError(msg)
    record = check_result(record, key, "compare", "scores", "methods", "params", "failed")
    gone = _gone(adata, record)
    if gone:
        msg = f"the comparison in uns[{key!r}] is of {', '.join(gone)}, which adata has no longer. {again}"
        raise KeyError(msg)
    params = record["params"]
    n_then, n_now, what = int(record["scores"]["params"]["n_cells"]), adata.n_obs, ""
    if "label_key" in params:
        n_now, what = int(adata.obs[params["label_key"]].notna().sum()), " with a label"
    if n_now != n_then:
        msg = (
            f"the comparison in uns[{key!r}] is of {n_then:,} cells{what}, adata has {n_now:,}. "
            "Pass the AnnData that was compared, or compare anew."
        )
        raise ValueError(msg)


def _gone(adata: AnnData, record: Mapping[str, Any]) -> list[str]:
    """What the comparison wrote or read, and the page shows, and is there no more."""
    columns = [record["params"][name] for name in ("batch_key", "label_key") if name in record["params"]]
    arrays = []
    for embedding in record["methods"].drop_duplicates("method")["embedding"]:
        name = str(embedding).removeprefix("X_")
        arrays += [f"X_{name}", f"X_umap_{name}"]
        columns.append(f"leiden_{name}")
    gone = [f"obsm[{name!r}]" for name in arrays if name not in adata.obsm]
    return gone + [f"obs[{name!r}]" for name in columns if name not in adata.obs]


def _check_files(html: Path, *, force: bool) -> Path:
    """Refuse files that cannot be written; the one of the scores."""
    if html.suffix.lower() not in {".html", ".htm"}:
        msg = f"path={str(html)!r} does not end in .html. Give the page a name that does; the scores get .csv."
        raise ValueError(msg)
    if not html.parent.is_dir():
        msg = f"there is no folder {str(html.parent)!r} to write {html.name!r} into. Make it first."
        raise FileNotFoundError(msg)
    csv = html.with_suffix(".csv")
    for file in (html, csv):
        if file.is_dir():
            msg = f"{str(file)!r} is a folder. Choose another path."
            raise IsADirectoryError(msg)
        if file.exists() and not force:
            msg = f"{str(file)!r} is already there. Pass force=True to replace it, or another path."
            raise FileExistsError(msg)
    return csv
