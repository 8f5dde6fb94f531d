"""Segments: many records in one file, with a summary of each experiment, so that they need not be fetched one by one.

Pure. A segment is derived from records and adds nothing to them: it may be rebuilt or deleted at any time. `catalogue`
reads segments, `compacting` makes them.

A segment is a sequence of gzip members, so that `zcat` prints it. The first one is its head, a sealed document that
names the records. The others, the blocks, hold the records as they are stored under their own keys: each a sealed line.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple, get_args

from replicate_core.errors import Corrupted, TooNew
from replicate_core.format.ids import is_id
from replicate_core.format.keys import RECORDS, is_record_key, record_name
from replicate_core.format.record_codec import KINDS, parse_time, time_text
from replicate_core.format.records import Ending, ExperimentState
from replicate_core.format.sealed import (
    expect_count,
    expect_list,
    expect_text,
    is_sealed_under,
    seal_under,
    unseal_under,
)
from replicate_core.format.values import Value

FORMAT = 1
"""The format of segments and their summaries; a reader uses the records instead where it is another one."""

BLOCK_BYTES = 256 << 10
"""Size at which a block is complete: about as much as is read to see one experiment."""

HEAD_BYTES_MAX = 256 << 20
BLOCK_BYTES_MAX = 64 << 20
"""Maximum unpacked sizes: a few stored bytes can unpack to very many."""

GROUP_BYTES_MAX = 32 << 20
"""Maximum size of an experiment's records that are put into segments: larger ones are few."""

BLOCKS_KEPT = 8
"""Maximum number of unpacked blocks of a segment kept in memory."""

_NAMES = re.compile(rf"(?:\d{{8}}/[0-9A-Z]{{26}}-(?:{'|'.join(KINDS)})\n)*")


_ENDINGS: Mapping[str, Ending] = {ending: ending for ending in get_args(Ending)}


def day_of(key: str) -> str:
    """The day under which a record is stored, by its key."""
    return key[len(RECORDS) :].partition("/")[0]


class Summary(NamedTuple):
    """The part of an experiment's state that every listing needs."""

    created: datetime
    """When it began."""
    active: datetime
    """When its last checkpoint was made, or when it began; meaningless once it has ended."""
    status: Ending | None
    """None: it has not ended."""
    session: str | None
    """The session that it was last resumed in; None for the first one."""


def summarise(state: ExperimentState) -> Summary:
    """The summary of an experiment."""
    began = state.created.created
    if state.ended is not None:
        return Summary(began, began, state.ended.status, state.session)
    return Summary(began, max([began, *(item.created for item in state.checkpoints[-1:])]), None, state.session)


@dataclass(frozen=True, slots=True)
class Group:
    """Records of one experiment, to be put into a segment."""

    experiment: str
    summary: Summary | None
    """Summary of these records; None if the experiment was deleted, or its beginning is not among them."""
    lines: Mapping[str, bytes]
    """The records as they are stored, by key."""


class Piece(NamedTuple):
    """Where the records of one experiment are in a segment."""

    experiment: str
    summary: Summary | None
    names: Sequence[str]
    """Their keys, without the parts that all keys of this experiment share."""
    block: int
    line: int
    """Number of the line of the block that holds the first of them."""

    @property
    def keys(self) -> list[str]:
        """The keys of the records, in order."""
        middle = f"-{self.experiment}-"
        return [f"{RECORDS}{name[:35]}{middle}{name[36:]}.json" for name in self.names]


