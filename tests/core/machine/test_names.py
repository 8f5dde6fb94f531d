"""Names of files mean the same bytes in every locale: tested in processes that a locale is forced on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from replicate_core.machine.names import given_name, local_name, portable

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere names are always Unicode")

SCRIPT = """
import os, sys, replicate
assert sys.getfilesystemencoding() == "ascii", sys.getfilesystemencoding()
experiment = replicate.init(params={})
experiment.checkpoint(path=os.fsdecode("ü/é.txt".encode()), metrics={}, step=1)
experiment.checkpoint(path=os.path.abspath(os.fsdecode("ü".encode())), metrics={}, step=2)
made = experiment.checkpoint(path="ü", metrics={}, step=3)
print(made.id)
"""

READING = """
import replicate, sys
made = replicate.experiments.list()[0].latest()
print(ascii([made.path, sorted(made.files), sorted(made.project_files), dict(made.project_links)]))
assert made.open("ü/é.txt").read() == b"x"
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project whose own name, files, link, rules and files that git tracks are beyond ASCII."""
    project = tmp_path / "pü"
    (project / "ü").mkdir(parents=True)
    (project / "ü/é.txt").write_text("x")
    (project / "ü/sö.txt").write_text("left out")
    (project / "ü/.gitignore").write_text("sö.txt\n", "utf-8")
    (project / "ignü").mkdir()
    (project / "ignü/ké.txt").write_text("tracked")
    (project / "ignü/no").write_text("left out")
    (project / ".gitignore").write_text("ignü\n", "utf-8")
    (project / "mö.py").write_text(SCRIPT, "utf-8")
    (project / "read.py").write_text(READING, "utf-8")
    (project / "ö").symlink_to("ü/é.txt")
    (project / "replicate.yaml").write_text("repository: .replicate/storage\n")
    git = ["git", "-C", str(project)]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "-f", "ignü/ké.txt"], check=True)
    return project


def _run(project: Path, *words: str, is_ascii: bool = True) -> str:
    """What a process prints that a locale is forced on, which must print nothing else and succeed."""
    forced = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"} if is_ascii else {"PYTHONUTF8": "1"}
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONIOENCODING"} | forced
    done = subprocess.run([sys.executable, *words], cwd=project, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode("utf-8", "replace")
    return done.stdout.decode("utf-8", "surrogateescape")


def _names(directory: Path) -> set[bytes]:
    """The paths of all files and links below a directory, as the bytes that the system has."""
    root = os.fsencode(directory)
    return {os.path.relpath(os.path.join(above, name), root) for above, _, names in os.walk(root) for name in names}


def test_names_that_are_utf_8_are_saved_listed_and_checked_out_byte_for_byte_in_a_locale_that_is_not(
    project: Path,
) -> None:
    made = _run(project, "mö.py").strip()
    _run(project, "-m", "replicate", "checkout", made, "-o", "out")
    names = [".gitignore", "ignü/ké.txt", "mö.py", "read.py", "replicate.yaml", "ö", "ü/.gitignore"]
    assert _names(project / "out") == {name.encode() for name in [*names, "ü/é.txt", "ü/sö.txt"]}
    assert os.readlink(os.fsencode(project / "out/ö")) == "ü/é.txt".encode()
    assert os.listdir(os.fsencode(project / "out/ignü")) == ["ké.txt".encode()]
    _run(project, "-m", "replicate", "checkout", made, "-o", "part", "--path", "ü/é.txt")
    assert _names(project / "part") == {"ü/é.txt".encode()}
    _run(project, "-m", "replicate", "checkout", made, "-o", "out")  # asks nothing: all of it is there already
    assert _run(project, "read.py") == _run(project, "read.py", is_ascii=False)


def test_names_are_shown_escaped_where_the_output_takes_ascii_alone(project: Path) -> None:
    made = _run(project, "mö.py").strip()
    assert made[:7] in _run(project, "-m", "replicate", "ls")
    assert made in _run(project, "-m", "replicate", "show", made)
    assert r"\xfc/\xe9.txt" in _run(project, "-m", "replicate", "whence", "ü/é.txt")
    assert r"m\xf6.py" in _run(project, "-m", "replicate", "status")
    assert "The same in both" in _run(project, "-m", "replicate", "diff", made, made)
    shown = json.loads(_run(project, "-m", "replicate", "show", made, "--json"))
    assert shown == json.loads(_run(project, "-m", "replicate", "show", made, "--json", is_ascii=False))


def test_where_the_system_takes_utf_8_names_are_what_they_are() -> None:
    if sys.getfilesystemencoding() != "utf-8":
        pytest.skip("this process has another locale forced on it")
    assert [make("ü/\udcff") for make in (portable, local_name, given_name)] == ["ü/\udcff"] * 3
