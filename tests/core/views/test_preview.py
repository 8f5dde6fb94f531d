"""What `init()` would save, before it does: secrets and data are named, and what only sounds like them is not."""

from __future__ import annotations

import sys
import threading
import warnings
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import replicate_core as replicate
from replicate_core.errors import ConfigInvalid, InvalidInput, MissingExtra, StorageFailed
from replicate_core.machine.file_kinds import is_data, is_secret, is_source
from replicate_core.storage.local import LocalStore
from replicate_core.views.preview import OUTPUT_NAMES, Preview

LIMIT = 100 * 10**6
SECRETS = (
    ".env", ".env.production", "prod.env", "server.pem", "certs/tls.key", "id_rsa", "keys/id_ed25519", ".netrc",
    "credentials.json", "credentials", "aws/credentials", "client_secret_12.apps.json", "service-account.json",
    "kaggle.json", ".pypirc", "token", "token.json", "hf_token.txt", "api_key", "openai-api-key.txt", "OPENAI_APIKEY",
    "secrets.yaml", ".streamlit/secrets.toml", "db.password", "passwords.txt", "my secret.txt", "Private_Key.conf",
)  # fmt: skip
HARMLESS = (
    "train.py", ".env.example", ".env.sample", "id_rsa.pub", "tokenizer.json", "tokens.txt", "special_tokens_map.json",
    "token.py", "secrets.py", "password_reset.py", "tokenizer_config.json", "monkey.txt", "keyboard.json", "turkey.md",
    "environment.yml", "env/setup.sh", "public_key.txt", "credentials.md", "secretary.txt", "pem", "keys.json",
)  # fmt: skip


@pytest.mark.parametrize("path", SECRETS)
def test_files_that_hold_keys_and_passwords_are_known_by_name(path: str) -> None:
    assert is_secret(path)
    assert is_secret(f"some/where/{path}")


@pytest.mark.parametrize("path", HARMLESS)
def test_what_only_sounds_like_a_secret_is_none(path: str) -> None:
    assert not is_secret(path)


@pytest.mark.parametrize(
    ("path", "size_bytes", "expected"),
    [
        ("train.csv", 10**6, True),
        ("train.csv", 10**6 - 1, False),
        ("a/model.PT", 5 * 10**6, True),
        ("no-ending", 10**7, True),
        ("notebook.ipynb", 10**7 - 1, False),
    ],
    ids=["data", "small", "weights", "large", "notebook"],
)
def test_data_is_known_by_name_and_size(path: str, size_bytes: int, expected: bool) -> None:
    assert is_data(path, size_bytes, LIMIT) is expected


@given(st.dictionaries(st.text(min_size=1), st.integers(0, 10**12)), st.integers(1, 10**12))
def test_a_preview_has_every_file_the_largest_first(sizes: dict[str, int], limit: int) -> None:
    preview = Preview.of(sizes, {}, limit)
    assert preview.files == sizes
    assert list(preview.files.values()) == sorted(sizes.values(), reverse=True)
    assert preview.total_bytes == sum(sizes.values())
    assert any("takes" in concern for concern in preview.concerns()) is (preview.total_bytes > limit)
    assert set(preview.secrets) | set(preview.data) <= set(sizes)


def test_a_configuration_that_holds_a_secret_as_it_is_is_named() -> None:
    sizes = {"replicate.yaml": 10, "train.py": 10}
    preview = Preview.of(sizes, {}, LIMIT, {"replicate.yaml": ["storage_options.secret"], "replicate.yml": ["x"]})
    assert preview.secrets == ("replicate.yaml",)
    (concern,) = preview.concerns()
    assert concern == (
        "replicate.yaml holds storage_options.secret as it is, and anyone who can read the storage can read what is "
        "saved as code: write ${NAME} there, and export NAME"
    )
    assert Preview.of({"train.py": 10}, {}, LIMIT, {"replicate.yaml": ["storage_options.secret"]}).concerns() == []
    assert Preview.of(sizes, {}, LIMIT, {"replicate.yaml": []}).concerns() == []


