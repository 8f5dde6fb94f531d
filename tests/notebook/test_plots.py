"""Plots: what stands on the axes, in the legend and beside the lines; and whatever was recorded can be drawn."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from pathlib import Path

import matplotlib as mpl
import pytest
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.text import Annotation

import replicate
from replicate import InvalidInput, NotFound
from replicate_core.views.plotting import FIGURES_MAX

HOSTILE = r"$\frac{1$ <b> \$ $$"


@pytest.fixture(autouse=True)
def without_a_screen(no_recorder: None) -> Iterator[None]:
    mpl.use("Agg")
    yield
    plt.close("all")


def run(name: str | None, loss: float = 1.0, steps: int = 5, **params: object) -> replicate.Experiment:
    """A real run whose loss falls."""
    with replicate.init(params, path=None, name=name) as experiment:
        for step in range(steps):
            metrics = {"loss": loss / (step + 1), "accuracy": step / steps, "note": "text", "broken": math.nan}
            experiment.checkpoint(None, metrics, ("loss", "minimize"))
    return experiment


@pytest.fixture
def runs(project: Path) -> replicate.ExperimentList:
    for index, name in enumerate(["slow", None, "wide", "wide"]):
        run(name, 1.0 + index, lr=10.0**-index, optimizer={"name": "adam" if index else "sgd"}, depth=index or "auto")
    return replicate.experiments.list()


def drawn(axes: Axes) -> bytes:
    """The picture; what can't be drawn raises or warns only here."""
    buffer = io.BytesIO()
    axes.figure.savefig(buffer, format="png")
    return buffer.getvalue()


def legend(axes: Axes) -> list[str]:
    found = axes.get_legend()
    return [] if found is None else [text.get_text() for text in found.get_texts()]


def beside(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts if isinstance(text, Annotation)]


