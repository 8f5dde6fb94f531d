"""The command line, through its real entry point, on experiments that were really recorded."""

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import replicate

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def experiments(project: Path) -> list[replicate.Experiment]:
    """Two experiments of three checkpoints each; the second one reaches the lower loss."""
    made = []
    for learning_rate, losses in ((0.1, [3.0, 1.0, 2.0]), (0.01, [0.9, 0.5, math.nan])):
        (project / "train.py").write_text(f"learning_rate = {learning_rate}\n")
        experiment = replicate.init(
            {"learning_rate": learning_rate, "layers": 3, "model": {"kind": "mlp"}}, name=f"rate {learning_rate}"
        )
        for loss in losses:
            (project / "model.txt").write_text(f"loss {loss}")
            experiment.checkpoint("model.txt", {"loss": loss, "note": "[red]text"}, ("loss", "minimize"), device="cpu")
        experiment.stop()
        made.append(experiment)
    return made


def test_ls_shows_what_tells_experiments_apart_and_how_well_they_did(cli: Cli, experiments) -> None:
    code, out, err = cli("ls")

    assert (code, err) == (0, "")
    assert out.splitlines()[0].split("  ")[0] == "EXPERIMENT"
    assert "learning_rate=0.1" in out
    assert "learning_rate=0.01" in out
    assert "layers" not in out, "the same in both"
    assert "HOST" not in out, "the same in both"
    assert f"{experiments[0].best().short_id} (step 1)" in out
    assert "loss=0.5" in out
    assert "note" not in out, "not the primary metric"
    assert not any(line.endswith(" ") for line in out.splitlines())


def test_ls_all_shows_every_param_and_metric(cli: Cli, experiments) -> None:
    _, out, _ = cli("ls", "--all")

    assert "layers=3" in out
    assert "model.kind=mlp" in out, "named as in a filter"
    assert "note=[red]text" in out


def test_ls_quiet_prints_whole_ids(cli: Cli, experiments) -> None:
    assert cli("ls", "-q") == (0, "".join(f"{experiment.id}\n" for experiment in experiments), "")


