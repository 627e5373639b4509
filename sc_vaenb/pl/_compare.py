"""Plot the methods of a comparison: a row for each method, coloured by batch, label and clusters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .._checks import checked
from .._obs import columns_of
from .._results import check_result
from ._embedding import embedding
from ._figure import get_figure, show_or_return
from ._text import as_label

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.figure import Figure, SubFigure
    from numpy.typing import NDArray


@checked
def compare(
    adata: AnnData, key: str = "compare", *, fig: Figure | SubFigure | None = None, show: bool | None = None
) -> NDArray[np.object_] | None:
    """Plot the UMAPs of a comparison: a row per method, coloured by batch, by label (if there are labels), by cluster.

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
    figure = get_figure(fig, (3.6 * (len(columns) + 1) + 2.0, 3.3 * len(names)))
    rows = figure.subfigures(len(names), 1, squeeze=False)[:, 0]
    axes = np.empty((len(names), len(columns) + 1), dtype=object)
    for row, (subfigure, name, method) in enumerate(zip(rows, names, methods["method"], strict=True)):
        panels = embedding(adata, f"X_umap_{name}", color=[*columns, f"leiden_{name}"], fig=subfigure, show=False)
        assert panels is not None  # not shown
        axes[row] = panels[0]
        for ax, title in zip(axes[row], [*columns, "leiden"], strict=True):
            ax.set_title(f"{as_label(method)} · {as_label(title)}", fontsize="medium")
    return show_or_return(axes, show)