class TestLines:
    def test_each_experiment_is_a_line_over_its_steps(self, runs: replicate.ExperimentList) -> None:
        axes = runs.plot()
        assert drawn(axes).startswith(b"\x89PNG")
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("step", "loss")
        assert len(axes.get_lines()) == 4
        assert list(axes.get_lines()[1].get_xdata()) == [0, 1, 2, 3, 4]
        assert list(axes.get_lines()[1].get_ydata()) == [2 / (step + 1) for step in range(5)]

    def test_each_has_its_name_or_where_that_is_not_its_own_its_short_id(self, runs: replicate.ExperimentList) -> None:
        axes = runs.plot("loss")
        ids = [experiment.short_id for experiment in runs]
        labels = ["slow", ids[1], f"wide {ids[2]}", f"wide {ids[3]}"]
        assert legend(axes) == labels
        assert sorted(beside(axes)) == sorted(labels)

    def test_labels_beside_lines_do_not_cover_each_other(self, runs: replicate.ExperimentList) -> None:
        axes = runs.plot("accuracy")  # all lines are the same
        drawn(axes)
        boxes = [text.get_window_extent() for text in axes.texts]
        assert len(boxes) == 4
        assert not any(one.overlaps(other) for index, one in enumerate(boxes) for other in boxes[:index])

    def test_one_experiment_has_no_legend(self, runs: replicate.ExperimentList) -> None:
        axes = runs[0].plot("accuracy")
        assert (legend(axes), beside(axes), axes.get_ylabel()) == ([], ["slow"], "accuracy")

    def test_checkpoints_are_drawn_as_they_were_chosen(self, runs: replicate.ExperimentList) -> None:
        axes = runs[0].checkpoints[1:3].plot()
        assert list(axes.get_lines()[0].get_xdata()) == [1, 2]
        assert beside(axes) == [runs[0].short_id]

    def test_given_axes_are_drawn_into_and_what_is_there_stays(self, runs: replicate.ExperimentList) -> None:
        _, axes = plt.subplots()
        axes.set_title("mine")
        assert runs[0].plot(ax=axes) is runs[1].plot("loss", ax=axes) is axes
        assert legend(axes) == ["slow", runs[1].short_id]
        assert axes.get_title() == "mine"
        assert len({line.get_color() for line in axes.get_lines()}) == 2
        drawn(axes)

    def test_the_axis_can_be_logarithmic(self, runs: replicate.ExperimentList) -> None:
        axes = runs.plot(logy=True)
        assert axes.get_yscale() == "log"
        drawn(axes)
        drawn(runs.plot("accuracy", logy=True))  # it begins with 0

    def test_experiments_without_the_metric_are_left_out(self, runs: replicate.ExperimentList) -> None:
        with replicate.init({}, path=None) as other:
            other.checkpoint(None, {"speed": 3})
        assert len(replicate.experiments.list().plot("loss").get_lines()) == 4
        assert len(replicate.experiments.list().plot("speed").get_lines()) == 1

    def test_lines_beyond_the_colours_differ_in_style_and_beyond_the_legend_are_counted(self, project: Path) -> None:
        for index in range(21):
            run(f"run {index}", index + 1.0, steps=2)
        runs = replicate.experiments.list()
        some = runs[:20].plot()
        assert len({(line.get_color(), line.get_linestyle()) for line in some.get_lines()}) == 20
        assert (len(legend(some)), beside(some)) == (20, [])
        drawn(some)
        assert (legend(runs.plot()), runs.plot().get_title()) == ([], "21 experiments")

    def test_long_lines_have_no_markers_and_short_ones_can_be_seen(self, project: Path) -> None:
        assert run("one", steps=1).plot().get_lines()[0].get_marker() == "o"
        assert run("long", steps=31).plot().get_lines()[0].get_marker() == "None"

    @pytest.mark.parametrize(
        "value", [math.nan, math.inf, 10**400, -1.0, 0], ids=["nan", "inf", "huge", "negative", "zero"]
    )
    @pytest.mark.parametrize("logy", [False, True], ids=["linear", "log"])
    def test_any_number_can_be_drawn(self, project: Path, value: float, logy: bool) -> None:
        with replicate.init({"lr": 1}, path=None) as experiment:
            experiment.checkpoint(None, {"loss": 1.0})
            experiment.checkpoint(None, {"loss": value})
        drawn(experiment.plot("loss", logy=logy))
        drawn(replicate.experiments.list().scatter("lr", "loss"))

    def test_names_are_no_formulas_and_none_is_left_out_of_the_legend(self, project: Path) -> None:
        names = [HOSTILE, "_hidden", "x" * 200, "line\nbreak \x1b", r"\$5$"]
        for name in names:
            with replicate.init({HOSTILE: name}, path=None, name=name) as experiment:
                experiment.checkpoint(None, {HOSTILE: 1.0})
        runs = replicate.experiments.list()
        lines, points = runs.plot(HOSTILE), runs.scatter(HOSTILE, HOSTILE)
        assert drawn(lines)
        assert drawn(points)
        assert len(legend(lines)) == 5
        assert max(map(len, legend(lines))) < 40
        assert "\x1b" not in "".join(legend(lines))


