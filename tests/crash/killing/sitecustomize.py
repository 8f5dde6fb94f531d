"""Kills the Python that starts with it at the steps it is told, and tells who it was.

Its directory is on the PYTHONPATH of the processes that `test_kills` starts, and they hand it on to their recorders:
nothing in the product knows that it is tested. What to do stands in `plan.json` in the directory that `KILL_PLAN`
names; `Kill` in `test_kills` has the meaning of its fields.
"""

import importlib
import json
import os
import re
import signal
import sys
import time

DIRECTORY = os.environ.get("KILL_PLAN", "")


def role():
    """What this process does, as far as it matters here."""
    arguments = sys.orig_argv
    if any("replicate_core.spool.recorder" in argument for argument in arguments):
        return "abandoned" if "abandoned" in arguments else "recorder"
    names = {"training.py": "training", "taking_up.py": "taking up"}
    return next((names[name] for name in map(os.path.basename, arguments) if name in names), None)


def tell(name, line):
    """Append a line to a file; it is whole, whenever somebody is killed."""
    with open(os.path.join(DIRECTORY, name), "ab", buffering=0) as file:
        file.write(json.dumps(line).encode() + b"\n")


class Point:
    """A step at which to kill."""

    def __init__(self, number, fields):
        self.number = number
        self.when = fields["when"]
        self.match = re.compile(fields["match"])
        self.times = fields["times"]
        self.left = fields["let_pass"]
        self.victim = fields["victim"]

    def is_hit(self, arguments):
        text = " ".join(str(argument) for argument in arguments if isinstance(argument, (str, os.PathLike)))
        if not self.match.search(text):
            return False
        self.left -= 1
        return self.left == -1

    def kill(self):
        """End this process, or its recorder, unless this point had its share."""
        for time_ in range(self.times):
            try:
                os.close(os.open(os.path.join(DIRECTORY, f"killed-{self.number}-{time_}"), os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                continue
            if self.victim:
                kill_recorder()
                return
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)


def kill_recorder():
    """End the last recorder that was started; it is dead when this returns."""
    with open(os.path.join(DIRECTORY, "processes.jsonl"), encoding="utf-8") as file:
        pid = [pid for found, pid in map(json.loads, file) if found == "recorder"][-1]
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # whoever started it will ask, too


def wrap(name, around):
    """Put something around a function: `module:Class.method`."""
    module, _, path = name.partition(":")
    *owners, name = path.split(".")
    owner = importlib.import_module(module)
    for part in owners:
        owner = getattr(owner, part)
    original = getattr(owner, name)
    setattr(owner, name, lambda *arguments, **options: around(original, arguments, options))


def at_call(point, original, arguments, options):
    hit = point.is_hit(arguments)
    if hit and point.when == "before":
        point.kill()
    if hit and point.when == "half":  # of what os.write writes
        descriptor, data = arguments
        original(descriptor, data[: len(data) // 2])
        point.kill()
    result = original(*arguments, **options)
    if hit and point.when == "after":
        point.kill()
    return result


def at_event(point, event, name, arguments):
    if name == event and point.is_hit(arguments):
        point.kill()


def slowly(seconds, original, arguments, options):
    time.sleep(seconds)
    result = original(*arguments, **options)
    time.sleep(seconds)
    return result


class Ends:
    """Tells how children end: nobody else can ask, once this process has. Needs no module: they go before the last."""

    def __init__(self):
        path = os.path.join(DIRECTORY, "ends.jsonl")
        self.descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self.write = os.write

    def note(self, original, arguments, options):
        pid, status = original(*arguments, **options)
        if pid:
            self.write(self.descriptor, b"[%d, %d]\n" % (pid, status))
        return pid, status


def install(mine):
    with open(os.path.join(DIRECTORY, "plan.json"), encoding="utf-8") as file:
        plan = json.load(file)
    assert "subprocess" not in sys.modules, "it remembers os.waitpid when it is imported"
    tell("processes.jsonl", [mine, os.getpid()])
    wrap("os:waitpid", Ends().note)
    if plan["slow_seconds"] and mine != "training":
        for name in ("put", "put_file"):
            wrap(f"replicate_core.storage.local:LocalStore.{name}", lambda *call: slowly(plan["slow_seconds"], *call))
    for number, fields in enumerate(plan["kills"]):
        if fields["role"] != mine:
            continue
        point = Point(number, fields)
        if ":" in fields["step"]:
            wrap(fields["step"], lambda *call, point=point: at_call(point, *call))
        else:
            sys.addaudithook(
                lambda name, arguments, point=point, event=fields["step"]: at_event(point, event, name, arguments)
            )


if DIRECTORY and (found := role()):
    install(found)