def test_ls_json_is_valid_json_also_with_nan(cli: Cli, experiments) -> None:
    code, out, _ = cli("ls", "--json")

    listed = json.loads(out, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert code == 0
    assert [item["id"] for item in listed] == [experiment.id for experiment in experiments]
    assert listed[1]["best_checkpoint"]["metrics"]["loss"] == 0.5
    assert listed[1]["latest_checkpoint"]["metrics"]["loss"] is None
    assert listed[1]["num_checkpoints"] == 3


def test_ls_of_an_empty_project_says_what_to_do(cli: Cli, project: Path) -> None:
    code, out, _ = cli("ls")

    assert code == 0
    assert "replicate.init()" in out
    assert not (project / ".replicate").exists(), "looking changes nothing"


def test_show_tells_all_of_an_experiment(cli: Cli, experiments) -> None:
    code, out, _ = cli("show", experiments[0].short_id)

    assert code == 0
    for expected in (
        f"Experiment: {experiments[0].id}",
        "rate 0.1",
        "finished",
        "learning_rate:  0.1",
        f"{experiments[0].best().short_id} (best)",
        "[red]text",
        "numpy:",
    ):
        assert expected in out


def test_show_tells_all_of_a_checkpoint(cli: Cli, experiments) -> None:
    code, out, _ = cli("show", experiments[1].best().short_id)

    assert code == 0
    experiment = experiments[1]
    for expected in ("loss:  0.5 (primary, minimize)", "model.txt:  8 B", "device:  cpu", experiment.id):
        assert expected in out
    known = {"Status": "finished", "Host": experiment.host, "User": experiment.user, "Command": experiment.command}
    for name, value in {**known, "Python": experiment.python_version}.items():
        assert re.search(rf"{name}: +{re.escape(str(value)[:30])}", out)
    assert re.search(r"numpy: +\d", out)


def test_show_json_has_the_packages_and_the_files(cli: Cli, experiments) -> None:
    _, shown, _ = cli("show", experiments[0].id, "--json")
    assert json.loads(shown)["packages"]["numpy"]

    _, shown, _ = cli("show", experiments[0].best().id, "--json")
    fields = json.loads(shown)
    assert fields["files"] == {"model.txt": 8}
    assert fields["packages"]["numpy"]
    assert (fields["status"], fields["host"]) == ("finished", experiments[0].host)
    assert (fields["user"], fields["command"]) == (experiments[0].user, experiments[0].command)
    assert fields["python_version"] == experiments[0].python_version


def test_checkout_of_an_experiment_gives_its_code_and_its_best_files(cli: Cli, experiments, project: Path) -> None:
    code, out, _ = cli("checkout", experiments[0].short_id, "-o", "back")

    assert code == 0
    assert "2 files" in out
    assert (project / "back" / "model.txt").read_text() == "loss 1.0"
    assert (project / "back" / "train.py").read_text() == "learning_rate = 0.1\n"


def test_checkout_without_a_directory_goes_to_the_project(cli: Cli, experiments, project: Path, monkeypatch) -> None:
    (project / "deep").mkdir()
    monkeypatch.chdir(project / "deep")
    (project / "replicate.yaml").touch()
    (project / "model.txt").unlink()

    code, out, _ = cli("checkout", experiments[0].latest().short_id, "--path", "model.txt")

    assert code == 0
    assert str(project) in out
    assert (project / "model.txt").read_text() == "loss 2.0"
    assert list((project / "deep").iterdir()) == []


@pytest.fixture
def resumed(project: Path) -> replicate.Experiment:
    """A run that ended, was gone on with from its second checkpoint, with other code, and ended again."""
    code = project / "train.py"
    made: list[replicate.Checkpoint] = []
    for text, begin, end in (("old\n", 0, 3), ("new\n", 2, 4)):
        code.write_text(text)
        with replicate.init({"lr": 0.1}, name="digits", resume=made[1].id if made else None) as experiment:
            for step in range(begin, end):
                (project / "model.txt").write_text(f"step {step}")
                metrics = {"loss": 1 / (step + 1)}
                made.append(experiment.checkpoint("model.txt", metrics, ("loss", "minimize"), step))
    return replicate.experiments.get(experiment.id)


def test_a_resumed_experiment_is_listed_once_with_one_history(cli: Cli, resumed) -> None:
    code, out, _ = cli("ls", "--json")

    (listed,) = json.loads(out)
    assert code == 0
    assert (listed["id"], listed["status"], listed["num_checkpoints"]) == (resumed.id, "finished", 4)
    assert listed["best_checkpoint"]["step"] == listed["latest_checkpoint"]["step"] == 3
    assert cli("ls", "-q")[1].split() == [resumed.id]
    assert "digits" in cli("ls")[1]


def test_show_of_a_resumed_experiment_has_every_step_once(cli: Cli, resumed) -> None:
    code, out, _ = cli("show", resumed.short_id)

    assert code == 0
    assert [checkpoint.step for checkpoint in resumed.checkpoints] == [0, 1, 2, 3]
    assert all(out.count(checkpoint.short_id) == 1 for checkpoint in resumed.checkpoints)
    shown = json.loads(cli("show", resumed.id, "--json")[1])
    assert shown["status"] == "finished"


def test_checkout_of_a_resumed_experiment_gives_the_code_that_made_each_checkpoint(
    cli: Cli, resumed, project: Path
) -> None:
    for checkpoint, wanted in zip(resumed.checkpoints, ["old", "old", "new", "new"], strict=True):
        assert cli("checkout", checkpoint.short_id, "-o", checkpoint.id)[0] == 0
        assert (project / checkpoint.id / "train.py").read_text() == wanted + "\n"
        assert (project / checkpoint.id / "model.txt").read_text() == f"step {checkpoint.step}"
    assert cli("checkout", resumed.short_id, "-o", "best")[0] == 0
    assert (project / "best/train.py").read_text() == "new\n"


def test_checkout_asks_before_it_replaces_files(cli: Cli, experiments, project: Path, monkeypatch) -> None:
    (project / "model.txt").write_text("mine")
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda _: "n")

    code, _, err = cli("checkout", experiments[0].short_id, "-o", ".")

    assert code == 1
    assert "model.txt" in err
    assert (project / "model.txt").read_text() == "mine"

    code, _, _ = cli("checkout", experiments[0].short_id, "-o", ".", "--force")

    assert code == 0
    assert (project / "model.txt").read_text() == "loss 1.0"


