"""Sphinx: builds without network; the notebooks are shown with the outputs that are stored in them."""

from __future__ import annotations

import inspect
import re
import shutil
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

from docutils.nodes import SkipNode
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util.inspect import stringify_signature
from sphinx.util.typing import stringify_annotation

HERE = Path(__file__).parent

# Sphinx reads below its own folder only, and the notebooks live beside it: take fresh copies
shutil.rmtree(HERE / "notebooks", ignore_errors=True)
(HERE / "notebooks").mkdir()
for notebook in (HERE.parent / "notebooks").glob("*.ipynb"):
    shutil.copy(notebook, HERE / "notebooks")

project = "sc_vaenb"
author = copyright = "the sc_vaenb developers"
release = version = installed("sc_vaenb")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinxcontrib.bibtex",
]
exclude_patterns = ["_build", "generated/.*", "jupyter_execute"]
templates_path = ["_templates"]
default_role = "literal"  # `name` in a docstring is code

autosummary_generate = True
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
python_use_unqualified_type_names = True
maximum_signature_line_length = 88  # longer ones get a line for each parameter
add_module_names = False
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
napoleon_custom_sections = ["Returns"]  # as it is written: napoleon would make each of its lines a type

# Pages cite references.bib. Docstrings write their sources out, for help(); a test compares them with the entries.
bibtex_bibfiles = ["references.bib"]
bibtex_default_style = "plain"
bibtex_reference_style = "author_year"

nitpicky = True  # a link that leads nowhere fails the build

# The build needs no network: docs/objects/ lists the objects of other projects that are linked, and their pages. It is
# Sphinx's first format of inventories, which is plain text, and knows types as classes only. An object that is missing
# there fails the build: add a line. `sphinx-build -b linkcheck`, with a network, visits the pages.
intersphinx_mapping = {
    "anndata": ("https://anndata.readthedocs.io/en/stable", "objects/anndata.txt"),
    "matplotlib": ("https://matplotlib.org/stable", "objects/matplotlib.txt"),
    "numpy": ("https://numpy.org/doc/stable", "objects/numpy.txt"),
    "python": ("https://docs.python.org/3", "objects/python.txt"),
    "scanpy": ("https://scanpy.readthedocs.io/en/stable", "objects/scanpy.txt"),
    "scipy": ("https://docs.scipy.org/doc/scipy", "objects/scipy.txt"),
}
# Signatures have the names that a file imports, inventories the full ones
FULL_NAMES = {
    "AnnData": "anndata.AnnData",
    "ArrayLike": "numpy.typing.ArrayLike",
    "Axes": "matplotlib.axes.Axes",
    "BoolArray": "numpy.typing.NDArray",
    "Figure": "matplotlib.figure.Figure",
    "FloatArray": "numpy.typing.NDArray",
    "IntArray": "numpy.typing.NDArray",
    "NDArray": "numpy.typing.NDArray",
    "Path": "pathlib.Path",
    "SubFigure": "matplotlib.figure.SubFigure",
    "csr_array": "scipy.sparse.csr_array",
    "scipy.sparse._csr.csr_array": "scipy.sparse.csr_array",
}

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath", "smartquotes"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # notebooks/run.py runs them and stores their outputs; tests run them too

suppress_warnings = ["ref.footnote"]  # a source listed in a docstring need not be cited in its text

html_theme = "sphinx_book_theme"
html_math_renderer = "mathml"  # see setup: formulas need no script from elsewhere
html_title = "sc_vaenb"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "show_toc_level": 2,
    "use_download_button": False,
    "use_fullscreen_button": False,
    "home_page_in_toc": True,
    "navbar_persistent": [],
}


def types_as_written(app: Any, what: str, name: str, thing: Any, *rest: Any) -> tuple[str, str] | None:
    """Types as the source has them: evaluated, `ArrayLike` alone would be a union of ten classes."""
    if what != "function":
        return None
    written = inspect.signature(thing)
    signature = stringify_signature(written, show_return_annotation=False)
    return signature, stringify_annotation(written.return_annotation)


def use_full_name(app: Any, env: Any, node: Any, content: Any) -> None:
    """Give a link its full name; then intersphinx, which listens to the same event, finds the page."""
    name = node.get("reftarget", "")
    if node.get("refdomain") == "py":
        node["reftarget"] = FULL_NAMES.get(name, re.sub(r"^np\.", "numpy.", name))


def setup(app: Any) -> None:
    """Links to other projects; formulas as MathML, which browsers draw by themselves, also without network."""
    app.connect("autodoc-process-signature", types_as_written)
    app.connect("missing-reference", use_full_name, priority=400)  # intersphinx has 500

    def inline(translator: Any, node: Any) -> None:
        translator.body.append(tex2mathml(node.astext(), as_block=False))
        raise SkipNode

    def block(translator: Any, node: Any) -> None:
        formula = tex2mathml(" ".join(node.astext().split()), as_block=True)
        translator.body.append(f'<div class="formula">{formula}</div>')
        raise SkipNode

    app.add_html_math_renderer("mathml", inline_renderers=(inline, None), block_renderers=(block, None))
