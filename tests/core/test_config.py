"""replicate.yaml: where it is looked for, what it may say, and errors that name file, line and nearest key."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from replicate_core.config import DEFAULT_STORAGE, Config, find_directory, load
from replicate_core.errors import ConfigInvalid
from replicate_core.records import PrimaryMetric


def loaded(directory: Path, text: str | bytes, *, name: str = "replicate.yaml") -> Config:
    (directory / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return load(directory)


class TestFinding:
    def test_the_project_directory_is_the_nearest_one_above_that_has_the_file(self, tmp_path: Path) -> None:
        below = tmp_path / "outer/inner/src/deep"
        below.mkdir(parents=True)
        (tmp_path / "outer/replicate.yaml").touch()
        (tmp_path / "outer/inner/replicate.yml").touch()
        assert find_directory(below) == tmp_path.resolve() / "outer/inner"
        assert find_directory(tmp_path / "outer") == tmp_path.resolve() / "outer"

    def test_without_the_file_it_is_where_one_stands(self, tmp_path: Path) -> None:
        assert find_directory(tmp_path) == tmp_path.resolve()

    def test_links_on_the_way_are_resolved(self, tmp_path: Path) -> None:
        (tmp_path / "real").mkdir()
        (tmp_path / "link").symlink_to("real")
        assert find_directory(tmp_path / "link") == tmp_path.resolve() / "real"


class TestLoading:
    def test_without_a_file_everything_is_the_default(self, tmp_path: Path) -> None:
        assert load(tmp_path) == Config(tmp_path.resolve(), DEFAULT_STORAGE, {}, None)

    @pytest.mark.parametrize("text", ["", "# nothing yet\n", "---\n"])
    def test_an_empty_file_is_the_default_too(self, tmp_path: Path, text: str) -> None:
        assert loaded(tmp_path, text).storage == DEFAULT_STORAGE

    @pytest.mark.parametrize("name", ["replicate.yaml", "replicate.yml"])
    @pytest.mark.parametrize("key", ["storage", "repository"])
    def test_the_storage_has_two_names_and_the_file_two_endings(self, tmp_path: Path, key: str, name: str) -> None:
        assert loaded(tmp_path, f'{key}: " s3://bucket/é "\n', name=name).storage == "s3://bucket/é"

    def test_both_names_may_say_the_same(self, tmp_path: Path) -> None:
        assert loaded(tmp_path, "storage: a/b\nrepository: a/b\n").storage == "a/b"

    def test_metrics_have_goals_and_one_of_them_is_primary(self, tmp_path: Path) -> None:
        config = loaded(
            tmp_path, "metrics:\n  loss: {goal: minimize}\n  accuracy:\n    goal: maximize\n    primary: true\n  f1:\n"
            "    goal: maximize\n    primary: false\n"
        )  # fmt: skip
        assert config.metrics == {
            "loss": PrimaryMetric("loss", "minimize"),
            "accuracy": PrimaryMetric("accuracy", "maximize"),
            "f1": PrimaryMetric("f1", "maximize"),
        }
        assert config.primary_metric == PrimaryMetric("accuracy", "maximize")

    def test_no_metric_needs_to_be_primary(self, tmp_path: Path) -> None:
        assert loaded(tmp_path, "metrics: {loss: {goal: minimize}}\n").primary_metric is None

    def test_old_keys_are_taken_with_one_warning(self, tmp_path: Path) -> None:
        with pytest.warns(UserWarning, match=r"replicate\.yaml: python, install: these keys .* do nothing") as caught:
            config = loaded(tmp_path, "python: 3.7\ninstall: [pip install x]\nstorage: here\n")
        assert len(caught) == 1
        assert config.storage == "here"

    def test_yaml_is_loaded_safely(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigInvalid, match="line 1: this value can't be used"):
            loaded(tmp_path, f"storage: !!python/object/apply:os.mkdir ['{tmp_path}/made']\n")
        assert not (tmp_path / "made").exists()


WRONG = {
    "bad YAML": ("storage: here\nmetrics: [unclosed\n", "line 3: this is no valid YAML"),
    "a tab": ("metrics:\n\tloss: 1\n", "line 2: this is no valid YAML"),
    "control characters": ("storage: \0\n", "no valid YAML"),
    "two documents": ("storage: a\n---\nstorage: b\n", "line 2: this is no valid YAML"),
    "a list": ("- storage\n", "line 1: the file must hold `key: value` lines, for example `storage: s3://"),
    "a text": ("just text\n", "line 1: the file must hold"),
    "an unknown key": ("# x\nstroage: here\n", "line 2: 'stroage' is no key of the file: did you mean 'storage'?"),
    "a strange key": (
        "storage: a\nqqq: here\n",
        "line 2: 'qqq' is no key .*known are: storage, .*, compression$",
    ),
    "a key twice": ("storage: a\nstorage: b\n", "line 2: 'storage' stands twice in the file"),
    "two storages": ("storage: a\nrepository: b\n", "line 2: 'storage' and 'repository' are two names for one thing"),
    "an empty storage": ("storage:\n", "line 1: 'storage' must be a URL or a path, .* not None"),
    "a blank storage": ("storage: '  '\n", "line 1: 'storage' must be a URL or a path"),
    "a numeric storage": ("\nstorage: 5\n", "line 2: 'storage' must be a URL or a path, .* not 5"),
    "a listed storage": ("storage: [a, b]\n", "line 1: 'storage' must be a URL or a path"),
    "no such date": ("storage: 2024-13-45\n", "line 1"),
    "no such number": ("storage: !!int abc\n", "line 1"),
    "metrics as a list": (
        "metrics:\n  - loss\n",
        "line 2: metrics must hold `key: value` lines, for example `val_loss",
    ),
    "a metric as a word": ("metrics:\n  loss: minimize\n", "line 2: the metric 'loss' must hold"),
    "a metric without goal": ("metrics:\n  loss: {primary: true}\n", "line 2: the metric 'loss' needs a goal"),
    "an unknown goal": (
        "metrics:\n  loss:\n    goal: smaller\n",
        "line 3: the goal of 'loss' must be .* not 'smaller'",
    ),
    "a listed goal": ("metrics:\n  loss:\n    goal: [minimize]\n", "line 3: the goal of 'loss' must be"),
    "a mistyped goal": ("metrics: {loss: {gaol: minimize}}\n", "line 1: 'gaol' is no key of .*did you mean 'goal'"),
    "primary as a word": (
        "metrics: {a: {goal: minimize, primary: maybe}}\n",
        "'primary' of .*'a' must be true or false",
    ),
    "two primaries": (
        "metrics:\n  a: {goal: minimize, primary: true}\n  b: {goal: maximize, primary: yes}\n",
        "line 3: 'b' and 'a' are both primary",
    ),
}


class TestErrors:
    @pytest.mark.parametrize(("text", "message"), WRONG.values(), ids=WRONG.keys())
    def test_name_the_file_the_line_and_what_to_do(self, tmp_path: Path, text: str, message: str) -> None:
        with warnings.catch_warnings(), pytest.raises(ConfigInvalid, match=message) as caught:
            loaded(tmp_path, text)
        assert str(caught.value).startswith(f"{tmp_path.resolve()}/replicate.yaml")

    def test_two_files_are_one_too_many(self, tmp_path: Path) -> None:
        (tmp_path / "replicate.yml").touch()
        with pytest.raises(ConfigInvalid, match=r"both replicate\.yaml and replicate\.yml: keep one"):
            loaded(tmp_path, "")

    def test_a_file_that_is_no_text_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigInvalid, match=r"replicate\.yaml can't be read: .*utf-8"):
            loaded(tmp_path, b"storage: caf\xe9\n")

    def test_a_file_that_may_not_be_read_is_named(self, open_directory: Path, as_nobody) -> None:
        (open_directory / "replicate.yaml").touch(mode=0)
        with as_nobody(), pytest.raises(ConfigInvalid, match=r"replicate\.yaml can't be read: .*Permission denied"):
            load(open_directory)
