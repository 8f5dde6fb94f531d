"""Reading the files of a snapshot, part by part. No byte is returned before its digest is checked.

Parts that are close to one another in an object are fetched with one request, and several requests run at once.
"""

from __future__ import annotations

import bisect
import io
import itertools
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from replicate_core.errors import Corrupted, NotFound
from replicate_core.format.digest import digest
from replicate_core.format.encodings import decode
from replicate_core.format.manifest import File, Part
from replicate_core.repository.repository import Repository

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

T = TypeVar("T")

FETCH_BYTES = 4 << 20
"""Maximum number of bytes that one request fetches; a longer part is fetched alone."""

GAP_BYTES = 64 << 10
"""Maximum gap between two parts of one request: fetching it is cheaper than another request."""

FETCHES_AT_ONCE = 4

KEPT_BYTES = 16 << 20
"""Maximum number of bytes that an open file caches in memory, so that seeking back does not fetch them again."""

READ_AHEAD = 4
"""Number of parts that are fetched together while a file is read in sequence."""


class Wanted(NamedTuple):
    """A part, and where it belongs: the number of its file, and its position there."""

    part: Part
    file: int = 0
    position: int = 0


@dataclass(frozen=True, slots=True)
class Fetch:
    """One request: parts that are close to one another in an object, in the order of their offsets."""

    object: str
    start: int
    end: int
    wanted: tuple[Wanted, ...]


def wanted_of(file: File, number: int = 0) -> Iterator[Wanted]:
    """The parts of a file, each with its position in it."""
    position = 0
    for part in file.parts:
        yield Wanted(part, number, position)
        position += part.length


def plan(wanted: Iterable[Wanted]) -> Iterator[Fetch]:
    """Gather parts into few requests."""
    gathered: list[Wanted] = []
    end = decoded_bytes = 0
    for item in sorted(wanted, key=lambda item: (item.part.object, item.part.offset, item.part.digest)):
        part = item.part
        part_end = part.offset + part.stored_bytes
        if gathered and (
            part.object != gathered[0].part.object
            or part.offset > end + GAP_BYTES
            or part_end > gathered[0].part.offset + FETCH_BYTES
            or (part != gathered[-1].part and decoded_bytes + part.length > FETCH_BYTES)
        ):
            yield _fetch_of(gathered, end)
            gathered, end, decoded_bytes = [], 0, 0
        if not gathered or part != gathered[-1].part:
            decoded_bytes += part.length
        gathered.append(item)
        end = max(end, part_end)
    if gathered:
        yield _fetch_of(gathered, end)


def _fetch_of(gathered: list[Wanted], end: int) -> Fetch:
    first = gathered[0].part
    return Fetch(first.object, first.offset, end, tuple(gathered))


def read(repository: Repository, fetch: Fetch) -> list[tuple[Wanted, bytes]]:
    """Make one request, and return the parts that it fetched, decoded and verified.

    Raises:
        Corrupted: the object is missing or damaged.
    """
    try:
        data = memoryview(repository.store.get(fetch.object, fetch.start, fetch.end))
    except NotFound as error:
        raise Corrupted(f"the object {fetch.object} is missing from {repository.store.url}") from error
    verified: dict[Part, bytes] = {}
    for part in dict.fromkeys(item.part for item in fetch.wanted):
        start = part.offset - fetch.start
        verified[part] = _verified(repository, part, data[start : start + part.stored_bytes])
    return [(item, verified[item.part]) for item in fetch.wanted]


def read_stored(repository: Repository, part: Part) -> bytes:
    """Fetch the stored bytes of one part, encoded or not, and verify its content; raises what `read` raises."""
    try:
        stored = repository.store.get(part.object, part.offset, part.offset + part.stored_bytes)
    except NotFound as error:
        raise Corrupted(f"the object {part.object} is missing from {repository.store.url}") from error
    _verified(repository, part, memoryview(stored))
    return stored


def _verified(repository: Repository, part: Part, stored: memoryview) -> bytes:
    try:
        data = bytes(stored) if part.encoding is None else decode(part.encoding.codec, bytes(stored), part.length)
    except Corrupted as error:
        raise Corrupted(f"a part of {part.object} is damaged: {error}") from error
    if len(data) != part.length or digest(data) != part.digest:
        raise Corrupted(
            f"the object {part.object} in {repository.store.url} is damaged: bytes {part.offset} to "
            f"{part.offset + part.stored_bytes} are not what was stored"
        )
    return data


def read_part(repository: Repository, part: Part) -> bytes:
    """Fetch one part; raises what `read` raises."""
    ((_, data),) = read(repository, next(plan([Wanted(part)])))
    return data


def read_all(
    repository: Repository, files: Sequence[File], receive: Callable[[Sequence[tuple[Wanted, bytes]]], T]
) -> Iterator[T]:
    """Fetch the bytes of files, in any order, with a few requests at once. Memory holds only what these fetch.

    Args:
        repository: holds the bytes.
        files: the files to fetch.
        receive: called with the verified parts of each request, in the thread that made the request; each part says
            which of the files it belongs to, and its position there.

    Yields:
        The result of `receive` for each request, in order.

    Raises:
        Corrupted: an object is missing or damaged; everything that `receive` got before is verified.
    """
    fetches = plan(item for number, file in enumerate(files) for item in wanted_of(file, number))
    running: deque[Future[T]] = deque()
    with ThreadPoolExecutor(FETCHES_AT_ONCE) as executor:
        try:
            for fetch in fetches:
                running.append(executor.submit(lambda fetch: receive(read(repository, fetch)), fetch))
                if len(running) > FETCHES_AT_ONCE:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            for future in running:
                future.cancel()


def open_file(repository: Repository, file: File, *, name: str) -> io.BufferedReader:
    """Open a file of a snapshot for reading: seekable and verified. Only the parts that are read are fetched."""
    return io.BufferedReader(_StoredFile(repository, file, name), buffer_size=1 << 16)


class _StoredFile(io.RawIOBase):
    def __init__(self, repository: Repository, file: File, name: str) -> None:
        self.name = name
        self._repository = repository
        self._file = file
        self._starts = list(itertools.accumulate((part.length for part in file.parts), initial=0))
        self._position = 0
        self._last = -1
        self._kept: OrderedDict[int, bytes] = OrderedDict()

    def _fetch(self, number: int, parts: Sequence[Part]) -> None:
        for fetch in plan(Wanted(part, number + ahead) for ahead, part in enumerate(parts)):
            self._kept.update((item.file, data) for item, data in read(self._repository, fetch))

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._file.size}[whence]
        if origin + offset < 0:
            raise OSError(f"can't seek to {origin + offset}, before the beginning of {self.name}")
        self._position = origin + offset
        return self._position

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        if self._position >= self._file.size:
            return 0
        number = bisect.bisect_right(self._starts, self._position) - 1
        start = self._position - self._starts[number]
        piece = self._part(number)[start : start + len(view)]
        view[: len(piece)] = piece
        self._position += len(piece)
        return len(piece)

    def _part(self, number: int) -> bytes:
        if number not in self._kept:
            count = READ_AHEAD if number == self._last + 1 and number else 1
            parts = self._file.parts[number : number + count]
            if sum(part.length for part in parts) > KEPT_BYTES:
                parts = parts[:1]
            try:
                self._fetch(number, parts)
            except Corrupted:
                self._fetch(number, parts[:1])  # damage in a part that was read ahead must not hide this one
        self._last = number
        self._kept.move_to_end(number)
        while len(self._kept) > 1 and sum(map(len, self._kept.values())) > KEPT_BYTES:
            self._kept.popitem(last=False)
        return self._kept[number]
