from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anndata import AnnData
from scanpy import logging as logg

from .._checks import checked
from .._files import move, work_folder
from .._obs import columns_of
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
    """Write a comparison as one HTML file, to read, keep and send, and its scores as a CSV file beside it.

    The page holds the verdict, facts about the data, all scores with their meaning, the plots, the histories of the
    fits, what failed, and the code to repeat the comparison and to continue. It needs no script and no network.

    Parameters
    ----------
    adata
        Annotated data with a comparison by :func:`sc_vaenb.tl.compare`. It stays as it is.
    path
        The file to write, whose name ends in `.html`; its folder exists. The scores go to the same name with `.csv`.
    key
        Where the comparison is in ``adata.uns``: the ``key_added`` of that call.
    title
        Title of the page. `None`: a default title.
    command
        The command that made the comparison, shown in the page. `None`: the Python call, from the record in `uns`.
    data
        The file that holds `adata`, for the code in the page that continues from it. `None`: the file that backs
        `adata`, or a placeholder.
    force
        Replace the files if they are already there.

    Returns
    -------
    The files written: page and scores. Both are complete, or an error is raised; existing files are never left
    half-written.

    Raises
    ------
    FileExistsError
        A file is already there, and `force` is not set.
    FileNotFoundError, IsADirectoryError
        The folder does not exist, or a file to be written is a folder.
    KeyError
        There is no comparison, or its embeddings, UMAPs, clusters or columns were removed.
    TypeError, ValueError
        `adata` is not an AnnData, `path` does not end in `.html`, or the cells are not those that were compared.

    See Also
    --------
    sc_vaenb.tl.compare : Computes the comparison.
    sc_vaenb.pl.scores : The scores alone.

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
    with work_folder(html.parent) as work:  # both files are written before either is moved
        for file, content in ((csv, score_file(adata.uns[key])), (html, text)):
            (work / file.name).write_text(content, encoding="utf-8")
        for file in (csv, html):
            move(work / file.name, file)
    logg.info("    finished", time=start, deep=f"written\n    {html}\n    {csv}")
    return [html, csv]


def _check_comparison(adata: AnnData, key: str) -> None:
    duplicates = adata.obs.columns[adata.obs.columns.duplicated()]
    if len(duplicates):
        msg = f"obs holds several columns named {duplicates[0]!r}. Rename all but one of them, or keep one."
        raise ValueError(msg)
    record = adata.uns.get(key)
    if not (isinstance(record, dict) and "made" in record):
        msg = f"uns[{key!r}] holds no comparison; uns has {list(adata.uns)}. Run sc_vaenb.tl.compare(adata, ...) first."
        raise KeyError(msg)
    advice = "Run the same sc_vaenb.tl.compare again: it computes only what is missing."
    if "verdict" not in record:
        msg = f"the comparison in uns[{key!r}] was interrupted before its end. {advice}"
        raise KeyError(msg)
    record = check_result(record, key, "compare", "scores", "methods", "params", "failed")
    missing = _missing_parts(adata, record)
    if missing:
        msg = f"the comparison in uns[{key!r}] is of {', '.join(missing)}, which adata no longer has. {advice}"
        raise KeyError(msg)
    params = record["params"]
    n_compared, n_now, which_cells = int(record["scores"]["params"]["n_cells"]), adata.n_obs, ""
    if "label_key" in params:
        n_now, which_cells = int(adata.obs[params["label_key"]].notna().sum()), " with a label"
    if n_now != n_compared:
        msg = (
            f"the comparison in uns[{key!r}] is of {n_compared:,} cells{which_cells}, adata has {n_now:,}. "
            "Pass the AnnData that was compared, or compare anew."
        )
        raise ValueError(msg)


def _missing_parts(adata: AnnData, record: Mapping[str, Any]) -> list[str]:
    """Entries of obsm and obs that the page needs and that adata no longer has."""
    keys = [record["params"][name] for name in ("batch_key", "label_key") if name in record["params"]]
    columns = [column for key in keys for column in columns_of(key)]
    arrays = []
    for embedding in record["methods"].drop_duplicates("method")["embedding"]:
        name = str(embedding).removeprefix("X_")
        arrays += [f"X_{name}", f"X_umap_{name}"]
        columns.append(f"leiden_{name}")
    missing = [f"obsm[{name!r}]" for name in arrays if name not in adata.obsm]
    return missing + [f"obs[{name!r}]" for name in columns if name not in adata.obs]


def _check_files(html: Path, *, force: bool) -> Path:
    """Refuse files that cannot be written; return the path of the CSV file with the scores."""
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