def test_an_unknown_id_exits_with_1(cli: Cli, experiments) -> None:
    code, _, err = cli("show", "zzzz")

    assert code == 1
    assert "'zzzz'" in err
    assert "replicate ls" in err


def test_a_prefix_of_several_ids_names_them(cli: Cli, experiments, monkeypatch) -> None:
    monkeypatch.setattr(replicate.Experiment, "__eq__", object.__eq__)
    ids = [experiment.id for experiment in experiments] + [c.id for e in experiments for c in e.checkpoints]
    prefix = next(prefix for prefix in "0123456789abcdef" if sum(i.startswith(prefix) for i in ids) != 1)
    wanted = sorted(identifier for identifier in ids if identifier.startswith(prefix))

    code, _, err = cli("show", prefix)

    assert code == 1
    assert all(identifier in err for identifier in wanted)


def test_wrong_usage_exits_with_2(cli: Cli, project: Path) -> None:
    assert cli("ls", "--unknown")[0] == 2
    assert cli("show")[0] == 2


def test_a_wrong_replicate_yaml_exits_with_2(cli: Cli, project: Path) -> None:
    (project / "replicate.yaml").write_text("storrage: x\n")

    code, _, err = cli("ls")

    assert code == 2
    assert "replicate.yaml, line 1" in err
    assert "'storage'" in err


def test_a_storage_that_fails_exits_with_3(cli: Cli, project: Path) -> None:
    code, _, err = cli("-S", "ftp://127.0.0.1:1/path", "ls")

    assert code == 3
    assert "can't open the storage in ftp://127.0.0.1:1/path" in err


def test_a_driver_that_is_not_installed_exits_with_3(cli: Cli, project: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "libarchive", None)

    code, _, err = cli("-S", "libarchive://x", "ls")

    assert code == 3
    assert "install its driver" in err


def test_a_corrupted_checkpoint_exits_with_4(cli: Cli, experiments, project: Path) -> None:
    for manifest in (project / ".replicate/storage/manifests").iterdir():
        manifest.write_bytes(manifest.read_bytes().replace(b'"size"', b'"sizf"'))

    code, _, err = cli("checkout", experiments[0].short_id, "-o", "back")

    assert code == 4
    assert "manifests/" in err
    assert not (project / "back").exists()


def test_a_damaged_record_is_left_out_with_a_warning(cli: Cli, experiments, project: Path) -> None:
    (record,) = (project / ".replicate/storage/records").rglob(f"*{experiments[0].id}-created.json")
    record.write_bytes(record.read_bytes().replace(b"0.1", b"0.2"))

    code, out, err = cli("ls", "-q")

    assert (code, out) == (0, f"{experiments[1].id}\n")
    assert record.name in err


def test_the_project_directory_and_the_storage_can_be_given(cli: Cli, experiments, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)

    assert len(cli("-D", "project", "ls", "-q")[1].split()) == 2
    assert len(cli("-S", "project/.replicate/storage", "ls", "-q")[1].split()) == 2


