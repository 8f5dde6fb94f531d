"""A command in a project's file is run by the driver of SFTP, and only where the user trusts the file."""

from __future__ import annotations

from pathlib import Path

import pytest

import replicate
from replicate.cli import run

pytest.importorskip("sshfs")


def test_a_command_of_a_fresh_clone_is_run_only_once_it_is_trusted(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPLICATE_STATE", str(tmp_path / "state"))
    monkeypatch.delenv("REPLICATE_TRUST", raising=False)
    ran = tmp_path / "ran"
    (project / "replicate.yaml").write_text(
        f'storage: sftp://host.invalid/x\nstorage_options: {{proxy_command: "touch {ran}"}}\n'
    )
    assert run(["ls"]) == 2
    assert not ran.exists()
    assert run(["trust"]) == 0
    with pytest.raises(replicate.StorageFailed):
        replicate.experiments.list()
    assert ran.exists(), "the option is one that runs commands, or this test shows nothing"
