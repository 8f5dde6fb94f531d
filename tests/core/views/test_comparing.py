"""Two experiments or checkpoints side by side, as they were really recorded."""

from __future__ import annotations

import os
import subprocess
import warnings
from pathlib import Path

import pytest

import replicate_core as replicate
from replicate_core.errors import NotFound
from replicate_core.views import comparing
from replicate_core.views.comparing import Comparison
from replicate_core.views.diff import UNSET, Change, FileChange


@pytest.fixture(autouse=True)
def stored_in_this_process(no_recorder: None) -> None:
    """No recorder of its own."""


def recorded(project: Path, files: dict[str, bytes | None], params: dict[str, object], *losses: float) -> str:
    for name, data in files.items():
        if data is None:
            (project / name).unlink()
        else:
            (project / name).write_bytes(data)
    with replicate.init(params) as experiment:
        for loss in losses:
            (project / "model.bin").write_text(f"loss {loss}")
            experiment.checkpoint("model.bin", {"loss": loss}, ("loss", "minimize"))
    return experiment.id


def compared(before: str, after: str) -> Comparison:
    return replicate.experiments.compare(before[:9], after[:9])


def kinds(found: list[FileChange]) -> dict[str, str]:
    return {change.path: change.kind for change in found}


def test_experiments_stand_for_their_best_checkpoints(project: Path) -> None:
    first = recorded(
        project, {"train.py": b"a\nb\n", "old.py": b"old\n"}, {"lr": 0.1, "model": {"k": 1}}, 2.0, 1.0, 3.0
    )
    second = recorded(
        project, {"train.py": b"a\nB\n", "old.py": None, "new.py": b"new"}, {"lr": 0.2, "model": {"k": 1}}, 0.5
    )
    found = compared(first, second)

    assert found.params == [Change("lr", 0.1, 0.2)]
    assert found.metrics == [Change("step", 1, 0), Change("loss", 1.0, 0.5)]
    assert (found.packages, found.environment, found.git) == ([], [], [])
    assert [change.name for change in found.experiment if change.name != "created"] == []
    assert kinds(found.code) == {"train.py": "changed", "old.py": "removed", "new.py": "added"}
    assert kinds(found.files) == {"model.bin": "changed"}
    lines = {change.path: found.lines(change) for change in found.code}
    assert lines["train.py"][3:] == ["@@ -1,2 +1,2 @@", " a", "-b", "+B"]
    assert lines["old.py"][4:] == ["@@ -1 +0,0 @@", "-old"]
    assert lines["new.py"][4:] == ["@@ -0,0 +1 @@", "+new", "\\ No newline at end of file"]


def test_what_git_knew_is_compared(project: Path) -> None:
    def git(*words: str) -> None:
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        subprocess.run(["git", *identity, *words], check=True, capture_output=True)

    git("init", "-b", "main")
    ids = []
    for message in ("first", "second"):
        git("commit", "--allow-empty", "-m", message)
        ids.append(recorded(project, {}, {}))
    (change,) = compared(*ids).git
    assert change.name == "commit"
    assert change.before != change.after


def test_an_experiment_is_the_same_as_itself(project: Path) -> None:
    found = compared(*[recorded(project, {"train.py": b"x"}, {}, 1.0)] * 2)
    assert not any((found.experiment, found.params, found.metrics, found.packages, found.code, found.files))


def test_checkpoints_of_one_experiment_can_be_compared(project: Path) -> None:
    experiment = replicate.experiments.get(recorded(project, {"train.py": b"x"}, {}, 2.0, 1.0))
    found = compared(*(checkpoint.id for checkpoint in experiment.checkpoints))
    assert found.metrics == [Change("step", 0, 1), Change("loss", 2.0, 1.0)]
    assert (kinds(found.code), kinds(found.files)) == ({}, {"model.bin": "changed"})


def test_a_model_of_the_last_run_that_lies_about_is_no_code(project: Path) -> None:
    (project / "model").mkdir()
    ids = []
    for number in range(2):
        with replicate.init({}) as experiment:
            (project / "model/weights").write_text(str(number))
            experiment.checkpoint("model", {})
        ids.append(experiment.id)
    assert (kinds(compared(*ids).code), kinds(compared(*ids).files)) == ({}, {"model/weights": "changed"})


def test_a_side_without_checkpoints_is_compared_with_nothing(project: Path) -> None:
    found = compared(recorded(project, {"train.py": b"x"}, {}), recorded(project, {}, {}, 1.0))
    assert found.metrics == [Change("step", UNSET, 0), Change("loss", UNSET, 1.0)]
    assert kinds(found.files) == {"model.bin": "added"}


def test_code_that_was_not_saved_is_no_code(project: Path) -> None:
    (project / "train.py").write_text("x")
    ids = []
    for path in (None, "train.py"):
        with replicate.init({}, path=path) as experiment:
            ids.append(experiment.id)
    assert kinds(compared(*ids).code) == {"train.py": "added"}
    assert compared(*ids).experiment[-1] == Change("path", UNSET, "train.py")


def test_the_code_of_a_resumed_experiment_is_that_which_made_the_checkpoint(project: Path) -> None:
    first = recorded(project, {"train.py": b"one\n"}, {}, 2.0)
    (project / "train.py").write_text("two\n")
    with replicate.init({}, resume=first) as experiment:
        experiment.checkpoint("model.bin", {"loss": 1.0}, ("loss", "minimize"))
    old, new = (checkpoint.id for checkpoint in replicate.experiments.get(first).checkpoints)
    assert "train.py" in kinds(compared(old, new).code)
    assert "train.py" in kinds(compared(old, first).code)


