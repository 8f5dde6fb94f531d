"""A notebook as people use it: a real kernel runs its cells, and what they show is looked at."""

from __future__ import annotations

import base64
from contextlib import suppress
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from traitlets.config import Config

import replicate

TRAINING = """\
import replicate
for rate in (0.1, 0.01):
    experiment = replicate.init({'lr': rate}, path=None, name=f'<i>{rate}</i>')
    for step in range(3):
        experiment.checkpoint(None, {'loss': rate * step}, ('loss', 'minimize'))
    experiment.stop()
"""
CELLS = (
    TRAINING,
    "replicate.experiments.list()",
    "replicate.experiments.list()[0]",
    "replicate.experiments.list()[0].checkpoints",
    "replicate.experiments.get(replicate.experiments.list()[0].best().short_id)",
    "replicate.experiments.list().plot()",
    "replicate.experiments.list().scatter('lr', logx=True);",
    "with replicate.experiments.list()[0] as again: again.checkpoint(None, {'test_loss': 7.0})",
    "again",
)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    """What each cell shows: kind to content."""
    directory: Path = tmp_path_factory.mktemp("notebook")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": directory}}).execute()
    shown: list[dict[str, str]] = []
    for cell in notebook.cells:
        said = "".join(output["text"] for output in cell.outputs if output.get("name") == "stderr")
        assert all(line.startswith("replicate: ") for line in said.splitlines()), "what it waits for on a busy machine"
        shown.append({kind: text for output in cell.outputs for kind, text in output.get("data", {}).items()})
    return shown


def test_recording_is_no_result(outputs: list[dict[str, str]]) -> None:
    assert outputs[0] == {}


@pytest.mark.parametrize("cell", [1, 2, 3, 4], ids=["list", "experiment", "checkpoints", "checkpoint"])
def test_objects_are_shown_as_tables(outputs: list[dict[str, str]], cell: int) -> None:
    assert "<table>" in outputs[cell]["text/html"]
    assert "loss" in outputs[cell]["text/html"]
    assert outputs[cell]["text/plain"].startswith("<")
    assert len(outputs[cell]["text/plain"]) < 120


@pytest.mark.parametrize("cell", [1, 2], ids=["list", "experiment"])
def test_names_are_no_markup(outputs: list[dict[str, str]], cell: int) -> None:
    assert "&lt;i&gt;0.1&lt;/i&gt;" in outputs[cell]["text/html"]
    assert "<i>" not in outputs[cell]["text/html"]


@pytest.mark.parametrize("cell", [5, 6], ids=["plot", "scatter"])
def test_plots_are_pictures(outputs: list[dict[str, str]], cell: int) -> None:
    assert base64.b64decode(outputs[cell]["image/png"]).startswith(b"\x89PNG")


def test_a_cell_adds_to_an_experiment_that_is_over(outputs: list[dict[str, str]]) -> None:
    assert outputs[8]["text/plain"].endswith("finished checkpoints=4>")
    assert "test_loss" in outputs[8]["text/html"]


class TestANotebookThatAProgramRuns:
    """nbclient, and papermill with it, end a kernel after the first cell that fails."""

    @staticmethod
    def run(directory: Path, *cells: str) -> replicate.Experiment:
        """The latest experiment once a new kernel has run these cells, as far as they go."""
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        resources = {"metadata": {"path": directory}}
        patient = Config(KernelManager={"shutdown_wait_time": 120})
        client = NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources, config=patient)
        with suppress(CellExecutionError):
            client.execute()
        return replicate.Project(directory=directory).experiments.list()[-1]

    def test_has_failed_if_a_cell_did(self, tmp_path: Path) -> None:
        begin = "import replicate\nexperiment = replicate.init({'lr': 0.1}, path=None)"
        experiment = self.run(tmp_path, begin, "raise ValueError('loss is nan')")
        assert (experiment.status, experiment.error) == ("failed", "ValueError: loss is nan")
        assert self.run(tmp_path, begin, "1 + 1").status == "finished"

    def test_is_resumed_in_another_kernel(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("JPY_SESSION_NAME", str(tmp_path / "train.ipynb"))
        begin = "import replicate\nexperiment = replicate.init({'lr': 0.1}, path=None, resume='auto')"
        save = "open('model.txt', 'w').write('weights')\nexperiment.checkpoint('model.txt', {'loss': 0.5})"
        first = self.run(tmp_path, begin, save, "1 / 0")
        second = self.run(tmp_path, begin, "assert experiment.resumed_from.step == 0")
        assert (first.status, first.command, first.id) == ("failed", "train.ipynb", second.id)
        assert second.status == "finished"
