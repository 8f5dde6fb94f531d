"""How objects look where people type: a short and true `repr`, and HTML in a notebook; and lists that give columns."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest

import replicate_core as replicate
from replicate_core.errors import MissingExtra, NotFound, StorageFailed
from replicate_core.storage.local import LocalStore

HOSTILE = "<script>alert(1)</script>"


@pytest.fixture
def experiments(project: Path) -> replicate.ExperimentList:
    """Two real runs."""
    for name, rate in (("slow", 0.001), (HOSTILE, 0.1)):
        with replicate.init({"lr": rate, "same": 1, "o": {"name": name}}, path=None, name=name, tags=["t"]) as made:
            for step in range(30):
                made.checkpoint(None, {"loss": abs(5 - step) + rate, "text": HOSTILE}, ("loss", "minimize"), note="n")
    return replicate.experiments.list()


class TestInATerminal:
    def test_lists_say_what_is_in_them(self, experiments: replicate.ExperimentList) -> None:
        assert repr(experiments) == f"<ExperimentList of 2: 'slow', '{HOSTILE}'>"
        assert repr(experiments[:0]) == "<ExperimentList of 0>"
        assert repr(experiments[0].checkpoints[3:7]) == "<CheckpointList of 4, steps 3 to 6>"
        assert repr(experiments[0].checkpoints[:0]) == "<CheckpointList of 0>"
        many = replicate.ExperimentList([*experiments, *experiments])
        assert repr(many) == f"<ExperimentList of 4: 'slow', '{HOSTILE}', 'slow', ...>"

    def test_a_checkpoint_stays_short_whatever_its_metrics_are(self, project: Path) -> None:
        experiment = replicate.init({}, path=None)
        made = experiment.checkpoint(None, {"long": list(range(1000)), "b": 0.5, "c": "x" * 500, "d": math.nan, "e": 1})
        assert repr(made).startswith(
            f"<Checkpoint {made.short_id} step=0 {{'long': [0, 1, 2, 3, 4, 5, ...], 'b': 0.5, "
        )
        assert repr(made).endswith(", 'd': nan, ...}>")
        assert len(repr(made)) < 150

    def test_a_storage_that_can_not_be_reached_hides_nothing(
        self, project: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        experiment = replicate.init({}, path=None, name="digits")
        experiment.checkpoint(None, {"loss": 1})

        def fail(*_: object) -> None:
            raise StorageFailed("no route to host")

        monkeypatch.setattr(LocalStore, "list", fail)
        assert repr(experiment).startswith(f"<Experiment {experiment.short_id} 'digits' ")
        assert experiment.short_id in experiment._repr_html_()


class TestInANotebook:
    def test_nothing_that_was_recorded_becomes_markup(self, experiments: replicate.ExperimentList) -> None:
        hostile = experiments[1]
        for shown in (experiments, hostile, hostile.checkpoints, hostile.checkpoints[0]):
            page = shown._repr_html_()
            assert "<script" not in page
            assert "&lt;script&gt;" in page

    def test_an_experiment_shows_its_best_and_its_last_checkpoints(self, experiments: replicate.ExperimentList) -> None:
        page = experiments[0]._repr_html_()
        best = experiments[0].best()
        assert f"<strong>{best.short_id}</strong>" in page
        assert page.count("<strong>best</strong>") == 1
        for checkpoint in experiments[0].checkpoints[10:]:
            assert checkpoint.short_id in page
        assert experiments[0].checkpoints[9].short_id not in page
        assert "9 more: experiment.checkpoints" in page
        assert all(text in page for text in (experiments[0].id, "finished", "0.001", "Experiment", "slow"))

    def test_a_list_shows_the_params_that_differ(self, experiments: replicate.ExperimentList) -> None:
        page = experiments._repr_html_()
        assert "lr=0.001" in page
        assert "o.name=slow" in page
        assert "same" not in page
        assert "same=1" in experiments[:1]._repr_html_()

    def test_long_lists_are_cut_and_say_so(
        self, experiments: replicate.ExperimentList, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("replicate_core.views.notebook_html.ROWS_MAX", 1)
        assert "<p>and 1 more</p>" in experiments._repr_html_()
        assert "<p>and 29 more</p>" in experiments[0].checkpoints._repr_html_()

    def test_empty_lists_say_that_they_are(self, experiments: replicate.ExperimentList) -> None:
        assert "0 experiments" in experiments[:0]._repr_html_()
        assert "0 checkpoints" in experiments[0].checkpoints[:0]._repr_html_()

    def test_a_checkpoint_shows_what_was_recorded(self, project: Path) -> None:
        Path("model.txt").write_text("weights")
        experiment = replicate.init({}, path=None)
        made = experiment.checkpoint("model.txt", {"loss": 0.25}, ("loss", "minimize"), seed=7)
        page = made._repr_html_()
        assert all(text in page for text in (made.id, experiment.id, "0.25 (minimize)", "seed", "7", "model.txt"))
        experiment.stop()
        assert "7 B" in replicate.experiments.get(made.id)._repr_html_()

    def test_what_is_not_stored_yet_is_marked(self, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        experiment = replicate.init({}, path=None)
        monkeypatch.setattr("replicate_core.recording.launching.InlineRecorder.ensure_running", lambda _: False)
        experiment.checkpoint(None, {"loss": 1})
        assert "not stored yet" in experiment._repr_html_()


class TestColumns:
    def test_metrics_and_steps_are_lists(self, experiments: replicate.ExperimentList) -> None:
        checkpoints = experiments[0].checkpoints
        assert checkpoints[4:7].metrics["loss"] == pytest.approx([1.001, 0.001, 1.001])
        assert checkpoints[4:7].step == [4, 5, 6]
        assert list(checkpoints.metrics) == ["loss", "text"]
        with pytest.raises(NotFound, match="similar is 'loss'"):
            checkpoints.metrics["los"]

    @pytest.mark.parametrize(
        ("package", "call"),
        [
            ("matplotlib", "experiments.list().plot('loss')"),
            ("matplotlib", "experiments.list()[0].plot()"),
            ("matplotlib", "experiments.list()[0].checkpoints.plot()"),
            ("matplotlib", "experiments.list().scatter('lr')"),
            ("pandas", "experiments.list().to_dataframe()"),
            ("pandas", "experiments.list()[0].checkpoints.to_dataframe()"),
        ],
        ids=["plot", "one", "checkpoints", "scatter", "experiments", "frame of checkpoints"],
    )
    def test_what_needs_a_package_says_how_to_get_it(
        self, experiments: replicate.ExperimentList, monkeypatch: pytest.MonkeyPatch, package: str, call: str
    ) -> None:
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(MissingExtra, match=rf"need {package}.*pip install {package} \(the extra .*notebook"):
            eval(f"replicate.{call}")

    def test_reading_imports_neither(self, experiments: replicate.ExperimentList) -> None:
        code = (
            "import sys, replicate_core as r; e = r.experiments.list(); e._repr_html_(); e[0].checkpoints.metrics\n"
            "print({'pandas', 'matplotlib', 'numpy'} & set(sys.modules))"
        )
        root = str(Path(replicate.__file__).parents[1])
        environment = {"PYTHONPATH": root}
        done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment)
        assert done.stdout == "set()\n"
