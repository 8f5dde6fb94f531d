"""What differs between two sides: values by name, files by path, text by line."""

from __future__ import annotations

import itertools
import math
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicate_core.format.manifest import File, Manifest, Part
from replicate_core.format.values import Value
from replicate_core.views import diff
from replicate_core.views.diff import UNSET, Change, changes, differing, file_changes, unified


def test_values_that_are_the_same_are_not_listed() -> None:
    same: dict[str, Value] = {"lr": 0.1, "nan": math.nan, "list": [1, math.nan], "none": None, "amp": True}
    assert changes(same, dict(same)) == []
    assert changes({"x": 1}, {"x": 1.0}) == []


def test_what_differs_among_several_is_named_once() -> None:
    several: list[dict[str, Value]] = [
        {"lr": 0.1, "same": math.nan, "flag": True},
        {"lr": 0.2, "same": math.nan, "flag": 1, "new": None},
    ]
    assert differing(several) == ["lr", "flag", "new"]
    assert differing(several[:1]) == ["lr", "same", "flag"], "of one, all"
    assert differing([]) == []


def test_what_differs_is_listed_by_name_with_both_values() -> None:
    assert changes({"lr": 0.1, "old": 1, "x": 0}, {"lr": 0.2, "new": 2, "x": 0}) == [
        Change("lr", 0.1, 0.2),
        Change("old", 1, UNSET),
        Change("new", UNSET, 2),
    ]


@pytest.mark.parametrize(("old", "new"), [(1, True), (None, False), ("1", 1), ([1], [2]), (math.nan, 1.0), ({}, 1)])
def test_types_count(old: Value, new: Value) -> None:
    assert changes({"x": old}, {"x": new}) == [Change("x", old, new)]


def test_null_is_a_value() -> None:
    assert changes({"x": None}, {}) == [Change("x", None, UNSET)]


def test_nested_values_are_named_with_dots_and_none_hides_another() -> None:
    old: dict[str, Value] = {"model": {"kind": "mlp", "deep": {"layers": 3}}, "model.kind": 1}
    new: dict[str, Value] = {"model": {"kind": "cnn", "deep": {"layers": 4}}, "model.kind": 2}
    assert [change.name for change in changes(old, new)] == ["model.kind", "model.deep.layers", "model.kind"]
    assert changes({"model": {"kind": 1}}, {"model": 2}) == [Change("model", {"kind": 1}, 2)]


def file(text: str, *cuts: int) -> File:
    """A file whose parts have their own bytes as digests."""
    places = [0, *cuts, len(text)]
    pieces = [text[start:end] for start, end in itertools.pairwise(places)]
    return File(len(text), 0o644, tuple(Part("data/x", 0, len(piece), piece) for piece in pieces))


def test_files_are_told_apart_by_their_digests() -> None:
    old = Manifest({"same": file("same"), "changed": file("old"), "gone": file("gone")}, {"link": "same"})
    new = Manifest({"same": file("same"), "changed": file("new!"), "fresh": file("fresh")}, {"link": "changed"})
    found = file_changes(old, new)
    assert [(change.path, change.kind) for change in found] == [
        ("changed", "changed"), ("fresh", "added"), ("gone", "removed"), ("link", "changed"),
    ]  # fmt: skip
    assert all(change.is_certain for change in found)


def test_a_file_that_became_a_link_has_changed() -> None:
    (change,) = file_changes(Manifest({"x": file("a")}), Manifest({}, {"x": "y"}))
    assert (change.kind, change.is_certain) == ("changed", True)


def test_files_of_one_size_that_are_cut_differently_may_be_the_same() -> None:
    (change,) = file_changes(Manifest({"x": file("abcd")}), Manifest({"x": file("abcd", 2)}))
    assert not change.is_certain
    (change,) = file_changes(Manifest({"x": file("abcd")}), Manifest({"x": file("abce")}))
    assert change.is_certain


def test_a_changed_line_is_shown_between_its_neighbours() -> None:
    assert unified("a.py", b"one\ntwo\nthree\n", b"one\n2\nthree\n") == [
        "diff --git a/a.py b/a.py", "--- a/a.py", "+++ b/a.py", "@@ -1,3 +1,3 @@", " one", "-two", "+2", " three",
    ]  # fmt: skip
    assert unified("a", b"x", b"x") == []


def test_a_file_that_came_or_went_is_beside_dev_null() -> None:
    came = ["diff --git a/a b/a", "new file mode 100644"]
    went = ["diff --git a/a b/a", "deleted file mode 100644"]
    assert unified("a", None, b"x\n") == [*came, "--- /dev/null", "+++ b/a", "@@ -0,0 +1 @@", "+x"]
    assert unified("a", b"x\n", None) == [*went, "--- a/a", "+++ /dev/null", "@@ -1 +0,0 @@", "-x"]
    assert unified("a", None, b"") == came, "an empty file has no lines, and git has words for it"
    assert unified("a", b"", None) == went


@pytest.mark.parametrize("data", [b"\x00binary", b"\xff\xfe", b"text\0"])
def test_bytes_that_are_no_text_are_only_said_to_differ(data: bytes) -> None:
    assert unified("m", data, b"text\n") == ["Binary files a/m and b/m differ"]
    assert unified("m", None, data) == ["Binary files /dev/null and b/m differ"]


def test_texts_that_repeat_themselves_are_replaced_as_a_whole() -> None:
    old, new = (b"".join(b"%d\n" % (number * step % 150) for number in range(8000)) for step in (1, 7))
    lines = unified("table.csv", old, new)
    assert lines[3] == "@@ -1,8000 +1,8000 @@"
    assert len(lines) == 4 + 16000
    assert len(unified("table.csv", old[:100], new[:100])) < 100


text = st.text(st.sampled_from("ab\n\r\x0c\u2028 "), max_size=30).map(str.encode)


@pytest.mark.parametrize("effort", [0, diff.EFFORT_MAX], ids=["replaced", "compared"])
@given(old=text, new=text)
def test_patch_makes_the_one_of_the_other(
    tmp_path_factory: pytest.TempPathFactory, effort: int, old: bytes, new: bytes
) -> None:
    directory: Path = tmp_path_factory.mktemp("patch")
    (directory / "file").write_bytes(old)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(diff, "EFFORT_MAX", effort)
        patch = "".join(f"{line}\n" for line in unified("file", old, new)).encode()
    if old != new:
        subprocess.run(
            ["git", "apply", "--unsafe-paths", "--whitespace=nowarn", "-"], input=patch, cwd=directory, check=True
        )
    assert (directory / "file").read_bytes() == new


def test_what_people_write_comes_before_what_runs_write_and_notebooks_come_last() -> None:
    paths = [
        "a.ipynb",
        "a.log",
        "events.out.tfevents.1",
        "log.py",
        "nohup.out",
        "README",
        "train.py",
        "x/sweep.log",
        ".log",
    ]
    changed = file_changes(Manifest(), Manifest(links=dict.fromkeys(paths, "x")))
    assert [change.path for change in changed] == [
        ".log", "README", "log.py", "train.py", "a.log", "events.out.tfevents.1", "nohup.out", "x/sweep.log", "a.ipynb"
    ]  # fmt: skip
