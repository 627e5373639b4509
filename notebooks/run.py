"""Run notebooks and store them with their outputs; the documentation shows these.

    python notebooks/run.py [quickstart ...]

A warning or an error stops it, and that notebook stays as it was. Progress bars, times and metadata are not stored.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import re
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from PIL import Image

FOLDER = Path(__file__).parent
DURATION = re.compile(r" \(\d+:\d\d:\d\d\)")  # in scanpy's log


def code_hash(notebook: NotebookNode) -> str:
    """Of all code: a test compares it, so that nobody changes code and leaves the outputs of the old one."""
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256("\0".join(code).encode()).hexdigest()


def small(png: str) -> str:
    """A picture in base64, in 256 colours: less than half of the bytes."""
    written = io.BytesIO()
    Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(
        written, "PNG", optimize=True
    )
    return base64.b64encode(written.getvalue()).decode()


def clean(notebook: NotebookNode) -> None:
    """Leave what a reader wants to see."""
    for cell in notebook.cells:
        cell.metadata = {}
        for output in cell.get("outputs", []):
            if output.output_type == "stream":
                if "Warning" in output.text:
                    raise RuntimeError(f"cell {cell.id!r} warns:\n{output.text}")
                output.text = DURATION.sub("", output.text)
            elif "image/png" in output.get("data", {}):
                output.data = {"image/png": small(output.data["image/png"])}
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
        "code_sha256": code_hash(notebook),
    }


def store(path: Path) -> None:
    os.environ["PYTHONWARNINGS"] = "ignore:IProgress not found"  # of a progress bar, which is not stored anyway
    notebook = nbformat.read(path, as_version=4)
    with TemporaryDirectory() as folder:  # for the files that it writes
        resources = {"metadata": {"path": folder}}
        client = NotebookClient(notebook, timeout=900, resources=resources, coalesce_streams=True, record_timing=False)
        client.execute()
    clean(notebook)
    nbformat.write(notebook, path)
    print(f"{path.name}: {path.stat().st_size / 1000:.0f} KB")


if __name__ == "__main__":
    for name in sys.argv[1:] or sorted(path.stem for path in FOLDER.glob("*.ipynb")):
        store(FOLDER / f"{name}.ipynb")