@dataclass(frozen=True)
class Segment:
    """A segment that was read, its blocks not yet unpacked."""

    key: str
    pieces: Mapping[str, Piece]
    """By experiment."""
    settled: frozenset[str]
    """Days whose records are all named here or in the segments `beside`: no record will be added to them."""
    others: Sequence[str]
    """Keys in these days that no segment holds: damaged records, or of a kind that only later versions know."""
    beside: Sequence[str]
    """Keys of the segments on which `settled` relies."""
    data: bytes = field(repr=False)
    ends: Sequence[int]
    """Where each block ends in `data`, after the end of the head."""
    _unpacked: dict[int, list[bytes]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def keys(self) -> Iterator[str]:
        """The keys of all records that it holds."""
        for piece in self.pieces.values():
            yield from piece.keys

    def keys_of(self, days: Collection[str]) -> Iterator[str]:
        """The keys of the records of some days that it holds."""
        for piece in self.pieces.values():
            if any(name[:8] in days for name in piece.names):
                yield from piece.keys

    def lines(self, piece: Piece) -> dict[str, bytes]:
        """The records of a piece as they are stored, by key. Raises `Corrupted`."""
        lines = self.block(piece.block)[piece.line : piece.line + len(piece.names)]
        if len(lines) != len(piece.names):
            raise Corrupted(f"the segment {self.key} lacks records of the experiment {piece.experiment}")
        return dict(zip(piece.keys, lines, strict=True))

    def block(self, number: int) -> list[bytes]:
        """The lines of a block. Raises `Corrupted`."""
        if number not in self._unpacked:
            while len(self._unpacked) >= BLOCKS_KEPT:
                del self._unpacked[next(iter(self._unpacked))]
            packed = self.data[self.ends[number] : self.ends[number + 1]]
            text, rest = _unpack(packed, BLOCK_BYTES_MAX, self.key)
            if rest:
                raise Corrupted(f"the segment {self.key} is damaged: its blocks are not where its head says")
            self._unpacked[number] = text.splitlines(keepends=True)
        return self._unpacked[number]

    def blocks_with(self, *alternatives: Collection[bytes]) -> Iterator[int]:
        """The numbers of the blocks with a record that contains all bytes of one alternative. Raises `Corrupted`."""
        for number in range(len(self.ends) - 1):
            if any(all(text in line for text in texts) for line in self.block(number) for texts in alternatives):
                yield number


def encode(
    key: str,
    groups: Iterable[Group],
    *,
    settled: Iterable[str] = (),
    others: Iterable[str] = (),
    beside: Iterable[str] = (),
) -> bytes:
    """Write a segment; for the arguments see `Segment`. Each line ends in its only line break."""
    experiments: list[Value] = []
    blocks: list[bytes] = []
    block = bytearray()
    for group in groups:
        keys = sorted(group.lines)
        names: list[Value] = [_short(key) for key in keys]
        experiments.append([group.experiment, len(blocks), _encode_summary(group.summary), names])
        block += b"".join(group.lines[key] for key in keys)
        if len(block) >= BLOCK_BYTES:
            blocks.append(gzip.compress(block, 6, mtime=0))
            block.clear()
    if block:
        blocks.append(gzip.compress(block, 6, mtime=0))
    head: dict[str, Value] = {
        "format": FORMAT,
        "settled": list[Value](sorted(settled)),
        "others": list[Value](sorted(others)),
        "beside": list[Value](sorted(beside)),
        "blocks": [len(block) for block in blocks],
        "experiments": experiments,
    }
    return b"".join([gzip.compress(seal_under(key, head), 6, mtime=0), *blocks])


def _short(key: str) -> str:
    name = record_name(key)
    assert name is not None, "only such records are put into segments"
    return f"{name.day}/{name.ulid}-{name.kind}"


def _encode_summary(summary: Summary | None) -> Value:
    if summary is None:
        return None
    active = time_text(summary.active) if summary.status is None else None
    return [time_text(summary.created), active, summary.status, summary.session]


def decode(data: bytes, *, key: str) -> Segment:
    """Read the head of a segment; records are unpacked and verified when they are accessed.

    Raises:
        TooNew: its head has another format.
        Corrupted: it is not a segment, or is damaged.
    """
    text, rest = _unpack(data, HEAD_BYTES_MAX, key)
    try:
        head = unseal_under(key, text)
        if (found := expect_count(head["format"])) != FORMAT:
            raise TooNew(f"the segment {key} has the format {found}; this version of replicate reads {FORMAT}")
        ends = [len(data) - len(rest)]
        for length in expect_list(head["blocks"]):
            ends.append(ends[-1] + expect_count(length))
        if ends[-1] != len(data):
            raise Corrupted(f"it has {len(data)} bytes, and should have {ends[-1]}")
        return Segment(
            key,
            _decode_pieces(expect_list(head["experiments"]), len(ends) - 1),
            frozenset(map(expect_text, expect_list(head["settled"]))),
            [other for other in map(expect_text, expect_list(head["others"])) if is_record_key(other)],
            [expect_text(other) for other in expect_list(head["beside"])],
            data,
            ends,
        )
    except (Corrupted, KeyError, ValueError, TypeError) as error:
        raise Corrupted(f"the segment {key} can't be used: {error}") from error


def _decode_pieces(experiments: Sequence[Value], blocks: int) -> dict[str, Piece]:
    pieces: dict[str, Piece] = {}
    lines = [0] * blocks
    for item in experiments:
        experiment, number, summary, names = expect_list(item)
        block = expect_count(number)
        if not isinstance(experiment, str) or not is_id(experiment) or block >= blocks or experiment in pieces:
            raise Corrupted(f"{experiment!r} in block {block} is not a valid experiment")
        texts: list[str] = expect_list(names)  # type: ignore[assignment]  # `join` raises TypeError for anything but strings
        joined = "\n".join(texts) + "\n"
        if not _NAMES.fullmatch(joined) or joined.count("\n") != len(texts):
            raise Corrupted(f"the names of the records of {experiment} are invalid")
        pieces[experiment] = Piece(experiment, _decode_summary(summary), texts, block, lines[block])
        lines[block] += len(texts)
    return pieces


def _decode_summary(value: Value) -> Summary | None:
    if value is None:
        return None
    created, active, status, session = expect_list(value)
    began = parse_time(created)
    return Summary(
        began,
        began if active is None else parse_time(active),
        None if status is None else _ENDINGS[expect_text(status)],
        None if session is None else expect_text(session),
    )


def is_whole(key: str, data: bytes) -> bool:
    """Tell whether bytes begin with the undamaged head of this segment; its blocks carry their own digests."""
    try:
        text, _ = _unpack(data, HEAD_BYTES_MAX, key)
    except Corrupted:
        return False
    return is_sealed_under(key, text)


def _unpack(data: bytes, bytes_max: int, key: str) -> tuple[bytes, bytes]:
    """The content of the first gzip member of some bytes, and the bytes after it."""
    unpacker = zlib.decompressobj(wbits=31)
    try:
        text = unpacker.decompress(data, bytes_max)
    except zlib.error as error:
        raise Corrupted(f"the segment {key} is damaged: {error}") from error
    if not unpacker.eof:
        raise Corrupted(f"the segment {key} is damaged: it ends too early, or is too large")
    return text, unpacker.unused_data
