"""replicate.yaml: where it is looked for, what it may say, and errors that name file, line and nearest key."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import pytest

from replicate_core.config import DEFAULT_STORAGE, Config, SpoolConfig, find_directory, load, project_above
from replicate_core.errors import ConfigInvalid
from replicate_core.format.records import PrimaryMetric


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

    def test_the_file_of_keepsake_marks_a_project_where_no_other_does(self, tmp_path: Path) -> None:
        below = tmp_path / "outer/inner/src"
        below.mkdir(parents=True)
        (tmp_path / "outer/inner/keepsake.yaml").touch()
        assert find_directory(below) == tmp_path.resolve() / "outer/inner"
        (tmp_path / "outer/replicate.yaml").touch()
        assert find_directory(below) == tmp_path.resolve() / "outer"

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
    @pytest.mark.parametrize("kind", ["pipe", "link to a pipe", "link to a device", "broken link", "directory"])
    def test_one_that_is_no_regular_file_is_refused_and_never_passed_over(self, tmp_path: Path, kind: str) -> None:
        below = tmp_path / "project/src"
        below.mkdir(parents=True)
        file = tmp_path / "project/replicate.yaml"
        if kind == "pipe":
            os.mkfifo(file)
        elif kind == "directory":
            file.mkdir()
        else:
            os.mkfifo(tmp_path / "pipe")
            targets = {"link to a pipe": tmp_path / "pipe", "link to a device": Path(os.devnull)}
            file.symlink_to(targets.get(kind, tmp_path / "nowhere"))
        assert find_directory(below) == file.parent.resolve()
        found = "No such file" if kind == "broken link" else "it is not a regular file"
        with pytest.raises(ConfigInvalid, match=rf"replicate\.yaml can't be read: .*{found}"):
            load(file.parent)

    @pytest.mark.parametrize("text", ['"a\\0b"', '"s3x\\e[2J://b"', '"s3://b/\\x9b"', '"a\\nb"', '"a\\x7f"'])
    @pytest.mark.parametrize("place", ["storage: {}", "repository: {}", "spool: {{directory: {}}}"])
    def test_a_path_or_url_with_control_characters_is_refused(self, tmp_path: Path, place: str, text: str) -> None:
        with pytest.raises(ConfigInvalid, match=r"replicate\.yaml, line 2: .* without control characters") as error:
            loaded(tmp_path, f"quiet: true\n{place.format(text)}\n")
        assert str(error.value).isprintable()

    @pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give files away")
    def test_what_another_user_put_where_everybody_may_write_is_not_taken(self, tmp_path: Path) -> None:
        below = tmp_path / "mine/deep"
        below.mkdir(parents=True)
        planted = tmp_path / "replicate.yaml"
        planted.touch()
        os.chown(planted, 65534, 65534)
        assert find_directory(below) == tmp_path.resolve(), "a directory that is not everybody's may be shared"
        tmp_path.chmod(0o1777)
        assert find_directory(below) == below.resolve()
        os.chown(planted, os.geteuid(), os.getegid())
        assert find_directory(below) == tmp_path.resolve()
        planted.rename(below / "ours.yaml")
        planted.symlink_to(below / "ours.yaml")
        os.chown(planted, 65534, 65534, follow_symlinks=False)
        assert find_directory(below) == below.resolve(), "their link to a file of ours is not ours"

    def test_without_the_file_it_is_where_one_stands(self, tmp_path: Path) -> None:
        assert find_directory(tmp_path) == tmp_path.resolve()

    def test_links_on_the_way_are_resolved(self, tmp_path: Path) -> None:
        (tmp_path / "real").mkdir()
        (tmp_path / "link").symlink_to("real")
        assert find_directory(tmp_path / "link") == tmp_path.resolve() / "real"


class TestTheProjectAbove:
    @pytest.fixture
    def above(self, tmp_path: Path) -> Path:
        (tmp_path / "above/.replicate/storage").mkdir(parents=True)
        (tmp_path / "above/a/b").mkdir(parents=True)
        return tmp_path.resolve() / "above"

    def test_it_is_the_nearest_that_keeps_experiments(self, above: Path) -> None:
        assert project_above(above / "a") == project_above(above / "a/b") == above
        (above / "a/.replicate/storage").mkdir(parents=True)
        assert project_above(above / "a/b") == above / "a"

    @pytest.mark.parametrize("own", [".replicate", "replicate.yaml", "replicate.yml"])
    def test_there_is_none_where_the_directory_is_a_project_itself(self, above: Path, own: str) -> None:
        (above / "a" / own).touch() if own.endswith("ml") else (above / "a" / own).mkdir()
        assert project_above(above / "a") is None

    def test_a_directory_without_experiments_is_none(self, above: Path) -> None:
        (above / "a/.replicate/spool").mkdir(parents=True)
        assert project_above(above / "a/b") is None
        assert project_above(above) is None

    def test_the_search_ends_at_the_top_of_a_git_repository(self, above: Path) -> None:
        (above / "a/.git").mkdir()
        assert project_above(above / "a/b") is None
        assert project_above(above / "a") is None
        (above / ".git").write_text("gitdir: elsewhere")
        (above / "a/.git").rmdir()
        assert project_above(above / "a/b") == above

    def test_the_home_directory_is_no_project_by_accident(self, above: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(above))
        assert project_above(above / "a/b") is None

    def test_a_directory_that_everybody_may_write_to_is_none(self, above: Path) -> None:
        above.chmod(0o1777)
        assert project_above(above / "a") is None

    @pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives files away")
    def test_what_belongs_to_another_user_is_none(self, above: Path) -> None:
        os.chown(above / ".replicate", 65534, 65534)
        assert project_above(above / "a") is None


class TestOptionsThatCannotBe:
    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("storage_options: 3\n", "line 1: storage_options must hold"),
            ("storage_options:\n  since: 2026-01-01\n", "line 2: storage_options.since is a datetime.date"),
            ("storage_options: {create: maybe}\n", "line 1: 'create' of storage_options must be true or false"),
        ],
        ids=["a number", "a date", "create"],
    )
    def test_are_refused_by_their_line(self, tmp_path: Path, text: str, problem: str) -> None:
        with pytest.raises(ConfigInvalid, match=problem):
            loaded(tmp_path, text)


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

    def test_options_of_the_storage_stand_as_they_are(self, tmp_path: Path) -> None:
        text = "storage_options:\n  profile: mine\n  secret: ${S}\n  client_kwargs: {a: [1, true, null]}\n"
        found = loaded(tmp_path, text).storage_options
        assert found == {"profile": "mine", "secret": "${S}", "client_kwargs": {"a": [1, True, None]}}

    @pytest.mark.parametrize("name", ["keepsake.yaml", "keepsake.yml"])
    def test_the_file_of_keepsake_is_read_where_there_is_no_other(self, tmp_path: Path, name: str) -> None:
        assert loaded(tmp_path, "repository: s3://bucket/old\n", name=name).storage == "s3://bucket/old"
        assert loaded(tmp_path, "storage: s3://bucket/new\n").storage == "s3://bucket/new"

    def test_metrics_may_be_a_list_as_in_2020(self, tmp_path: Path) -> None:
        config = loaded(
            tmp_path,
            "metrics:\n  - name: loss\n    goal: MINIMIZE\n  - name: f1\n    goal: Maximize\n    primary: true\n",
        )
        assert config.metrics == {"loss": PrimaryMetric("loss", "minimize"), "f1": PrimaryMetric("f1", "maximize")}
        assert config.primary_metric == ("f1", "maximize")

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("metrics:\n  - goal: minimize\n", "line 2: a metric in a list needs a name"),
            ("metrics:\n  - name: 3\n    goal: minimize\n", "line 2: a metric in a list needs a name"),
            ("metrics:\n  - name: a\n", "line 2: the metric 'a' needs a goal: minimize or maximize"),
            ("metrics:\n  - loss\n", "line 2: metrics must hold `key: value` lines"),
            ("metrics:\n  - {name: a, goal: up}\n", "line 2: the goal of 'a' must be minimize or maximize, not 'up'"),
            (
                "metrics:\n  - {name: a, goal: minimize}\n  - {name: a, goal: maximize}\n",
                "line 3: 'a' occurs twice in metrics",
            ),
        ],
        ids=["no name", "a number", "no goal", "a text", "goal", "twice"],
    )
    def test_an_entry_of_such_a_list_that_is_wrong_is_named_by_its_line(
        self, tmp_path: Path, text: str, problem: str
    ) -> None:
        with pytest.raises(ConfigInvalid, match=problem):
            loaded(tmp_path, text)

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
        with pytest.warns(
            UserWarning, match=r"replicate\.yaml: python, install: these keys .* have no effect"
        ) as caught:
            config = loaded(tmp_path, "python: 3.7\ninstall: [pip install x]\nstorage: here\n")
        assert len(caught) == 1
        assert config.storage == "here"

    def test_yaml_is_loaded_safely(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigInvalid, match="line 1: this value can't be used"):
            loaded(tmp_path, f"storage: !!python/object/apply:os.mkdir ['{tmp_path}/made']\n")
        assert not (tmp_path / "made").exists()


class TestTheSpool:
    def test_is_in_the_project_and_waits_where_nothing_else_is_said(self, tmp_path: Path) -> None:
        for text in ("", "storage: a\n", "spool: {}\n"):
            assert loaded(tmp_path, text).spool == SpoolConfig()
        assert SpoolConfig().directory is None
        assert SpoolConfig().when_full == "wait"
        assert not loaded(tmp_path, "").quiet

    def test_says_how_much_may_wait_where_and_what_then(self, tmp_path: Path) -> None:
        config = loaded(tmp_path, "spool:\n  limit: 50 GB\n  keep_free: 500MB\n  when_full: replace\nquiet: true\n")
        assert config.spool == SpoolConfig(None, 50 * 10**9, 500 * 10**6, "replace")
        assert config.quiet

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("0", 0),
            ("2000000", 2_000_000),
            ("'2000000'", 2_000_000),
            ("5 kB", 5000),
            ("5kB", 5000),
            ("1.5 MB", 1_500_000),
            ("0.5 GB", 500_000_000),
            ("2 TB", 2 * 10**12),
            ("2.0", 2),
        ],
    )
    def test_takes_sizes_as_people_write_them(self, tmp_path: Path, text: str, expected: int) -> None:
        config = loaded(tmp_path, f"spool: {{limit: {text}, keep_free: {text}}}\n")
        assert (config.spool.limit_bytes, config.spool.keep_free_bytes) == (expected, expected)

    def test_in_another_directory_has_a_name_of_its_own_there(self, tmp_path: Path) -> None:
        found = set()
        for name in ("a/project", "b/project"):
            (tmp_path / name).mkdir(parents=True)
            directory = loaded(tmp_path / name, f"spool: {{directory: {tmp_path}/fast}}\n").spool.directory
            assert directory is not None
            assert directory.parent == tmp_path / "fast"
            assert directory.name.startswith("project-"), "people see whose it is"
            assert directory == loaded(tmp_path / name, f"spool: {{directory: {tmp_path}/fast}}\n").spool.directory
            found.add(directory)
        assert len(found) == 2, "two projects of one name do not mix"

    def test_may_be_relative_to_the_project_or_to_home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        project = tmp_path / "project"
        project.mkdir()
        for text, parent in (("fast", project / "fast"), ("~/fast", tmp_path / "home" / "fast")):
            directory = loaded(project, f"spool: {{directory: {text}}}\n").spool.directory
            assert directory is not None
            assert directory.parent == parent

    def test_in_the_home_of_nobody_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigInvalid, match="line 1: "):
            loaded(tmp_path, "spool: {directory: ~nobody-of-that-name/fast}\n")


WRONG = {
    "bad YAML": ("storage: here\nmetrics: [unclosed\n", "line 3: this is not valid YAML"),
    "a tab": ("metrics:\n\tloss: 1\n", "line 2: this is not valid YAML"),
    "control characters": ("storage: \0\n", "not valid YAML"),
    "two documents": ("storage: a\n---\nstorage: b\n", "line 2: this is not valid YAML"),
    "a list": ("- storage\n", "line 1: the file must hold `key: value` lines, for example `storage: s3://"),
    "a text": ("just text\n", "line 1: the file must hold"),
    "an unknown key": ("# x\nstroage: here\n", "line 2: 'stroage' is not a key of the file: did you mean 'storage'?"),
    "a strange key": (
        "storage: a\nqqq: here\n",
        "line 2: 'qqq' is not a key .*known are: storage, .*, compression, spool, quiet, redact$",
    ),
    "a key twice": ("storage: a\nstorage: b\n", "line 2: 'storage' occurs twice in the file"),
    "two storages": (
        "storage: a\nrepository: b\n",
        "line 2: 'storage' and 'repository' are two names for the same thing",
    ),
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
    "a mistyped goal": ("metrics: {loss: {gaol: minimize}}\n", "line 1: 'gaol' is not a key of .*did you mean 'goal'"),
    "primary as a word": (
        "metrics: {a: {goal: minimize, primary: maybe}}\n",
        "'primary' of .*'a' must be true or false",
    ),
    "a spool as a word": ("spool: fast\n", "line 1: spool must hold `key: value` lines, for example `limit: 50 GB`"),
    "an unknown key of the spool": (
        "storage: a\nspool:\n  limt: 1 GB\n",
        "line 3: 'limt' is not a key of spool: did you mean 'limit'",
    ),
    "a strange key of the spool": (
        "spool: {zzz: 1}\n",
        "line 1: 'zzz' is not a key .*known are: directory, limit, keep_free, when_full$",
    ),
    "a key of the spool twice": ("spool:\n  limit: 1\n  limit: 2\n", "line 3: 'limit' occurs twice in spool"),
    "a blank directory of the spool": ("spool: {directory: ' '}\n", "line 1: 'directory' must be a"),
    "a numeric directory of the spool": ("spool: {directory: 5}\n", "line 1: 'directory' must be a .* not 5"),
    "a limit with another unit": (
        "spool:\n  limit: 50 GiB\n",
        "line 2: 'limit' must be a size such as .* not '50 GiB'",
    ),
    "a limit in small letters": ("spool: {limit: 50 gb}\n", "line 1: 'limit' must be a size such as 500 MB or 50 GB"),
    "a negative limit": ("spool: {limit: -5 GB}\n", "line 1: 'limit' must be a size"),
    "a limit without a number": ("spool: {limit: GB}\n", "line 1: 'limit' must be a size"),
    "no limit": ("spool: {limit: }\n", "line 1: 'limit' must be a size .* not None"),
    "a limit of yes": ("spool: {limit: yes}\n", "line 1: 'limit' must be a size .* not True"),
    "a listed limit": ("spool: {limit: [5]}\n", "line 1: 'limit' must be a size"),
    "an endless limit": ("spool: {limit: .inf}\n", "line 1: 'limit' must be a size"),
    "a limit beyond all disks": (f"spool: {{limit: {'9' * 400} TB}}\n", "line 1: 'limit' must be a size"),
    "a margin of the wrong shape": ("spool:\n\n  keep_free: 5 %\n", "line 3: 'keep_free' must be a size .* not '5 %'"),
    "an unknown way out": (
        "spool: {when_full: stop}\n",
        "line 1: 'when_full' must be wait or replace, not 'stop'",
    ),
    "a listed way out": ("spool: {when_full: [wait]}\n", "line 1: 'when_full' must be wait or replace"),
    "quiet as a word": ("storage: a\nquiet: very\n", "line 2: 'quiet' must be true or false, not 'very'"),
    "quiet as a number": ("quiet: 1\n", "line 1: 'quiet' must be true or false, not 1"),
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
