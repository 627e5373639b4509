"""Published cells of liver cancer, from the Gene Expression Omnibus (GEO)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from .._checks import checked
from .._files import move, sha256_of, work_folder
from .._session import own_state
from ._table import read_counts, read_metadata

if TYPE_CHECKING:
    from anndata import AnnData

GEO = "https://ftp.ncbi.nlm.nih.gov/geo/series/GSE149nnn/GSE149614/suppl/"
FILES = {  # the small file first, so that its errors show at once
    "metadata": "GSE149614_HCC.metadata.updated.txt.gz",
    "counts": "GSE149614_HCC.scRNAseq.S71915.count.txt.gz",
}
SOURCE = "GEO GSE149614; Lu et al. 2022, Nature Communications 13, 4594, doi:10.1038/s41467-022-32283-3"
CACHED = "GSE149614_hcc.h5ad"
CHUNK = 2**17  # bytes downloaded at once


@own_state()
@checked
def hcc(
    folder: str | Path | None = None,
    *,
    counts: str | Path | None = None,
    metadata: str | Path | None = None,
    sha256: Mapping[str, str] | None = None,
) -> AnnData:
    """Hepatocellular carcinoma: 71,915 cells of 21 samples of 10 patients, with published cell types.

    Tumour, adjacent liver, portal vein thrombus and lymph node, GEO series GSE149614 (Lu et al. 2022). The first call
    downloads two text files (166 MB), reads them and keeps the result as one .h5ad file, which later calls read. The
    text files are deleted, also after a failed call.

    GEO publishes no checksums. A download is accepted if it is complete, if the length and the CRC in its gzip format
    are right, and if it holds a table of whole numbers whose cells all have metadata.

    Parameters
    ----------
    folder
        Where the .h5ad file is kept; made if absent. None: ``scanpy.settings.datasetdir``.
    counts, metadata
        Paths of the two text files of GEO (gzip or plain), or of files of the same form, to read instead: nothing is
        downloaded or kept, and `folder` is ignored. Give both or neither.
    sha256
        Checksums that the files must have: hexadecimal, by the names ``counts`` and ``metadata``, such as
        ``uns["sha256"]`` of an earlier result.

    Returns
    -------
    AnnData with

    `X`, `layers["counts"]`
        Raw counts (UMIs), CSR float32, integers only (cells x genes); two copies, so that `X` may be normalised.
    `obs["sample"]`, `obs["celltype"]`
        Sample of the cell, and its published type.
    `obs[...]`
        The other columns of the metadata, all categorical: `res.3` (published clusters), `site`, `patient`, `stage`,
        `virus`.
    `uns["source"]`
        Where the cells come from.
    `uns["sha256"]`
        Checksums of the two text files.

    Raises
    ------
    ConnectionError
        If a file cannot be downloaded.
    FileNotFoundError
        If a local path does not exist.
    TypeError, ValueError
        If a file is cut off, is not the one meant by `sha256`, or is no table of this form; if a cell has no metadata.

    See Also
    --------
    sc_vaenb.datasets.demo : A small data set that needs no download.

    References
    ----------
    .. [1] Lu et al. (2022), A single-cell atlas of the multicellular ecosystem of primary and metastatic hepatocellular
       carcinoma, Nature Communications 13:4594.

    Examples
    --------
    >>> adata = sc_vaenb.datasets.hcc()  # doctest: +SKIP
    >>> sc_vaenb.pp.prepare(adata, batch_key="sample")  # doctest: +SKIP
    """
    import scanpy as sc
    from scanpy import logging as logg

    wanted = _check_sha256(sha256)
    if (counts is None) != (metadata is None):
        passed, missing = ("counts", "metadata") if metadata is None else ("metadata", "counts")
        raise ValueError(f"{passed} is given without {missing}. Pass both local files, or neither to download both.")
    local = {name: Path(path) for name, path in (("counts", counts), ("metadata", metadata)) if path is not None}
    for name, path in local.items():
        if not path.is_file():
            raise FileNotFoundError(f"{name}={str(path)!r} is not a file. Pass a path of GEO's {FILES[name]}.")

    cached = Path(sc.settings.datasetdir if folder is None else folder) / CACHED
    if local:
        start = logg.info(f"reading {local['counts']} and {local['metadata']}")
        adata = _read(local, wanted)
    elif cached.is_file():
        start = logg.info(f"reading {cached}")
        adata = _read_cached(cached, wanted)
    else:
        start = logg.info(f"downloading GSE149614 from GEO, to keep it as {cached}")
        cached.parent.mkdir(parents=True, exist_ok=True)
        # in a work folder, so that a failed call leaves no files behind
        with work_folder(cached.parent) as work:
            adata = _read({name: _download(file, work) for name, file in FILES.items()}, wanted)
            adata.write_h5ad(work / CACHED, compression="lzf")
            move(work / CACHED, cached)
    # copied here and not stored, which halves the size of the file
    adata.layers["counts"] = adata.X.copy()
    logg.info("    finished", time=start)
    return adata


def _check_sha256(sha256: Mapping[str, str] | None) -> dict[str, str]:
    if not isinstance(sha256, Mapping | None):
        raise TypeError(f"sha256 must map {list(FILES)} to checksums, found {sha256!r}: pass a dict.")
    wanted = {name: str(value).lower() for name, value in (sha256 or {}).items()}
    for name, value in wanted.items():
        if name not in FILES:
            raise ValueError(f"sha256 names {name!r}, which is not one of the files: {list(FILES)}.")
        if len(value) != 64 or set(value) - set("0123456789abcdef"):
            raise ValueError(f"sha256[{name!r}] must have 64 hexadecimal digits, found {value!r}.")
    return wanted


def _read_cached(path: Path, wanted: Mapping[str, str]) -> AnnData:
    import anndata as ad

    try:
        adata = ad.read_h5ad(path)
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error}). Delete it, and call again to download anew.") from error
    for name, value in wanted.items():
        cached_sha256 = adata.uns["sha256"][name]
        if cached_sha256 != value:
            raise ValueError(
                f"{path} was made of {name} with sha256 {cached_sha256}, not {value} as sha256[{name!r}] asks. "
                "Delete it, and call again to download anew."
            )
    return adata


def _download(file: str, folder: Path) -> Path:
    import pooch
    from requests import RequestException
    from scanpy import settings

    # without this, a server may declare gzip as the transfer encoding, and the file would arrive decompressed
    headers = {"Accept-Encoding": "identity"}
    # not pooch.retrieve, which logs a checksum although GEO publishes none to compare with
    fetch = pooch.HTTPDownloader(progressbar=settings.verbosity.value > 0, chunk_size=CHUNK, headers=headers)
    try:
        fetch(GEO + file, str(folder / file), None)
    except RequestException as error:
        raise ConnectionError(
            f"{GEO + file} could not be downloaded ({error}). Call again; or get {' and '.join(FILES.values())} in "
            "another way, and pass their paths as counts and metadata."
        ) from error
    return folder / file


def _read(paths: Mapping[str, Path], wanted: Mapping[str, str]) -> AnnData:
    """The AnnData made of the two text files."""
    import pandas as pd
    from anndata import AnnData
    from anndata.utils import make_index_unique
    from scanpy import logging as logg

    sha256 = {}
    for name, path in paths.items():
        sha256[name] = sha256_of(path)
        if sha256[name] != wanted.get(name, sha256[name]):
            raise ValueError(
                f"{path.name} has sha256 {sha256[name]}, not {wanted[name]} as sha256[{name!r}] asks: it is damaged, "
                "or another version. Download it again, or pass the sha256 of this version."
            )
    obs = read_metadata(paths["metadata"])
    counts, cells, genes = read_counts(paths["counts"], obs.index, paths["metadata"].name)
    var = pd.DataFrame(index=pd.Index(genes))
    if not var.index.is_unique:
        duplicates = var.index[var.index.duplicated()].unique()
        logg.warning(
            f"{len(duplicates)} gene names occur more than once (first: {duplicates[0]!r}); "
            "the later genes get -1, -2, ..."
        )
        var.index = make_index_unique(var.index)
    return AnnData(counts, obs=obs.loc[cells].astype("category"), var=var, uns={"source": SOURCE, "sha256": sha256})