def test_links_are_compared_by_where_they_lead(project: Path) -> None:
    ids = []
    for target in ("a.py", "b.py"):
        (project / "link").unlink(missing_ok=True)
        (project / "link").symlink_to(target)
        ids.append(recorded(project, {"a.py": b"a", "b.py": b"b"}, {}))
    found = compared(*ids)
    assert kinds(found.code) == {"link": "changed"}
    assert found.lines(found.code[0]) == ["link was a link to a.py, and is a link to b.py"]
    (project / "link").unlink()
    found = compared(ids[1], recorded(project, {"link": b"b.py"}, {}))
    assert found.lines(found.code[0]) == ["link was a link to b.py, and is a file"]
    found = compared(recorded(project, {"link": None}, {}), ids[0])
    assert found.lines(found.code[0]) == ["link was nothing, and is a link to a.py"]


def test_of_a_large_file_it_is_only_said_that_it_changed(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparing, "TEXT_BYTES_MAX", 10)
    found = compared(*(recorded(project, {"data.txt": data}, {}) for data in (b"short", b"longer than ten")))
    assert found.lines(found.code[0]) == ["data.txt: too large to be shown line by line"]


@pytest.mark.parametrize(("data", "expected"), [(b"abcd", False), (b"abce", True)], ids=["same", "other"])
def test_files_that_are_cut_differently_are_compared_by_their_bytes(
    project: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, *, expected: bool
) -> None:
    found = compared(*(recorded(project, {"a.bin": content}, {}) for content in (b"abcd", data)))
    monkeypatch.setattr(comparing.diff, "_digests", id)
    monkeypatch.setattr(comparing.diff, "_cuts", id)
    assert ("a.bin" in kinds(found.code)) is expected


def test_what_is_deleted_meanwhile_is_not_found(project: Path) -> None:
    experiment = replicate.experiments.get(recorded(project, {}, {}, 1.0, 2.0))
    found = compared(*(checkpoint.id for checkpoint in experiment.checkpoints))
    experiment.checkpoints[0].delete()
    with pytest.raises(NotFound, match="no longer"):
        _ = found.code


# What of it is checked out.


def laid_out(source: replicate.Checkpoint | replicate.Experiment, what: str) -> set[str]:
    return set(source.layout(what=what).files)


def test_only_the_code_or_only_the_files_can_be_checked_out(project: Path) -> None:
    experiment = replicate.experiments.get(recorded(project, {"train.py": b"x"}, {}, 1.0))
    (project / "model.bin").unlink()
    for source in (experiment, experiment.checkpoints[0]):
        assert laid_out(source, "code") == {"train.py"}
        assert laid_out(source, "files") == {"model.bin"}
        assert laid_out(source, "all") == {"train.py", "model.bin"}


def test_files_that_are_not_there_are_not_found(project: Path) -> None:
    with replicate.init({}, path=None) as experiment:
        pass
    with pytest.raises(NotFound, match="no checkpoint"):
        experiment.layout(what="files")
    with replicate.init({}, path=None) as experiment:
        experiment.checkpoint(None, {})
    with pytest.raises(NotFound, match="has no files: none were given"):
        experiment.layout(what="files")


def test_the_code_alone_is_no_reason_to_warn(project: Path) -> None:
    experiment = replicate.init({})
    experiment.keep(best=1, last=1)
    for loss in (2.0, 1.0, 3.0):
        (project / "model.bin").write_text(f"loss {loss}")
        experiment.checkpoint("model.bin", {"loss": loss}, ("loss", "minimize"))
    experiment.stop()
    gone = replicate.experiments.get(experiment.id).checkpoints[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "model.bin" not in gone.layout(what="code").files
    with pytest.raises(NotFound, match=r"were deleted, as experiment.keep"):
        gone.layout(what="files")


def test_only_what_would_be_lost_is_replaced(project: Path, tmp_path: Path) -> None:
    (project / "link").symlink_to("train.py")
    (project / "empty").write_text("")
    experiment = replicate.experiments.get(recorded(project, {"train.py": os.urandom(3_000_000)}, {}, 1.0))
    done: list[tuple[int, int]] = []
    experiment.checkout(tmp_path / "out", progress=lambda *counts: done.append(counts))
    layout, out = experiment.layout(), tmp_path / "out"
    total = sum(file.size for file in layout.files.values())
    assert done[-1] == (total, total)
    assert sorted(layout.existing(out)) == ["empty", "link", "model.bin", "train.py"]
    assert layout.replaced(out) == []

    (out / "link").unlink()
    (out / "link").symlink_to("empty")
    (out / "empty").unlink()
    (out / "empty").symlink_to("train.py")
    data = bytearray((out / "train.py").read_bytes())
    data[-1] ^= 1
    (out / "train.py").write_bytes(data)
    (out / "model.bin").unlink()
    (out / "model.bin").mkdir()
    assert sorted(layout.replaced(out)) == ["empty", "link", "model.bin", "train.py"]


def test_a_file_that_can_not_be_read_would_be_lost(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = replicate.experiments.get(recorded(project, {"train.py": b"x"}, {}))
    layout = experiment.layout()
    assert layout.replaced(project) == []

    def refused(*_: object, **__: object) -> None:
        raise PermissionError("no")

    monkeypatch.setattr("replicate_core.repository.checkout.open", refused, raising=False)
    assert layout.replaced(project) == ["train.py"]


def test_a_prefix_that_fits_nothing_is_not_found(project: Path) -> None:
    with pytest.raises(NotFound):
        replicate.experiments.compare("abc", "def")
