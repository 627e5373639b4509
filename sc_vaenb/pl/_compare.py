"""Plot the methods of a comparison: a row for each method, coloured by batch, label and clusters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._checks import checked
from .._obs import columns_of
from .._results import check_result
from ._colors import read_colourings
from ._embedding import check_names
from ._figure import get_figure, show_or_return
from ._grid import Panel, draw_grid, grid_size
from ._text import as_label
from ._umap import two_dimensions

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData
    from matplotlib.figure import Figure, SubFigure
    from numpy.typing import NDArray

PANEL = 1.65  # inches; with labels, the figure is then as wide as two panels elsewhere


@checked
def compare(
    adata: AnnData, key: str = "compare", *, fig: Figure | SubFigure | None = None, show: bool | None = None
) -> NDArray[np.object_] | None:
    """Plot the UMAPs of a comparison: a row per method, coloured by batch, by label (if there are labels), by cluster.

    Clusters are numbered on the cells. The legends of batches and labels are below.

    Parameters
    ----------
    adata
        Annotated data with a comparison by :func:`sc_vaenb.tl.compare`.
    key
        Key of the comparison in ``adata.uns``: the ``key_added`` of that call.
    fig
        Figure to draw into. A new figure by default.
    show
        Show the figure; by default as :attr:`scanpy.settings.autoshow` says.

    Returns
    -------
    The axes (methods x colours), or `None` if shown.

    Raises
    ------
    KeyError
        If there is no comparison, or its UMAPs or clusters were removed.

    See Also
    --------
    sc_vaenb.tl.compare : Computes the comparison.
    sc_vaenb.pl.scores : Its scores.
    """
    record = adata.uns.get(key)
    if not (isinstance(record, dict) and "methods" in record):
        msg = f"uns[{key!r}] holds no comparison; uns has {list(adata.uns)}. Run sc_vaenb.tl.compare(adata, ...) first."
        raise KeyError(msg)
    record = check_result(record, key, "compare", "params")
    methods = record["methods"].drop_duplicates("method")
    names = [str(name).removeprefix("X_") for name in methods["embedding"]]
    keys = [record["params"][name] for name in ("batch_key", "label_key") if name in record["params"]]
    columns = [column for key in keys for column in columns_of(key)]
    clusters = [f"leiden_{name}" for name in names]
    check_names(adata, [f"X_umap_{name}" for name in names], [*columns, *clusters])
    colourings = read_colourings(adata, [*columns, *clusters])
    common, own = colourings[: len(columns)], colourings[len(columns) :]
    panels = []
    for method, name, clustering in zip(methods["method"], names, own, strict=True):
        _, plane = two_dimensions(adata, f"X_umap_{name}", 0)
        shown = zip([*columns, "leiden"], [*common, clustering], strict=True)
        panels.append([Panel(f"{as_label(method)} · {as_label(title)}", plane, c) for title, c in shown])
    figure = get_figure(fig, grid_size(len(names), len(columns) + 1, PANEL))
    return show_or_return(draw_grid(figure, panels, fit=fig is None, legend_loc="below"), show)
