"""Rules of `.gitignore` and `.replicateignore`: which files of a project are no code. The judge is git itself."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replicate_core.errors import ConfigInvalid
from replicate_core.machine import git
from replicate_core.machine.files import scan
from replicate_core.machine.ignoring import GIT_IGNORE_FILE, IGNORE_FILE, KEEPSAKE_IGNORE_FILE, IgnoreRules, Patterns

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


def write(root: Path, **contents: str) -> None:
    for path, text in contents.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, "utf-8")


def run_git(root: Path, *arguments: str) -> str:
    told = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "core.excludesFile=", *arguments]
    return subprocess.run(told, cwd=root, check=True, capture_output=True, text=True).stdout


def saved(root: Path, start: Path | None = None) -> set[str]:
    return set(scan(root, start or root, rules=IgnoreRules.of(root), tracked=lambda: git.tracked(root)).files)


def left_out(root: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    scan(root, root, rules=IgnoreRules.of(root), left_out=found.setdefault, tracked=lambda: git.tracked(root))
    return found


class TestGitIgnore:
    def test_what_it_ignores_is_not_saved(self, project: Path) -> None:
        write(project, **{GIT_IGNORE_FILE: "data/\n.env\n*.log\n!keep.log\n"})
        write(project, **{"train.py": "", ".env": "", "data/big.bin": "", "a.log": "", "keep.log": "", "src/b.log": ""})
        assert saved(project) == {GIT_IGNORE_FILE, "train.py", "keep.log"}
        assert left_out(project) == {
            ".env": GIT_IGNORE_FILE,
            "data": GIT_IGNORE_FILE,
            "a.log": GIT_IGNORE_FILE,
            "src/b.log": GIT_IGNORE_FILE,
        }

    def test_nested_ones_hold_below_and_count_more(self, project: Path) -> None:
        write(project, **{GIT_IGNORE_FILE: "*.csv\n", f"a/{GIT_IGNORE_FILE}": "!*.csv\n/local.txt\n"})
        write(
            project,
            **{"x.csv": "", "a/x.csv": "", "a/b/x.csv": "", "a/local.txt": "", "a/b/local.txt": "", "c/x.csv": ""},
        )
        assert saved(project) == {GIT_IGNORE_FILE, f"a/{GIT_IGNORE_FILE}", "a/x.csv", "a/b/x.csv", "a/b/local.txt"}
        assert left_out(project)["a/local.txt"] == f"a/{GIT_IGNORE_FILE}"

    def test_those_above_hold_up_to_the_top_of_the_repository(self, tmp_path: Path) -> None:
        project = tmp_path / "outside/top/middle/project"
        write(tmp_path, **{f"outside/{GIT_IGNORE_FILE}": "*.py\n", "outside/top/.git/HEAD": ""})
        write(
            tmp_path / "outside/top",
            **{GIT_IGNORE_FILE: "*.log\n/middle/project/one.txt\n", f"middle/{GIT_IGNORE_FILE}": "*.csv\n"},
        )
        write(tmp_path / "outside/top", **{".git/info/exclude": "two.txt\n"})
        write(project, **{"train.py": "", "a.log": "", "a.csv": "", "one.txt": "", "two.txt": "", "src/one.txt": ""})
        assert saved(project) == {"train.py", "src/one.txt"}
        assert left_out(project) == {
            "a.log": "../../.gitignore",
            "a.csv": "../.gitignore",
            "one.txt": "../../.gitignore",
            "two.txt": ".git/info/exclude",
        }

    @pytest.mark.parametrize("rule", ["project/", "middle", "*", "/middle/project"])
    def test_a_project_that_is_ignored_as_a_whole_has_code_all_the_same(self, tmp_path: Path, rule: str) -> None:
        write(tmp_path, **{".git/HEAD": "", GIT_IGNORE_FILE: f"{rule}\n*.log\n"})
        project = tmp_path / "middle/project"
        write(project, **{"train.py": "", "a.log": "", "b.csv": "", GIT_IGNORE_FILE: "*.csv\n"})
        assert saved(project) == {GIT_IGNORE_FILE, "train.py", "a.log"}

    def test_worktrees_share_what_their_repository_excludes(self, tmp_path: Path) -> None:
        write(tmp_path, **{"main/.git/info/exclude": "secret\n", "main/.git/worktrees/w/commondir": "../..\n"})
        write(tmp_path, **{"w/.git": f"gitdir: {tmp_path}/main/.git/worktrees/w\n", "w/secret": "", "w/train.py": ""})
        assert saved(tmp_path / "w") == {"train.py"}

    def test_what_is_no_pattern_and_no_unicode_is_passed_over_as_by_git(self, project: Path) -> None:
        (project / GIT_IGNORE_FILE).write_bytes(b"!\n*.log\ncaf\xe9\n")
        write(project, **{"a.log": "", "train.py": ""})
        assert saved(project) == {GIT_IGNORE_FILE, "train.py"}

    def test_links_and_directories_of_its_name_hold_no_rules(self, project: Path) -> None:
        write(project, rules="*.py\n", **{f"a/{GIT_IGNORE_FILE}/file": "", "a/train.py": ""})
        (project / GIT_IGNORE_FILE).symlink_to("rules")
        assert "a/train.py" in saved(project)

    def test_one_that_can_not_be_read_is_named(self, open_directory: Path, as_nobody) -> None:
        write(open_directory, **{GIT_IGNORE_FILE: ".env\n"})
        (open_directory / GIT_IGNORE_FILE).chmod(0)
        with as_nobody(), pytest.raises(ConfigInvalid, match=r"\.gitignore can't be used: .*Permission denied"):
            saved(open_directory)

    def test_a_part_of_a_project_keeps_the_rules_of_the_whole(self, project: Path) -> None:
        write(project, **{GIT_IGNORE_FILE: "*.log\n", f"src/{IGNORE_FILE}": "*.csv\n"})
        write(project, **{"src/deep/a.log": "", "src/deep/a.csv": "", "src/deep/a.py": ""})
        assert saved(project, project / "src/deep") == {"src/deep/a.py"}


class TestReplicateIgnore:
    def test_it_comes_after_all_of_gits(self, project: Path) -> None:
        write(project, **{GIT_IGNORE_FILE: "data/\n.env\n", f"src/{GIT_IGNORE_FILE}": "*.csv\n"})
        write(project, **{IGNORE_FILE: "!data/\ndata/*\n!data/labels.csv\n!src/*.csv\nnotes/\n"})
        write(project, **{".env": "", "data/big.bin": "", "data/labels.csv": "", "src/a.csv": "", "notes/x": ""})
        assert saved(project) == {
            GIT_IGNORE_FILE,
            IGNORE_FILE,
            f"src/{GIT_IGNORE_FILE}",
            "data/labels.csv",
            "src/a.csv",
        }
        assert left_out(project) == {".env": GIT_IGNORE_FILE, "data/big.bin": IGNORE_FILE, "notes": IGNORE_FILE}

    def test_nested_ones_are_read_as_those_of_git_are(self, project: Path) -> None:
        write(project, **{IGNORE_FILE: "*.csv\n", f"a/{IGNORE_FILE}": "!x.csv\n/only.txt\n"})
        write(project, **{"x.csv": "", "a/x.csv": "", "a/y.csv": "", "a/only.txt": "", "a/b/only.txt": ""})
        assert saved(project) == {IGNORE_FILE, f"a/{IGNORE_FILE}", "a/x.csv", "a/b/only.txt"}
        assert left_out(project)["a/only.txt"] == f"a/{IGNORE_FILE}"

    def test_the_one_of_keepsake_is_read_where_the_project_has_no_other(self, project: Path) -> None:
        write(
            project,
            **{KEEPSAKE_IGNORE_FILE: "*.ckpt\n", "a.ckpt": "", f"src/{KEEPSAKE_IGNORE_FILE}": "a.py", "src/a.py": ""},
        )
        assert left_out(project) == {"a.ckpt": KEEPSAKE_IGNORE_FILE}
        write(project, **{IGNORE_FILE: "*.tmp\n"})
        assert left_out(project) == {}

    def test_what_lies_in_an_ignored_directory_is_taken_back_with_the_directory_only(self, project: Path) -> None:
        write(project, **{GIT_IGNORE_FILE: "data/\n", IGNORE_FILE: "!data/labels.csv\n", "data/labels.csv": ""})
        assert saved(project) == {GIT_IGNORE_FILE, IGNORE_FILE}

    def test_names_are_unicode(self, project: Path) -> None:
        write(project, **{IGNORE_FILE: "*.ckpt\ndatä/\n", "out/a.ckpt": "", "datä/x": "", "b/datä": ""})
        assert saved(project) == {IGNORE_FILE, "b/datä"}

    @pytest.mark.parametrize("place", ["", "src/"])
    @pytest.mark.parametrize("content", [b"caf\xe9\n", b"!\n"], ids=["no UTF-8", "no pattern"])
    def test_one_that_can_not_be_used_is_named(self, project: Path, content: bytes, place: str) -> None:
        write(project, **{f"{place}{IGNORE_FILE}": ""})
        (project / place / IGNORE_FILE).write_bytes(content)
        with pytest.raises(ConfigInvalid, match=rf"project/{place}\.replicateignore can't be used: .*\.gitignore"):
            saved(project)

    @pytest.mark.parametrize("name", [IGNORE_FILE, KEEPSAKE_IGNORE_FILE])
    def test_a_pipe_in_its_place_is_named_and_not_waited_for(self, project: Path, name: str) -> None:
        os.mkfifo(project / name)
        with pytest.raises(ConfigInvalid, match=f"{name} can't be used: it is not a regular file") as caught:
            saved(project)
        assert str(caught.value).count("can't be used") == 1

    @pytest.mark.skipif(not Path("/dev/zero").exists(), reason="there is no device to link to")
    def test_nor_is_a_device_read(self, project: Path) -> None:
        (project / IGNORE_FILE).symlink_to("/dev/zero")
        with pytest.raises(ConfigInvalid, match="it is not a regular file"):
            saved(project)

    def test_one_that_is_a_directory_is_named(self, project: Path) -> None:
        (project / IGNORE_FILE).mkdir()
        with pytest.raises(ConfigInvalid, match=r"\.replicateignore can't be used"):
            saved(project)

    def test_rules_that_were_given_read_no_files(self, project: Path) -> None:
        write(project, **{GIT_IGNORE_FILE: "*.bin\n", IGNORE_FILE: "*.bin\n", "model.bin": ""})
        assert "model.bin" in scan(project, project, rules=IgnoreRules()).files


@needs_git
class TestWhatGitTracks:
    def test_it_is_code_whatever_git_ignores(self, project: Path) -> None:
        run_git(project, "init", "-q")
        write(
            project,
            **{
                GIT_IGNORE_FILE: "data/\n*.csv\n",
                "data/sub/labels.txt": "",
                "data/big.bin": "",
                "x.csv": "",
                "y.csv": "",
            },
        )
        (project / "data/link").symlink_to("big.bin")
        run_git(project, "add", "-f", GIT_IGNORE_FILE, "data/sub/labels.txt", "data/link", "x.csv")
        assert saved(project) == {GIT_IGNORE_FILE, "data/sub/labels.txt", "x.csv"}
        assert left_out(project) == {".git": "never saved", "data": GIT_IGNORE_FILE, "y.csv": GIT_IGNORE_FILE}
        write(project, **{IGNORE_FILE: "x.csv\ndata/sub/*.txt\n"})
        assert saved(project) == {GIT_IGNORE_FILE, IGNORE_FILE}, "what replicate is told to leave out is left out"

    def test_what_is_gone_and_what_is_never_saved_stays_out(self, project: Path) -> None:
        run_git(project, "init", "-q")
        write(project, **{GIT_IGNORE_FILE: "data/\n", "data/gone": "", "data/__pycache__/a.pyc": "", "train.py": ""})
        run_git(project, "add", "-f", ".")
        (project / "data/gone").unlink()
        assert saved(project) == {GIT_IGNORE_FILE, "train.py"}

    def test_outside_of_git_nothing_is_tracked(self, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert git.tracked(project) == frozenset()
        (project / ".git").mkdir()
        assert git.tracked(project) == frozenset(), "git says that this is no repository"
        monkeypatch.setenv("PATH", "")
        assert git.tracked(project) == frozenset()

    def test_a_git_that_hangs_is_given_up(self, project: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        (project / ".git").mkdir()
        (tmp_path / "git").write_text("#!/bin/sh\nexec sleep 60\n")
        (tmp_path / "git").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
        monkeypatch.setattr(git, "COMMAND_SECONDS", 0.1)
        assert git.tracked(project) == frozenset()


NAMES = st.sampled_from(["a", "b", "ab", "a.b", "a b", ".a", "b!"])
WORDS = st.sampled_from(
    [
        "a",
        "b",
        "*",
        "?",
        "**",
        "a*",
        "*b",
        "*.b",
        "[ab]",
        "a.b",
        "a b",
        "\\!",
        ".a",
        "a\\*",
        "[!a]",
        "*a*b*",
        "?*b",
        "[[:alpha:]]",
        "[\\]a]",
        "[a\\-b]",
        "[b\\]",
        "[z-a]",
    ]
)
LINES = st.tuples(
    st.sampled_from(["", "", "!"]),
    st.sampled_from(["", "", "/"]),
    st.lists(WORDS, min_size=1, max_size=3),
    st.sampled_from(["", "", "/"]),
).map(lambda parts: f"{parts[0]}{parts[1]}{'/'.join(parts[2])}{parts[3]}")
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)


@needs_git
@settings(max_examples=30)
@given(
    paths=st.sets(PATHS, min_size=1, max_size=8),
    rules=st.dictionaries(
        st.sampled_from(["", "a/", "a/b/", "b/"]), st.lists(LINES, min_size=1, max_size=4), max_size=3
    ),
)
def test_what_is_saved_is_what_git_does_not_ignore(
    tmp_path_factory, paths: set[str], rules: dict[str, list[str]]
) -> None:
    root = tmp_path_factory.mktemp("project").resolve()
    for path in sorted(paths, key=len, reverse=True):  # the longest first: what is a directory then is no file
        if not (root / path).exists() and not any(above.is_file() for above in (root / path).parents):
            write(root, **{path: ""})
    for place, lines in rules.items():
        if (root / place).is_dir():
            write(root, **{f"{place}{GIT_IGNORE_FILE}": "\n".join(lines) + "\n"})
    run_git(root, "init", "-q")
    expected = set(filter(None, run_git(root, "ls-files", "-z", "--others", "--exclude-standard").split("\0")))
    assert saved(root) == expected


def test_a_pattern_of_directories_below_does_not_match_the_directory_itself() -> None:
    assert Patterns(["a/**/"]).match("a/", "a/") is None
    assert Patterns(["a/**/"]).match("a/b/", "b/") is True
    assert Patterns(["a/**/"]).match("a/b", "b") is None
    assert Patterns(["a/**"]).match("a/", "a/") is None
    assert Patterns(["a/**"]).match("a/b", "b") is Patterns(["a/**"]).match("a/b/c", "c") is True


def test_patterns_tell_what_matches_itself_from_what_lies_in_what_matches() -> None:
    assert Patterns(["src/"]).match("src/", "src/") is True
    assert Patterns(["src/"]).match("src/a.py", "a.py") is None
    assert Patterns(["*", "!src/"]).match("src/a.py", "a.py") is True
    assert not Patterns(["", "# nothing"])


def test_a_set_that_git_can_not_read_is_passed_over_and_named_in_our_own_file(project: Path) -> None:
    write(project, **{GIT_IGNORE_FILE: "[z-a]\n*.log\n", "a.log": "", "z": "", "train.py": ""})
    assert saved(project) == {GIT_IGNORE_FILE, "z", "train.py"}
    write(project, **{IGNORE_FILE: "[z-a]\n"})
    with pytest.raises(ConfigInvalid, match=r"\.replicateignore can't be used: a pattern can't be read: bad character"):
        saved(project)


@pytest.mark.parametrize(
    ("pattern", "names", "others"),
    [
        ("*.[[:digit:]]", ["log.1"], ["log.a", "log.:"]),
        ("[[:punct:]x]", ["!", "-", "]", "\\", "x"], ["a", "1"]),
        ("[![:alpha:]]", ["1", "-"], ["a", "Z"]),
        ("[\\]]", ["]"], ["\\"]),
        ("[a\\-c]", ["a", "-", "c"], ["b", "\\"]),
        ("[+-\\]]", ["+", "A", "\\", "]"], ["^"]),
        ("[\\^]", ["^"], ["a"]),
        ("[\\!]", ["!"], ["a"]),
        ("[b\\]", [], ["b", "b]"]),
        ("[[:word:]]", [], ["a", ":"]),
        ("b", ["b"], ["b\n"]),
    ],
)
def test_sets_of_characters_are_those_of_git(pattern: str, names: list[str], others: list[str]) -> None:
    patterns = Patterns([pattern])
    assert [name for name in (*names, *others) if patterns.match(name, name)] == names


@pytest.mark.filterwarnings("error")
def test_sets_that_may_mean_something_else_some_day_warn_nobody() -> None:
    assert Patterns(["[[a]", "[a||b]"]).match("[", "[") is True


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("*a" * 10 + "b", "a" * 200),
        ("*" * 3000 + "a", "b" * 250),
        ("[ab]*" * 40 + "c", "ab" * 120),
        ("a/**/" * 20 + "b", "/".join("a" * 1500)),
        ("**/*a*" * 20 + "b/**/b", "/".join(["a" * 20] * 100)),
    ],
)
def test_hostile_patterns_take_no_longer_than_others(pattern: str, path: str) -> None:
    """Each would take longer than the universe has lasted, were every way to match it tried."""
    assert Patterns([pattern]).match(path, path[path.rfind("/") + 1 :]) is None


def test_wildcards_take_what_git_takes() -> None:
    patterns = Patterns(["a*b*c", "/x/**/y*z/w/**/c"])
    assert patterns.match("abbc", "abbc") is patterns.match("q/a-b-b-c-c", "a-b-b-c-c") is True
    assert patterns.match("acb", "acb") is None
    assert patterns.match("x/yz/w/1/yz/2/c", "c") is patterns.match("x/1/yz/w/c", "c") is True
    assert patterns.match("x/yz/2/c", "c") is None


@pytest.mark.parametrize("place", [".git", ".git/HEAD", ".git/commondir", ".git/packed-refs"])
def test_pipes_in_place_of_gits_own_files_are_not_waited_for(project: Path, place: str) -> None:
    if place != ".git":
        run_git(project, "init", "-q")
        (project / place).unlink(missing_ok=True)
    os.mkfifo(project / place)
    assert git.read(project / place) == ""
    write(project, **{"train.py": ""})
    assert "train.py" in saved(project)
