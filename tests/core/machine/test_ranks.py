"""Ranks: what says which process of a distributed run this is, and which of them is believed."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicate_core.format import ids
from replicate_core.machine import ranks
from replicate_core.machine.ranks import LAUNCHERS, Rank, is_first_worker, know_id, tell_id, this_rank, told_id

VARIABLES = ("REPLICATE_RANK", "RANK", "OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID")


@pytest.fixture(autouse=True)
def no_frameworks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("torch.distributed", "jax._src.distributed"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def tensorflow(kind: str, index: int | None, **cluster: list[str]) -> dict[str, str]:
    task = {"type": kind} if index is None else {"type": kind, "index": index}
    return {"TF_CONFIG": json.dumps({"cluster": cluster, "task": task})}


class TestTheEnvironment:
    def test_where_nothing_is_said_there_is_one_process(self) -> None:
        assert this_rank({}) == Rank(0, "nothing")
        assert this_rank({"WORLD_SIZE": "8", "PATH": "/bin"}) == Rank(0, "nothing")

    @pytest.mark.parametrize("name", VARIABLES)
    def test_a_launcher_says_it(self, name: str) -> None:
        assert this_rank({name: "0"}) == Rank(0, name)
        assert this_rank({name: "3"}) == Rank(3, name)

    def test_of_several_the_surest_is_believed(self) -> None:
        environment = {name: str(number) for number, name in enumerate(VARIABLES)} | tensorflow("worker", 9)
        for number, name in enumerate(VARIABLES):
            assert this_rank(environment) == Rank(number, name)
            del environment[name]
        assert this_rank(environment) == Rank(9, "TF_CONFIG")

    @pytest.mark.parametrize("garbage", ["", " ", "first", "1.5", "0x1", "None", "1,2"])
    def test_what_is_no_number_is_passed_over(self, garbage: str) -> None:
        for name in VARIABLES:
            assert this_rank({name: garbage}) == Rank(0, "nothing")
        assert this_rank({"REPLICATE_RANK": garbage, "RANK": "2"}) == Rank(2, "RANK")
        assert this_rank({"RANK": garbage, "SLURM_PROCID": "2"}) == Rank(2, "SLURM_PROCID")

    @pytest.mark.parametrize("name", VARIABLES[1:])
    def test_minus_one_says_that_the_run_is_not_distributed(self, name: str) -> None:
        assert this_rank({name: "-1"}).number == 0

    def test_the_second_process_of_a_machine_is_not_the_first(self) -> None:
        """Lightning starts the other processes of a machine with nothing but this."""
        assert this_rank({"LOCAL_RANK": "1", "NODE_RANK": "0", "WORLD_SIZE": "2"}).number != 0

    def test_the_user_has_the_last_word(self, monkeypatch: pytest.MonkeyPatch) -> None:
        initialised(monkeypatch, rank=5)
        environment = dict.fromkeys(VARIABLES, "4") | tensorflow("worker", 3) | {"REPLICATE_RANK": "0"}
        assert this_rank(environment) == Rank(0, "REPLICATE_RANK")

    def test_those_that_start_separate_runs_too_are_known(self) -> None:
        assert set(LAUNCHERS) < set(VARIABLES)
        assert "RANK" not in LAUNCHERS, "torchrun starts the processes of one run"

    def test_it_is_that_of_this_process(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in (*VARIABLES, "TF_CONFIG"):
            monkeypatch.delenv(name, raising=False)
        assert this_rank() == Rank(0, "nothing")
        monkeypatch.setenv("RANK", "2")
        assert this_rank() == Rank(2, "RANK")


class TestTensorFlow:
    def test_the_first_worker_is_first_where_there_is_no_chief(self) -> None:
        for index in range(3):
            found = this_rank(tensorflow("worker", index, worker=["a", "b", "c"]))
            assert found == Rank(index, "TF_CONFIG")

    @pytest.mark.parametrize("chief", ["chief", "master"])
    def test_the_chief_is_first_where_there_is_one(self, chief: str) -> None:
        cluster = {chief: ["a"], "worker": ["b", "c"]}
        assert this_rank(tensorflow(chief, 0, **cluster)).number == 0
        assert [this_rank(tensorflow("worker", index, **cluster)).number for index in range(2)] == [1, 2]

    def test_an_empty_list_of_chiefs_is_no_chief(self) -> None:
        assert this_rank(tensorflow("worker", 0, chief=[], worker=["a"])).number == 0

    @pytest.mark.parametrize("kind", ["evaluator", "ps"])
    def test_who_does_not_train_never_records(self, kind: str) -> None:
        for cluster in ({}, {"chief": ["a"]}, {"worker": ["a"]}):
            for index in range(2):
                assert this_rank(tensorflow(kind, index, **cluster)).number != 0

    def test_a_task_without_a_number_is_the_first_of_its_kind(self) -> None:
        assert this_rank(tensorflow("worker", None)).number == 0
        assert this_rank(tensorflow("evaluator", None)).number == 1

    def test_a_number_may_be_text(self) -> None:
        assert this_rank({"TF_CONFIG": '{"task": {"type": "worker", "index": "2"}}'}).number == 2

    @pytest.mark.parametrize(
        "config",
        ["", "{", "null", "[]", "5", '"worker"', "{}", '{"task": null}', '{"task": {}}', '{"task": []}',
         '{"cluster": {"worker": ["a"]}}', '{"task": {"index": 1}}', '{"task": {"type": "worker", "index": null}}',
         '{"task": {"type": "worker", "index": "x"}}', '{"task": {"type": "worker", "index": 1}, "cluster": null}',
         '{"task": {"type": "worker", "index": 1}, "cluster": []}', '{"task": {"type": "worker", "index": [1]}}'],
    )  # fmt: skip
    def test_what_makes_no_sense_says_nothing(self, config: str) -> None:
        assert this_rank({"TF_CONFIG": config}) == Rank(0, "nothing")


def initialised(monkeypatch: pytest.MonkeyPatch, rank: int, *, is_initialised: bool = True) -> None:
    fake = SimpleNamespace(
        is_available=lambda: True,
        is_initialized=lambda: is_initialised,
        get_rank=lambda: rank if is_initialised else 1 / 0,
    )
    monkeypatch.setitem(sys.modules, "torch.distributed", fake)


class TestFrameworks:
    def test_torch_is_believed_before_launchers_once_it_is_initialised(self, monkeypatch: pytest.MonkeyPatch) -> None:
        initialised(monkeypatch, rank=3)
        assert this_rank({"RANK": "0", "SLURM_PROCID": "0"}) == Rank(3, "torch.distributed")
        initialised(monkeypatch, rank=0)
        assert this_rank({"SLURM_PROCID": "7"}) == Rank(0, "torch.distributed")

    def test_torch_says_nothing_before_it_is_initialised(self, monkeypatch: pytest.MonkeyPatch) -> None:
        initialised(monkeypatch, rank=3, is_initialised=False)
        assert this_rank({}) == Rank(0, "nothing")
        assert this_rank({"RANK": "1"}) == Rank(1, "RANK")

    def test_a_torch_without_it_says_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "torch.distributed", SimpleNamespace(is_available=lambda: False))
        assert this_rank({}) == Rank(0, "nothing")
        monkeypatch.setitem(sys.modules, "torch.distributed", None)
        assert this_rank({}) == Rank(0, "nothing")

    @pytest.mark.parametrize(
        ("state", "expected"),
        [
            (SimpleNamespace(client="a client", process_id=2), Rank(2, "jax.distributed")),
            (SimpleNamespace(client="a client", process_id=0), Rank(0, "jax.distributed")),
            (SimpleNamespace(client=None, process_id=0), Rank(0, "nothing")),
            (SimpleNamespace(client="a client", process_id=None), Rank(0, "nothing")),
            (SimpleNamespace(), Rank(0, "nothing")),
            (None, Rank(0, "nothing")),
        ],
        ids=repr,
    )
    def test_jax_says_it_once_it_is_initialised(self, monkeypatch: pytest.MonkeyPatch, state, expected: Rank) -> None:
        monkeypatch.setitem(sys.modules, "jax._src.distributed", SimpleNamespace(global_state=state))
        assert this_rank({}) == expected

    def test_a_later_jax_that_notes_it_elsewhere_says_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "jax._src.distributed", SimpleNamespace())
        assert this_rank({}) == Rank(0, "nothing")

    def test_nothing_is_imported_to_ask(self) -> None:
        code = "import sys; from replicate_core.machine.ranks import this_rank; this_rank(); print(*sys.modules)"
        root = Path(__file__).parents[3]
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
        assert not {"torch", "jax", "tensorflow", "numpy"} & set(done.stdout.split())


NAMES = st.sampled_from([*VARIABLES, "TF_CONFIG"])


@given(st.dictionaries(NAMES, st.text(st.characters(exclude_characters="\0"), max_size=12), max_size=4))
def test_whatever_the_environment_says_there_is_an_answer(environment: dict[str, str]) -> None:
    assert isinstance(this_rank(environment).number, int)


@given(data=st.data())
def test_whatever_a_configuration_of_tensorflow_says_there_is_an_answer(anything, data) -> None:
    text = json.dumps({"cluster": data.draw(anything), "task": {"type": "worker", "index": data.draw(anything)}})
    assert isinstance(this_rank({"TF_CONFIG": text}).number, int)


@pytest.fixture
def ranked(project: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a script in the project, as a process with this environment."""

    def run(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
        root = Path(__file__).parents[3]
        given = {name: value for name, value in os.environ.items() if name not in (*VARIABLES, "TF_CONFIG")}
        return subprocess.run(
            [sys.executable, "-c", script],
            check=False,
            capture_output=True,
            text=True,
            cwd=project,
            env={**given, "PYTHONPATH": str(root), **environment},
        )

    return run


RUN = (
    "import replicate_core as r\n"
    "experiment = r.init({'a': 1}, path=None)\n"
    "made = experiment.checkpoint(None, {'loss': 1.0})\n"
    "print(made.step, experiment.checkpoint(None, {}).step, experiment.is_running())\n"
    "experiment.stop()\n"
)


class TestARun:
    def test_one_of_its_processes_records(self, ranked, project: Path) -> None:
        for number in range(3):
            done = ranked(RUN, RANK=str(number), WORLD_SIZE="3")
            assert (done.returncode, done.stdout, done.stderr) == (0, "0 1 True\n", "")
        done = ranked("import replicate_core as r\nprint([len(e.checkpoints) for e in r.experiments.list()])")
        assert done.stdout == "[2]\n"

    @pytest.mark.parametrize("name", LAUNCHERS)
    def test_of_a_launcher_that_starts_separate_runs_too_is_told_how_to_record(self, ranked, name: str) -> None:
        done = ranked(RUN, **{name: "1"})
        assert done.returncode == 0
        assert "only number 0 records. If these are separate runs, set REPLICATE_RANK=0" in done.stderr
        assert f"number 1 of its job ({name})" in done.stderr
        done = ranked(RUN, **{name: "1", "REPLICATE_RANK": "0"})
        assert (done.returncode, done.stderr) == (0, "")
        assert ranked("import replicate_core as r\nprint(len(r.experiments.list()))").stdout == "1\n"


class TestAScriptThatAWorkerImports:
    """Workers of multiprocessing import the script of their parent, as `__mp_main__`."""

    @staticmethod
    def module(script: str) -> dict[str, object]:
        names: dict[str, object] = {"__name__": "__mp_main__", "this_rank": this_rank}
        exec(compile(script, "train.py", "exec"), names)  # as runpy does
        return names

    def test_does_not_record(self) -> None:
        assert self.module("rank = this_rank({})")["rank"] == Rank(1, "multiprocessing")
        assert self.module("def main():\n    return this_rank({'RANK': '0'})\nrank = main()")["rank"] == Rank(
            1, "multiprocessing"
        )

    def test_records_in_what_the_worker_is_told_to_do(self) -> None:
        work = self.module("def work():\n    return this_rank({})")["work"]
        assert callable(work)
        assert work() == Rank(0, "nothing")

    def test_records_where_the_user_says_so(self) -> None:
        rank = self.module("rank = this_rank({'REPLICATE_RANK': '0'})")["rank"]
        assert rank == Rank(0, "REPLICATE_RANK")

    def test_the_first_worker_speaks_for_all(self, monkeypatch: pytest.MonkeyPatch) -> None:
        said = {}
        for name in ("MainProcess", "SpawnProcess-1", "SpawnProcess-2", "SpawnProcess-11", "of the user"):
            monkeypatch.setattr(multiprocessing.current_process(), "name", name)
            said[name] = is_first_worker()
        assert [name for name, is_first in said.items() if not is_first] == ["SpawnProcess-2", "SpawnProcess-11"]


class Store:
    """What torch's store answers, which all processes of a run share."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}

    def set(self, key: str, text: str) -> None:
        self.texts[key] = text

    def check(self, keys: list[str]) -> bool:
        return all(key in self.texts for key in keys)

    def get(self, key: str) -> bytes:
        return self.texts[key].encode()


class Client:
    """What the client of jax.distributed answers."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}

    def key_value_set(self, key: str, text: str) -> None:
        self.texts[key] = text

    def blocking_key_value_get(self, key: str, milliseconds: int) -> str:
        if key not in self.texts:
            raise RuntimeError(f"DEADLINE_EXCEEDED: {key} was not there in {milliseconds} ms")
        return self.texts[key]


def torch_with(store: object) -> SimpleNamespace:
    return SimpleNamespace(
        is_available=lambda: True,
        is_initialized=lambda: True,
        distributed_c10d=SimpleNamespace(_get_default_store=lambda: store),
    )


def jax_with(client: object) -> SimpleNamespace:
    return SimpleNamespace(global_state=SimpleNamespace(client=client, process_id=0))


ONE, TWO, THREE = (ids.random_id(bytes([number]) * 16) for number in range(3))


class TestTelling:
    """The first process and another one, which do not share what this module remembers."""

    @pytest.fixture(params=["torch", "jax"])
    def group(self, request, monkeypatch: pytest.MonkeyPatch) -> None:
        if request.param == "torch":
            monkeypatch.setitem(sys.modules, "torch.distributed", torch_with(Store()))
        else:
            monkeypatch.setitem(sys.modules, "jax._src.distributed", jax_with(Client()))
        monkeypatch.setattr(ranks, "TOLD_SECONDS", 0.05)
        self.become_another(monkeypatch)

    def become_another(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ranks, "_numbers", itertools.count())
        monkeypatch.setattr(ranks, "_known", set())

    def test_others_are_told_of_each_experiment_in_turn(self, group, monkeypatch) -> None:
        for experiment in (ONE, TWO, THREE):
            tell_id(experiment)
        self.become_another(monkeypatch)
        know_id(TWO)  # a framework has told it already
        assert [told_id(), told_id(), told_id()] == [ONE, THREE, None]

    def test_it_is_waited_for(self, group, monkeypatch) -> None:
        monkeypatch.setattr(ranks, "TOLD_SECONDS", 60)
        plain, waits = ranks._read, threading.Event()

        def read(*arguments: object) -> str | None:
            waits.set()
            return plain(*arguments)

        monkeypatch.setattr(ranks, "_read", read)
        with ThreadPoolExecutor(1) as pool:
            told = pool.submit(told_id)
            assert waits.wait(60)
            monkeypatch.setattr(ranks, "_numbers", itertools.count())
            tell_id(ONE)
            assert told.result(60) == ONE

    def test_what_is_no_id_is_none(self, group, monkeypatch) -> None:
        tell_id("../../etc")
        self.become_another(monkeypatch)
        assert told_id() is None

    @pytest.mark.parametrize("module", ["torch.distributed", "jax._src.distributed"])
    def test_a_framework_that_has_changed_is_done_without(self, module: str, monkeypatch) -> None:
        for broken in (SimpleNamespace(), torch_with(object()), jax_with(object())):
            monkeypatch.setitem(sys.modules, module, broken)
            tell_id(ONE)
            assert told_id() is None

    def test_without_a_group_nobody_waits(self) -> None:
        tell_id(ONE)
        assert told_id() is None