def test_concerns_name_what_is_largest_and_what_is_secret() -> None:
    sizes = {"data/train.csv": 3 * 10**9, "train.py": 10, ".env": 5}
    large, secret = Preview.of(sizes, {}, LIMIT).concerns()
    assert large == (
        "the code of this project takes 3 GB, more than 100 MB; largest: data/train.csv (3 GB). "
        "Name what is not code in .replicateignore, or set code_limit in replicate.yaml"
    )
    assert secret == (
        ".env looks like a secret, and anyone who can read the storage can read what is saved as code: "
        "leave out what is secret by a line in .replicateignore"
    )
    (many,) = Preview.of({f"{index}.pem": 1 for index in range(5)}, {}, LIMIT).concerns()
    assert many.startswith("0.pem, 1.pem, 2.pem and 2 more look like secrets")
    assert Preview.of({"train.py": 10}, {}, LIMIT).concerns() == []


def test_directories_of_trainers_and_trackers_are_named_once_with_what_they_take() -> None:
    sizes = {"lightning_logs/version_0/a.ckpt": 700, "lightning_logs/b": 300, "train.py": 1, "runs/outputs/x/y": 5}
    preview = Preview.of(sizes, {}, LIMIT)
    assert preview.outputs == {"lightning_logs": 1000, "runs/outputs": 5}
    (concern,) = preview.concerns()
    assert concern == (
        "lightning_logs/ (1 kB), runs/outputs/ (5 B) hold output of runs, judging by their names, and are saved as "
        "code: leave out what is not code by a line in .gitignore or .replicateignore"
    )
    (one,) = Preview.of({".keepsake/data/x": 198 * 10**6, "a": 1}, {}, 10**9).concerns()
    assert one.startswith(".keepsake/ (198 MB) holds output of runs, judging by its name, and is saved as code")


@pytest.mark.parametrize("name", sorted(OUTPUT_NAMES))
def test_each_of_them_is_known_and_a_package_or_a_file_of_that_name_is_none(name: str) -> None:
    assert list(Preview.of({f"{name}/a/b": 1}, {}, LIMIT).outputs) == [name]
    assert Preview.of({f"{name}/__init__.py": 1, f"{name}/model.py": 1, name + ".py": 1}, {}, LIMIT).concerns() == []
    assert Preview.of({f"src/{name}": 1}, {}, LIMIT).concerns() == []


@pytest.mark.parametrize("path", ["train.py", "a/b/Config.YAML", "notebook.ipynb", "README.md"])
def test_what_people_write_is_known_by_its_name(path: str) -> None:
    assert is_source(path)


@pytest.mark.parametrize("path", ["model.txt", "weights.bin", "py", ".py", "train.py/model", "model.keras"])
def test_what_runs_may_have_written_is_no_source(path: str) -> None:
    assert not is_source(path)


def test_where_no_file_alone_is_too_large_the_largest_are_named() -> None:
    (concern,) = Preview.of({f"{index}.py": 9 + index for index in range(11)}, {}, 100 + 1).concerns()[:1]
    assert "largest: 10.py (19 B), " in concern