def test_every_command_has_help_with_an_example(cli: Cli) -> None:
    _, out, _ = cli("--help")
    assert "Exit codes: 0 done" in out
    for command in ("ls", "show", "checkout"):
        assert "Example: replicate" in cli(command, "--help")[1]


def test_the_installed_console_script_and_the_module_are_the_same_command(experiments, project: Path) -> None:
    script = Path(sys.executable).parent / "replicate"
    for command in ([str(script)], [sys.executable, "-m", "replicate"]):
        done = subprocess.run([*command, "ls", "-q"], capture_output=True, text=True, check=True)
        assert len(done.stdout.split()) == 2


@pytest.mark.parametrize(("unbuffered", "code"), [("", 0), ("1", 141)])
def test_a_reader_that_leaves_early_is_told_nothing(experiments, project: Path, unbuffered: str, code: int) -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "replicate", "ls"],
            check=False,
            stdout=write,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        )
    finally:
        os.close(write)

    assert (done.returncode, done.stderr) == (code, b""), "all that was asked was done, or not"


@pytest.mark.parametrize("command", ["ls", "ps", "status", "show {}", "whence model.txt", "ls --json", "export"])
def test_a_closed_standard_output_is_no_error(experiments, project: Path, command: str) -> None:
    words = command.format(experiments[0].short_id)
    done = subprocess.run(
        ["sh", "-c", f'"$0" -m replicate {words} >&-', sys.executable], check=False, stderr=subprocess.PIPE
    )

    assert (done.returncode, done.stderr) == (0, b"")


def test_all_closed_descriptors_are_no_error(experiments, project: Path) -> None:
    done = subprocess.run(["sh", "-c", '"$0" -m replicate ls <&- >&- 2>&-', sys.executable], check=False)

    assert done.returncode == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_standard_output_that_takes_no_more_is_an_error_in_words(experiments, project: Path) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "replicate", "ls"],
            check=False,
            stdout=full,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONUNBUFFERED": ""},
        )

    assert done.returncode == 3
    assert done.stderr == b"replicate: can't write to standard output: No space left on device\n"


def test_help_needs_no_project(cli: Cli, project: Path) -> None:
    (project / "replicate.yaml").write_text("storrage: [\n")

    for command in ("ls", "show", "checkout", "rm", "verify", "prune"):
        code, out, err = cli(command, "--help")
        assert (code, err) == (0, "")
        assert "Usage: replicate" in out


CONTROLS = "\x1b[31m\x1b]0;title\x07\x9b2J\r\x08\x7f"


@pytest.fixture
def hostile(project: Path) -> replicate.Experiment:
    """An experiment that speaks to the terminal wherever it can."""
    (project / "model.txt").write_text("model")
    experiment = replicate.init(
        {f"param{CONTROLS}": f"value{CONTROLS}", "nested": {f"deep{CONTROLS}": [f"item{CONTROLS}"]}},
        name=f"name{CONTROLS}",
        tags=[f"tag{CONTROLS}"],
        notes=f"notes{CONTROLS}",
    )
    name = f"metric{CONTROLS}[/red]"
    extra = {f"extra{CONTROLS}": f"text{CONTROLS}"}
    experiment.checkpoint("model.txt", {name: 0.5, "text": f"text{CONTROLS}"}, (name, "minimize"), **extra)
    replicate.init({f"param{CONTROLS}": "other"}, name="other").stop()
    return experiment


@pytest.mark.parametrize("command", ["ls", "ls --all", "show", "show --all", "show checkpoint", "checkout"])
def test_control_characters_in_names_do_not_reach_the_terminal(cli: Cli, hostile, command: str) -> None:
    arguments = command.replace(" checkpoint", "").split()
    shown = hostile.checkpoints[0].id if "checkpoint" in command else hostile.id
    code, out, err = cli(*arguments, *([] if command.startswith("ls") else [shown]))

    assert code == 0, err
    assert [char for char in out + err if not char.isprintable() and char != "\n"] == []
    if command.startswith("show"):
        assert "metric" in out.lower()


