"""Opening the storage that a user named: a path, or the URL of any fsspec file system."""

from __future__ import annotations

import difflib
import operator
import os
import re
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from replicate_core.errors import InvalidInput, MissingExtra
from replicate_core.format.keys import KEEPSAKE_EXPERIMENTS
from replicate_core.format.values import Value
from replicate_core.machine.files import DEFAULT_STORAGE, names_below
from replicate_core.redaction import without_credentials
from replicate_core.storage.diagnosis import shown_cause, translated
from replicate_core.storage.drivers import DRIVERS, WEBDAV, driver_of, driver_options
from replicate_core.storage.local import LocalStore
from replicate_core.storage.options import CREATE, hide, resolve, secrets
from replicate_core.storage.store import Store

if TYPE_CHECKING:
    from fsspec.spec import AbstractFileSystem

T = TypeVar("T")

PROTOCOL = "replicate"
"""The scheme of our own URLs, which `filesystem` opens and which can't be a storage."""

USUAL = ("s3", "gs", "az", "sftp", "webdav")
"""Schemes that an error names if a scheme is unknown."""

NAMES_SHOWN = 5
"""Maximum number of names in an error about what a storage holds."""

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_NO_COLON = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)\s*:?//")
_ONE_SLASH = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/*(.*)")  # two letters or more: C:\ is not a scheme


def open_store(
    location: str, *, relative_to: Path, options: Mapping[str, Value] | None = None, patient: bool = False
) -> Store:
    """Open the storage that a user named, and make sure that it answers.

    Args:
        location: a URL (`s3://bucket/path`), or the path of a local directory.
        relative_to: the directory that a relative path starts from.
        options: options of its driver, which may refer to environment variables.
        patient: whether requests may take minutes instead of seconds, because nobody waits for them.

    Raises:
        InvalidInput: the URL is invalid; or the driver does not know an option.
        ConfigInvalid: an option refers to a variable that is not set.
        MissingExtra: the driver for its scheme is not installed.
        StorageFailed: it can't be reached, or refuses; or its bucket is missing, and `create` was not given.
    """
    root = local_root(location, relative_to=relative_to)
    if root is not None:
        return LocalStore(root)
    return _open_fsspec(location, resolve(options or {}, os.environ), patient=patient)


def scheme(location: str) -> str:
    """The scheme of a location's URL in lower case; empty for a path."""
    found = _SCHEME.match(location)
    return found[1].lower() if found else ""


def is_config(location: str, *, relative_to: Path) -> bool:
    """Tell whether a location is a file that names a storage, like `replicate.yaml`, not the storage itself."""
    is_name = location.lower().endswith((".yaml", ".yml")) and not scheme(location)
    return is_name and not (relative_to / _expanded(location)).is_dir()


def local_root(location: str, *, relative_to: Path) -> Path | None:
    """The directory of a storage on this machine; None for any other storage. For the arguments see `open_store`.

    Raises:
        InvalidInput: it is neither a path nor a URL.
    """
    if "::" in location:
        shown = without_credentials(location)
        raise InvalidInput(f"the storage {shown!r} is a chain of URLs: give only the last one, without '::'")
    found = _SCHEME.match(location)
    if "${" in location:
        raise InvalidInput(
            f"the storage {without_credentials(location)!r} contains a reference to the environment, which only "
            "storage_options may"
        )
    if found is None:
        _check_is_path(location, relative_to)
        return relative_to / _expanded(location)
    if found[1].lower() == PROTOCOL:
        raise InvalidInput(
            f"the storage {without_credentials(location)!r} is invalid: {PROTOCOL}:// can only read checkpoints. "
            "Name the place where they are stored: a path, or a URL such as s3://bucket/path"
        )
    if found[1] in ("file", "local"):
        return relative_to / _expanded(location[found.end() :])
    return None


def _expanded(path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise InvalidInput(f"the storage {path!r} can't be found: {error}") from error


def _check_is_path(location: str, relative_to: Path) -> None:
    """Refuse a path that is most likely a mistyped URL: fsspec would treat `s3:/b/k` as a local file."""
    if not location.strip() or location != location.strip():
        raise InvalidInput(
            f"the storage {location!r} is neither a path nor a URL: it must not be empty, nor have spaces around it"
        )
    if is_config(location, relative_to=relative_to):
        raise InvalidInput(
            f"the storage {location!r} is a file that names one, or a missing directory: name the storage itself, "
            "a path or a URL; only --storage, sync, cp, import and Project(storage=...) accept such a file"
        )
    if (found := _NO_COLON.match(location)) is not None and found[1].lower() in DRIVERS:
        meant = f"{found[1].lower()}://{without_credentials('x://' + location[found.end() :]).removeprefix('x://')}"
        raise InvalidInput(f"the storage looks like a URL with its colon missing or misplaced: did you mean {meant} ?")
    found = _ONE_SLASH.fullmatch(location)
    shown = re.sub(r"(:/*)[^/]*@", r"\1", location)
    if found and (found[1].lower() in DRIVERS or location[len(found[1]) + 1 :].startswith("/")):
        scheme = found[1].lower()
        rest = found[2].rpartition("@")[2]
        meant = f"{scheme}:///{rest}" if scheme == "file" else f"{scheme}://{rest}"
        raise InvalidInput(f"the storage {shown!r} looks like a URL with a slash missing: did you mean {meant} ?")


def found_at(store: Store) -> str:
    """Say what is stored where a repository was expected, and what to do.

    Raises:
        StorageFailed: the storage can't be reached.
    """
    if isinstance(store, LocalStore) and not store.root.is_dir():
        near = difflib.get_close_matches(store.root.name, (name.rstrip("/") for name in _names(store.root.parent)), n=3)
        hint = f"similar in {store.root.parent}: {', '.join(near)}" if near else "check its path"
        return f"there is no such directory; {hint}. Recording, `sync` and `cp` make a new one"
    if isinstance(store, LocalStore) and (store.root / DEFAULT_STORAGE).is_dir():
        return f"it is a project, which keeps its experiments in {store.root / DEFAULT_STORAGE}: name that"
    if store.names(KEEPSAKE_EXPERIMENTS):
        return (
            "it holds a repository of Keepsake or of the first replicate: `replicate import` and this URL copy its "
            "experiments into the storage of the project"
        )
    names = store.names("")
    shown = ", ".join(names[:NAMES_SHOWN]) + (f" and {len(names) - NAMES_SHOWN} more" * (len(names) > NAMES_SHOWN))
    holds = f"it holds {shown}, and no replicate.json" if names else "nothing is stored there"
    return f"{holds}. Check its path; recording, `sync` and `cp` make a new one"


def _names(directory: Path) -> list[str]:
    try:
        return names_below(directory)
    except OSError:
        return []


def within(seconds: float, make: Callable[[], T]) -> T:
    """Call a function that may never return, and wait for it for at most `seconds`. It can't be stopped.

    Raises:
        TimeoutError: it took longer.
    """
    made: Future[T] = Future()

    def run() -> None:
        try:
            made.set_result(make())
        except BaseException as error:  # noqa: BLE001  # raised in the thread that waits for it
            made.set_exception(error)

    try:
        threading.Thread(target=run, daemon=True).start()
    except RuntimeError:  # the interpreter is exiting, and starts no more threads
        return make()
    try:
        return made.result(seconds)
    except FutureTimeout as error:
        if made.done():
            raise
        raise TimeoutError(f"no answer within {seconds:g} seconds") from error


def _checked_path(path: str, shown: str, refused: str) -> str:
    """A path below a host or bucket, with repeated slashes collapsed: a key with two in a row is not found again."""
    parts = path.split("/")
    strange = next((character for character in refused if character in path), None)
    if strange is not None or "." in parts or ".." in parts:
        what = repr(strange) if strange is not None else "'.' or '..'"
        raise InvalidInput(f"the storage {shown!r} has {what} in its path, which is not allowed: leave that out")
    return "/".join(filter(None, parts))


def _is_typo_of(known: str, typed: str) -> bool:
    """Tell whether two words of the same length differ in one character."""
    return len(known) == len(typed) and sum(map(operator.ne, known, typed)) == 1


def check_scheme(url: str) -> None:
    """Make sure that a driver for the scheme of a storage is known.

    Raises:
        InvalidInput: it is not; the message names the nearest one.
    """
    from fsspec.registry import available_protocols  # noqa: PLC0415  # takes 0.1 s, and a local directory does not need it

    shown = without_credentials(url)
    kind = url.partition("://")[0]
    if kind not in available_protocols() and kind not in DRIVERS:
        typed = kind.lower()
        known = sorted({*DRIVERS, *available_protocols()})
        near = [*difflib.get_close_matches(typed, known, n=1), *(name for name in USUAL if _is_typo_of(name, typed))]
        usual = f"{', '.join(USUAL)} and a local directory are known"
        hint = f"did you mean {near[0]}://{shown.partition('://')[2]} ?" if near else usual
        raise InvalidInput(f"the storage {shown!r} has the scheme {kind!r}, which nothing here can open: {hint}")


def _open_fsspec(url: str, options: dict[str, Value], *, patient: bool) -> Store:
    from fsspec.core import url_to_fs  # noqa: PLC0415
    from fsspec.registry import get_filesystem_class  # noqa: PLC0415

    from replicate_core.storage import fsspec_store  # noqa: PLC0415

    check_scheme(url)
    shown = without_credentials(url)
    kind, _, rest = url.partition("://")
    driver = driver_of(kind)
    host, slash, path = rest.partition("/")
    path = _checked_path(path, shown, driver.refuses + driver.refuses_in_url)
    url = f"{kind}://{host}{slash}{path}"
    if driver.needs and not host:
        raise InvalidInput(f"the storage {shown!r} names no {driver.needs.lower()}: write {kind}://{driver.needs}/PATH")
    if driver is WEBDAV and "@" in host:
        raise InvalidInput(f"the storage {shown!r} contains a login: give it as an option, auth: [USER, PASSWORD]")
    create = options.pop(CREATE, False) is True
    user = host.rpartition("@")[0] if driver.extra != "azure" else ""  # in Azure's URLs, it is the container
    hidden = (*filter(None, (user, user.partition(":")[2])), *secrets(options))
    seconds = fsspec_store.REQUEST_SECONDS if patient else fsspec_store.HASTY_SECONDS
    known = driver_options(kind, host, options, seconds)

    def make() -> tuple[AbstractFileSystem, str]:
        if driver is WEBDAV:
            return get_filesystem_class(kind)(**known), path  # fsspec would treat the server as part of the path
        file_system, root = url_to_fs(url, **known)
        return file_system, root

    try:
        get_filesystem_class(kind)  # the import is not part of the timeout
        file_system, root = within(seconds, make)
    except ImportError as error:
        todo = (
            f'pip install {driver.package} (the extra "replicate[{driver.extra}]" of this package)'
            if driver.extra
            else f"install its driver ({error})"
        )
        raise MissingExtra(f"the storage {shown} needs a driver that is not installed: {todo}") from error
    except TypeError as error:
        problem = f"storage_options of {shown} can't be used: {hide(str(error), hidden)}"
        raise InvalidInput(problem) from shown_cause(error, hidden)
    except Exception as error:  # noqa: BLE001  # a driver may raise anything
        raise translated(error, shown, "open the storage", hidden) from shown_cause(error, hidden)
    store = fsspec_store.FsspecStore(
        file_system,
        root,
        shown,
        driver=driver,
        reopen=lambda: make()[0],
        request_seconds=seconds,
        hidden=hidden,
    )
    if kind != "memory":
        store.probe(create=create)
    return store
