"""Runs the notebooks of docs/tutorials and writes their outputs into them.

    python -m scripts.run_notebooks                                            # all of them; make notebooks
    python -m scripts.run_notebooks docs/tutorials/write_a_cell_and_measure_it.ipynb

Needs nbclient and ipykernel, which rnnlab[dev] and rnnlab[docs] bring. Each runs in an empty folder of its own, so it
leaves nothing behind. tests/tutorials says what a notebook with its outputs must be.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

TUTORIALS = Path(__file__).parents[1] / "docs" / "tutorials"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
"""The metadata of every notebook: nothing of the machine that ran it."""


def run(path: Path) -> nbformat.NotebookNode:
    """The notebook with new outputs; the file stays as it is.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell has raised an error.
    """
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        resources = {"metadata": {"path": folder}}
        client = NotebookClient(notebook, timeout=600, resources=resources, record_timing=False, coalesce_streams=True)
        # A kernel warns there of those who listen to its sockets; what cells write to stderr comes another way.
        client.execute(stderr=subprocess.DEVNULL)
    notebook.metadata = METADATA
    for cell in notebook.cells:
        cell.metadata = {}
    return notebook


def main() -> None:
    """Runs the notebooks that the command line names, or all."""
    for path in map(Path, sys.argv[1:] or sorted(TUTORIALS.glob("*.ipynb"))):
        began = time.monotonic()
        nbformat.write(run(path), path)
        print(f"{path}: {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