class TestFigures:
    def test_thirty_plots_do_not_leave_thirty_figures_and_each_can_still_be_saved(self, project: Path) -> None:
        experiment = run("one")
        plots = [experiment.plot() for _ in range(30)]  # more than 20 are warned of, which is an error here
        assert len(plt.get_fignums()) == FIGURES_MAX
        assert len({axes.figure for axes in plots}) == 30
        assert plt.gca() is plots[-1]
        assert all(len(axes.get_lines()) == 1 for axes in plots)
        assert drawn(plots[0]).startswith(b"\x89PNG")

    def test_figures_of_others_stay_open(self, project: Path) -> None:
        experiment = run("one")
        mine = plt.figure()
        mine.gca().plot([1, 2])
        for _ in range(FIGURES_MAX + 5):
            experiment.plot()
        assert mine.number in plt.get_fignums()
        assert len(plt.get_fignums()) == FIGURES_MAX + 1

    def test_an_empty_current_figure_is_drawn_into(self, project: Path) -> None:
        experiment = run("one", lr=1)
        figure = plt.figure(figsize=(10, 2))
        assert experiment.plot().figure is figure
        assert experiment.plot().figure is not figure, "what is drawn there stays as it is"
        _, (left, right) = plt.subplots(1, 2)
        plt.sca(left)
        assert replicate.experiments.list().scatter("lr") is left
        assert not right.has_data()

    def test_in_a_notebook_they_are_shown_before_they_are_closed(
        self, project: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shown: list[list[int]] = []
        monkeypatch.setattr(plt, "get_backend", lambda: "module://matplotlib_inline.backend_inline")
        monkeypatch.setattr(plt, "show", lambda: shown.append(plt.get_fignums()))
        experiment = run("one")
        for _ in range(FIGURES_MAX):
            experiment.plot()
        assert shown == []
        experiment.plot()
        assert [len(numbers) for numbers in shown] == [FIGURES_MAX]


class TestPoints:
    def test_each_experiment_is_a_point(self, runs: replicate.ExperimentList) -> None:
        axes = runs.scatter("lr", logx=True)
        assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_xscale()) == ("lr", "loss", "log")
        (dots,) = axes.collections
        assert dots.get_offsets().tolist() == [[10.0**-index, (1.0 + index) / 5] for index in range(4)]
        ids = [experiment.short_id for experiment in runs]
        assert set(beside(axes)) == {"slow", ids[1], f"wide {ids[2]}", f"wide {ids[3]}"}
        drawn(axes)

    def test_the_metric_is_that_of_the_best_checkpoint(self, runs: replicate.ExperimentList) -> None:
        (dots,) = runs.scatter("lr", "accuracy").collections
        assert {y for _, y in dots.get_offsets().tolist()} == {0.8}

    def test_params_may_be_nested_and_texts(self, runs: replicate.ExperimentList) -> None:
        axes = runs.scatter("optimizer.name", "loss")
        assert [label.get_text() for label in axes.get_xticklabels()] == ["sgd", "adam"]
        drawn(axes)

    def test_numbers_beside_texts_are_named_too(self, runs: replicate.ExperimentList) -> None:
        axes = runs.scatter("depth", logx=True)
        assert [label.get_text() for label in axes.get_xticklabels()] == ["auto", "1", "2", "3"]
        drawn(axes)

    def test_axes_may_be_given_and_logarithmic(self, runs: replicate.ExperimentList) -> None:
        _, axes = plt.subplots()
        assert runs.scatter("lr", logy=True, ax=axes) is axes
        assert axes.get_yscale() == "log"
        drawn(axes)

    def test_of_many_points_none_is_labelled(self, project: Path) -> None:
        for index in range(41):
            with replicate.init({"lr": index}, path=None) as experiment:
                experiment.checkpoint(None, {"loss": index})
        axes = replicate.experiments.list().scatter("lr", "loss")
        assert (len(axes.collections[0].get_offsets()), beside(axes)) == (41, [])
        drawn(axes)

    def test_what_a_logarithmic_axis_can_not_show_is_not_labelled(self, project: Path) -> None:
        for rate in (0, 0.1):
            run(f"rate {rate}", lr=rate)
        axes = replicate.experiments.list().scatter("lr", logx=True)
        drawn(axes)
        assert "rate 0.1" in beside(axes)

    def test_what_no_experiment_has_is_not_found(self, runs: replicate.ExperimentList) -> None:
        with pytest.raises(NotFound, match="'learning_rate' and the metric 'loss'; params are: lr, optimizer"):
            runs.scatter("learning_rate")


class TestWhatCanNotBeDrawn:
    def test_a_metric_that_is_not_there(self, runs: replicate.ExperimentList) -> None:
        for plot in (runs.plot, runs[0].plot, runs[0].checkpoints.plot):
            with pytest.raises(NotFound, match="'los': similar is 'loss'"):
                plot("los")

    def test_texts(self, runs: replicate.ExperimentList) -> None:
        with pytest.raises(InvalidInput, match="'note' is never a number"):
            runs.plot("note")

    def test_no_metric_in_particular(self, project: Path) -> None:
        with replicate.init({}, path=None) as experiment:
            experiment.checkpoint(None, {"a": 1, "b": 2})
        with pytest.raises(InvalidInput, match="name the metric to draw: there is 'a', 'b'"):
            experiment.plot()
