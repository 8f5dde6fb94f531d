"""What is known of machine, packages, git and command."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from replicate_core.format.records import GitState
from replicate_core.machine import environment
from replicate_core.machine.environment import accelerators, command_line, git_state, packages, system, user


class TestCommandLine:
    def test_is_that_of_this_process(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "orig_argv", ["python", "train.py", "--lr", "0.1", "a file"])
        assert command_line() == "python train.py --lr 0.1 'a file'"

    @pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
    def test_in_a_worker_of_multiprocessing_is_that_of_its_parent(self, tmp_path: Path, method: str) -> None:
        (tmp_path / "train.py").write_text(
            "import multiprocessing, sys\nfrom replicate_core.machine.environment import command_line\n"
            "def tell(deeper):\n    print(command_line(), flush=True)\n"
            "    if deeper:\n        start(False)\n"
            "def start(deeper):\n    child = context.Process(target=tell, args=(deeper,))\n"
            "    child.start()\n    child.join()\n"
            f"context = multiprocessing.get_context({method!r})\n"
            "if __name__ == '__main__':\n    start(True)\n"
        )
        done = subprocess.run(
            [sys.executable, "-u", "train.py", "--lr", "a b"],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
            capture_output=True,
            text=True,
            check=True,
        )
        of_child, of_grandchild = done.stdout.splitlines()
        if Path("/proc/self/cmdline").exists():
            assert of_child == f"{sys.executable} -u train.py --lr 'a b'"
        assert of_grandchild.endswith(" train.py --lr 'a b'")


class TestCommandLineOfANotebook:
    """Each kernel gets a file of its own, which would make each start another command."""

    @pytest.fixture(autouse=True)
    def shell(self, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
        shell = SimpleNamespace(kernel=object(), user_ns={})
        monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
        monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "ipykernel_launcher", "-f", "/run/kernel-1f2e.json"])
        monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
        return shell

    def test_is_the_same_in_each_kernel(self) -> None:
        assert command_line() == "python -m ipykernel_launcher"

    def test_is_the_notebook_where_jupyter_names_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("JPY_SESSION_NAME", str(Path.cwd() / "my train.ipynb"))
        assert command_line() == "'my train.ipynb'"

    @pytest.mark.parametrize("name", ["__vsc_ipynb_file__", "PAPERMILL_INPUT_PATH"])
    def test_is_the_notebook_where_a_cell_can_see_its_name(self, shell: SimpleNamespace, name: str) -> None:
        shell.user_ns[name] = "/elsewhere/train.ipynb"
        assert command_line() == "/elsewhere/train.ipynb"

    def test_what_names_no_notebook_is_not_believed(
        self, shell: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shell.user_ns["PAPERMILL_INPUT_PATH"] = 3
        monkeypatch.setenv("JPY_SESSION_NAME", "a console")
        assert command_line() == "python -m ipykernel_launcher"

    def test_is_that_of_the_process_in_ipython_without_a_kernel(
        self, shell: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        del shell.kernel
        monkeypatch.setattr(sys, "orig_argv", ["ipython", "train.py"])
        assert command_line() == "ipython train.py"


class TestUser:
    def test_is_the_name_of_who_runs_this(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LOGNAME", "ada")
        assert user() == "ada"

    def test_is_none_in_a_container_that_knows_no_users(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(os, "getuid", lambda: 3_999_999_999)
        assert user() is None

    def test_host_has_a_name(self) -> None:
        assert environment.host()


class TestPackages:
    def test_are_all_that_are_installed_sorted_by_name(self) -> None:
        found = packages()
        assert found["fsspec"] == importlib.metadata.version("fsspec")
        assert list(found) == sorted(found, key=str.lower)

    def test_the_one_that_is_imported_wins_and_broken_ones_are_left_out(self, tmp_path: Path, monkeypatch) -> None:
        for place, version in (("first", "1.0"), ("second", "2.0")):
            info = tmp_path / place / "twice-0.dist-info"
            info.mkdir(parents=True)
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: twice\nVersion: {version}\n")
            monkeypatch.syspath_prepend(tmp_path / place)
        broken = tmp_path / "first/broken-0.dist-info"
        broken.mkdir()
        (broken / "METADATA").write_text("")
        found = packages()
        assert found["twice"] == "2.0"
        assert not any("broken" in str(name) for name in found)


class TestSystem:
    def test_says_what_machine_this_is(self) -> None:
        found = system()
        assert found["processors"] == os.cpu_count()
        assert isinstance(found["memory_bytes"], int)
        assert found["memory_bytes"] > 1 << 20
        assert found["platform"]
        assert found["machine"]
        assert isinstance(found["accelerators"], list)

    def test_memory_that_the_system_does_not_tell_is_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delattr(os, "sysconf")
        assert system()["memory_bytes"] is None

    def test_accelerators_are_read_from_the_driver(self, tmp_path: Path) -> None:
        for bus, text in {"0": "Model: \t\t NVIDIA H200\nIRQ: 1\n", "1": "Model: NVIDIA T4\n", "2": "IRQ: 1\n"}.items():
            information = tmp_path / "driver/nvidia/gpus" / bus / "information"
            information.parent.mkdir(parents=True)
            information.write_text(text)
        assert accelerators(tmp_path) == ["NVIDIA H200", "NVIDIA T4"]

    def test_else_nvidia_smi_is_asked(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        install(tmp_path, "nvidia-smi", "printf ' NVIDIA A100 \\n\\nNVIDIA A100\\n'")
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
        assert accelerators(tmp_path) == ["NVIDIA A100", "NVIDIA A100"]

    @pytest.mark.parametrize("script", ["exit 9", "exec sleep 60"], ids=["fails", "hangs"])
    def test_a_tool_that_fails_or_hangs_is_left_out(self, tmp_path: Path, monkeypatch, script: str) -> None:
        monkeypatch.setattr(environment, "COMMAND_SECONDS", 0.2)
        install(tmp_path, "nvidia-smi", script)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
        assert accelerators(tmp_path) == []

    def test_no_tool_no_accelerators(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        assert accelerators(tmp_path) == []


def install(directory: Path, name: str, script: str) -> None:
    (directory / name).write_text(f"#!/bin/sh\n{script}\n")
    (directory / name).chmod(0o755)


def git(directory: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org", "-c", "protocol.file.allow=always"]
    done = subprocess.run(["git", *identity, *arguments], cwd=directory, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A git checkout with one commit on the branch `main`."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    directory = tmp_path / "checkout"
    (directory / "src").mkdir(parents=True)
    (directory / "src/train.py").write_text("print()\n")
    git(directory, "init", "--quiet", "--initial-branch=main")
    git(directory, "add", ".")
    git(directory, "commit", "--quiet", "--message=first")
    return directory


class TestGit:
    def test_commit_branch_and_clean(self, checkout: Path) -> None:
        assert git_state(checkout) == GitState(git(checkout, "rev-parse", "HEAD"), "main", False)

    def test_is_found_above_the_project(self, checkout: Path) -> None:
        assert git_state(checkout / "src") == git_state(checkout)

    def test_a_changed_file_makes_it_dirty_an_untracked_one_does_not(self, checkout: Path) -> None:
        (checkout / "notes.txt").write_text("new")
        clean = git_state(checkout)
        assert clean is not None
        assert clean.dirty is False
        (checkout / "src/train.py").write_text("changed")
        dirty = git_state(checkout)
        assert dirty is not None
        assert dirty.dirty is True

    def test_a_branch_with_slashes_keeps_its_name(self, checkout: Path) -> None:
        git(checkout, "switch", "--quiet", "--create", "feature/new/one")
        state = git_state(checkout)
        assert state is not None
        assert state.branch == "feature/new/one"

    def test_packed_references_are_read(self, checkout: Path) -> None:
        commit = git(checkout, "rev-parse", "HEAD")
        git(checkout, "pack-refs", "--all")
        assert not (checkout / ".git/refs/heads/main").exists()
        assert git_state(checkout) == GitState(commit, "main", False)

    def test_without_a_branch_checked_out_there_is_only_the_commit(self, checkout: Path) -> None:
        commit = git(checkout, "rev-parse", "HEAD")
        git(checkout, "checkout", "--quiet", "--detach")
        assert git_state(checkout) == GitState(commit, None, False)

    @pytest.mark.parametrize("packed", [False, True])
    def test_worktrees_are_followed(self, checkout: Path, tmp_path: Path, packed: bool) -> None:
        git(checkout, "worktree", "add", "--quiet", "-b", "side", str(tmp_path / "side"))
        if packed:
            git(checkout, "pack-refs", "--all")
        assert git_state(tmp_path / "side") == GitState(git(checkout, "rev-parse", "HEAD"), "side", False)

    def test_submodules_are_followed(self, checkout: Path, tmp_path: Path) -> None:
        git(tmp_path, "init", "--quiet", "outer")
        git(tmp_path / "outer", "submodule", "--quiet", "add", str(checkout), "inner")
        state = git_state(tmp_path / "outer/inner")
        assert state is not None
        assert state.commit == git(checkout, "rev-parse", "HEAD")

    def test_without_git_installed_only_dirty_is_unknown(self, checkout: Path, monkeypatch) -> None:
        commit = git(checkout, "rev-parse", "HEAD")
        monkeypatch.setenv("PATH", "/nowhere")
        assert git_state(checkout) == GitState(commit, "main", None)

    def test_before_the_first_commit_there_is_nothing_to_say(self, tmp_path: Path) -> None:
        (tmp_path / ".git").mkdir()
        (tmp_path / ".git/HEAD").write_text("ref: refs/heads/main\n")
        assert git_state(tmp_path) is None

    def test_outside_of_git_there_is_nothing_to_say(self, tmp_path: Path) -> None:
        assert git_state(tmp_path) is None

    def test_git_files_that_make_no_sense_are_no_error(self, tmp_path: Path) -> None:
        (tmp_path / ".git").write_text("gitdir: nowhere\n")
        assert git_state(tmp_path) is None