class TestOfAProject:
    def test_it_is_what_init_saves(self, project: Path) -> None:
        for name in ("train.py", "src/model.py", "data/big.bin", "notes.log", ".venv/pyvenv.cfg", "env/pyvenv.cfg"):
            (project / name).parent.mkdir(exist_ok=True)
            (project / name).write_text(name)
        (project / ".git").mkdir()
        (project / ".replicateignore").write_text("*.log\ndata/\n")
        preview = replicate.Project().preview()
        assert preview.left_out == {
            ".git": "never saved",
            ".venv": "never saved",
            "data": ".replicateignore",
            "env": "virtual environment",
            "notes.log": ".replicateignore",
        }
        assert not (project / ".replicate").exists(), "looking changes nothing"
        experiment = replicate.init({})
        experiment.checkout("out")
        saved = {path.relative_to("out").as_posix() for path in Path("out").rglob("*") if path.is_file()}
        assert saved == set(preview.files) == {"train.py", "src/model.py", ".replicateignore"}
        assert replicate.Project().preview("src").files == {"src/model.py": len("src/model.py")}
        left_out = replicate.Project().preview().left_out
        assert left_out[".replicate"] == "never saved"

    def test_a_storage_in_the_project_is_left_out(self, project: Path) -> None:
        (project / "replicate.yaml").write_text("storage: results\n")
        replicate.init({}, path=None)
        assert replicate.Project().preview().left_out["results"] == "what is saved is kept there"

    def test_what_init_refuses_it_refuses(self, project: Path) -> None:
        (project / "link").symlink_to("/etc/passwd")
        with pytest.raises(InvalidInput, match="outside of the project"):
            replicate.Project().preview()
        with pytest.raises(InvalidInput, match="does not exist"):
            replicate.Project().preview("missing")


class TestInit:
    def test_it_warns_once_of_all_there_is_to_know_and_saves_it_all_the_same(self, project: Path) -> None:
        (project / "replicate.yaml").write_text("code_limit: 1 kB\n")
        (project / "large.txt").write_text("x" * 2000)
        (project / ".env").write_text("KEY=1")
        with pytest.warns(UserWarning, match=r"takes .* kB, more than 1 kB") as caught:
            experiment = replicate.init({})
        (warning,) = caught
        assert ".env looks like a secret" in str(warning.message)
        assert "`replicate status` shows all of it" in str(warning.message)
        assert warning.filename == __file__
        experiment.checkout("out")
        assert Path("out/.env").read_text() == "KEY=1"

    def test_it_names_the_directories_of_trackers_in_one_warning(self, project: Path) -> None:
        for name in ("mlruns", "wandb"):
            (project / name).mkdir()
            (project / name / "file").touch()
        with pytest.warns(UserWarning, match=r"mlruns/ \(0 B\), wandb/ \(0 B\) hold output of runs") as caught:
            replicate.init({})
        assert len(caught) == 1

    def test_it_says_nothing_of_what_is_left_out(self, project: Path) -> None:
        (project / ".env").write_text("KEY=1")
        (project / ".replicateignore").write_text(".env\n")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            replicate.init({})

    def test_it_says_nothing_where_no_code_is_saved(self, project: Path) -> None:
        (project / ".env").write_text("KEY=1")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            replicate.init({}, path=None)

    def test_its_limit_is_a_size(self, project: Path) -> None:
        (project / "replicate.yaml").write_text("code_limit: lots\n")
        with pytest.raises(ConfigInvalid, match=r"line 1: 'code_limit' must be a size such as 500 MB"):
            replicate.init({})
        (project / "replicate.yaml").write_text("code_limit: 2.5 GB\n")
        assert replicate.Project().preview().limit_bytes == 2_500_000_000


class TestReachingTheStorage:
    def test_it_is_there_and_used_or_not(self, project: Path) -> None:
        assert not replicate.Project().reach()
        replicate.init({}, path=None)
        assert replicate.Project().reach()

    def test_what_is_in_the_way_is_said(self, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (project / "file").touch()
        with pytest.raises(StorageFailed, match="There is a file where a directory is needed"):
            replicate.Project(storage="file/below").reach()
        with pytest.raises(InvalidInput, match="has the scheme"):
            replicate.Project(storage="foo://bar").reach()
        monkeypatch.setitem(sys.modules, "s3fs", None)
        with pytest.raises(MissingExtra, match="pip install s3fs"):
            replicate.Project(storage="s3://bucket").reach()

    def test_one_that_hangs_is_given_up(self, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        over = threading.Event()
        monkeypatch.setattr(LocalStore, "get", lambda *_: over.wait(60))
        with pytest.raises(StorageFailed, match=r"project/slow did not answer within 0.2 seconds"):
            replicate.Project(storage="slow").reach(seconds=0.2)
        over.set()