@pytest.mark.parametrize("command", ["ls", "show"])
def test_control_characters_are_escaped_in_json(cli: Cli, hostile, command: str) -> None:
    code, out, _ = cli(command, "--json", *([hostile.id] if command == "show" else []))

    assert code == 0
    found = json.loads(out)
    assert (found if command == "show" else found[0])["name"] == f"name{CONTROLS}"
    assert [char for char in out if not char.isprintable() and char != "\n"] == []


@pytest.mark.parametrize("command", ["ls", "ls --all", "ls --json", "show", "show --json", "checkout"])
def test_a_name_that_the_terminal_can_not_show_is_no_crash(project: Path, command: str) -> None:
    (project / "model.txt").write_text("model")
    experiment = replicate.init({"größe": "模型"}, name="模型 🙂", notes="é")
    experiment.checkpoint("model.txt", {"läuft": 1.0}, ("läuft", "minimize"))
    arguments = [*command.split(), *([] if "ls" in command else [experiment.id])]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-m", "replicate", *arguments], check=False, capture_output=True, env=environment
    )

    assert (done.returncode, done.stderr) == (0, b"")
    if "--json" in command:
        assert "模型 🙂" in done.stdout.decode("utf-8"), "JSON is for programs, and is UTF-8"
    else:
        assert done.stdout.decode("ascii")


def test_show_tells_how_much_dedup_saved_and_interesting_packages_first(cli: Cli, project: Path, monkeypatch) -> None:
    packages = {f"a{number}": "1" for number in range(7)}
    monkeypatch.setattr("replicate_core.machine.environment.packages", lambda: packages)
    with replicate.init({}, path=None) as plain:
        pass
    monkeypatch.setattr("replicate_core.machine.environment.packages", lambda: {**packages, "torch": "2"})
    (project / "model.bin").write_bytes(os.urandom(400_000))
    with replicate.init({}, path=None) as experiment:
        for _ in range(4):
            experiment.checkpoint("model.bin", {})

    out = cli("show", experiment.id)[1]
    assert "1.6 MB, 400 kB stored (1.2 MB saved, 75%)" in out
    assert "torch:" in out
    assert "and 7 more (--all)" in out
    everything = cli("show", experiment.id, "--all")[1]
    assert everything.index("torch:") < everything.index("a0:")
    out = cli("show", plain.id)[1]
    assert "a4:" in out
    assert "and 2 more (--all)" in out
    assert "saved" not in out


def test_show_tells_what_git_knew_and_how_long_training_was_held_up(cli: Cli, project: Path) -> None:
    def git(*words: str) -> None:
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        subprocess.run(["git", *identity, *words], check=True, capture_output=True)

    (project / "train.py").write_text("one\n")
    git("init", "-b", "main")
    git("add", "train.py")
    git("commit", "-m", "first")
    (project / "train.py").write_text("two\n")
    with replicate.init({}, tags=["a", "b"], notes="a note") as experiment:
        pass
    out = cli("show", experiment.id)[1]
    assert f"{experiment.git.commit[:12]} on main, with changes that are not committed" in out
    assert "a, b" in out
    assert "a note" in out
    assert "s in checkpoint(), in total" in out


def test_show_of_many_checkpoints_has_the_best_and_the_latest(cli: Cli, project: Path) -> None:
    with replicate.init({}, path=None) as experiment:
        for step in range(45):
            experiment.checkpoint(None, {"loss": abs(step - 2)}, ("loss", "minimize"))
    first, best, last = (experiment.checkpoints[number] for number in (0, 2, -1))
    out = cli("show", experiment.id)[1]
    assert f"{best.short_id} (best)" in out
    assert last.short_id in out
    assert first.short_id not in out
    assert "The best and the latest; 5 more: --all" in out
    assert first.short_id in cli("show", experiment.id, "--all")[1]
