"""The notebook in a kernel of its own, where an event loop runs, on a tiny model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from helpers.tiny_text import save_tiny_model, write_rows

NOTEBOOK = Path(__file__).parents[2] / "examples" / "notebook.ipynb"
SMALL = """
import pandas
MODEL = "model"
train, held_out = pandas.read_csv("train.csv"), pandas.read_csv("held_out.csv")
DEVICES, ROUNDS, TOKENS = 4, 3, 16
"""
# In a process of its own: nbclient leaves sockets open, and here that is an error.
EXECUTE = """
import sys, nbformat
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
notebook = nbformat.read("notebook.ipynb", as_version=4)
kernel = AsyncKernelManager()
kernel.kernel_spec.argv[0] = sys.executable
NotebookClient(notebook, km=kernel, timeout=400).execute()
nbformat.write(notebook, "notebook.ipynb")
"""


@pytest.mark.timeout(600)
def test_every_cell_runs(tmp_path: Path) -> None:
    save_tiny_model(tmp_path / "model")
    write_rows(tmp_path / "train.csv", 120, seed=1)
    write_rows(tmp_path / "held_out.csv", 40, seed=0)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    (parameters,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ())]
    parameters.source = SMALL
    nbformat.write(notebook, tmp_path / "notebook.ipynb")
    done = subprocess.run([sys.executable, "-c", EXECUTE], cwd=tmp_path, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr[-3000:]
    cells = nbformat.read(tmp_path / "notebook.ipynb", as_version=4).cells
    said = json.dumps(cells)
    assert "Matthews correlation" in said
    assert "adapter_config.json" in said
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    assert [output for output in outputs if output.get("name") == "stderr"] == []


def test_it_is_kept_as_it_ran() -> None:
    """With the outputs of the real model, of one run from its first cell to its last."""
    cells = [cell for cell in json.loads(NOTEBOOK.read_bytes())["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert "/tmp" not in json.dumps(cells)
