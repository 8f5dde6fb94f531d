"""Large members of containers are found wherever they stand, and hostile bytes are no more than bytes."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replicate_core.format import chunks, file_structure
from replicate_core.format.chunks import GRID_BYTES, MEMBER_BYTES, cut
from replicate_core.format.digest import digest
from replicate_core.format.file_structure import members

LONGEST = 32 << 20
"""The most that may be read at once."""

WINDOW = 128 << 10
"""So much may be asked for at the end of a file, however little is left there."""

RANDOM = np.random.default_rng(3)
WEIGHTS = RANDOM.standard_normal(600_000).astype(np.float32)  # 2.3 MiB
BIAS = RANDOM.standard_normal(20_000).astype(np.float32)  # 78 KiB


class Watched:
    """Reads as `os.pread` does, and asks that nobody reads by the word of a container."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.total = 0

    def __call__(self, offset: int, length: int) -> bytes:
        assert 0 <= offset <= len(self.data), f"the offset {offset} is beyond the file"
        assert 0 <= length <= LONGEST, f"{length} bytes are too many"
        assert offset + length <= len(self.data) + WINDOW, f"{length} bytes at {offset} are beyond the file"
        self.total += length
        return self.data[offset : offset + length]


def found(data: bytes, *, at_least: int = MEMBER_BYTES) -> list[bytes]:
    """The bytes of the members of a container."""
    return [data[start:end] for start, end in members(Watched(data), len(data), at_least=at_least)]


def pieces(data: bytes) -> list[bytes]:
    """A file, cut; the pieces are the file again."""
    cuts = list(cut(Watched(data), len(data)))
    assert all(length > 0 for _, length in cuts)
    cut_up = [data[offset : offset + length] for offset, length in cuts]
    assert [offset for offset, _ in cuts] == [sum(map(len, cut_up[:number])) for number in range(len(cut_up))]
    assert b"".join(cut_up) == data
    return cut_up


def zipped(contents: dict[str, bytes], *, comment: bytes = b"", zip64: bool = False, limit: int | None = None) -> bytes:
    """A zip archive.

    Args:
        contents: its members.
        comment: what stands at its end.
        zip64: whether the headers of the members have the fields for large ones.
        limit: the central directory takes what is beyond it for large.
    """
    stream = io.BytesIO()
    with pytest.MonkeyPatch.context() as patch:
        if limit is not None:
            patch.setattr(zipfile, "ZIP64_LIMIT", limit)
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
            archive.comment = comment
            for name, data in contents.items():
                with archive.open(zipfile.ZipInfo(name), "w", force_zip64=zip64 or limit is not None) as member:
                    member.write(data)
    return stream.getvalue()


def safetensors(tensors: dict[str, bytes], metadata: dict[str, str] | None = None) -> bytes:
    header: dict[str, object] = {} if metadata is None else {"__metadata__": metadata}
    at = 0
    for name, data in tensors.items():
        header[name] = {"dtype": "U8", "shape": [len(data)], "data_offsets": [at, at + len(data)]}
        at += len(data)
    return framed(json.dumps(header).encode()) + b"".join(tensors.values())


def framed(header: bytes, length: int | None = None) -> bytes:
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header) if length is None else length) + header


# Honest containers.


@pytest.mark.parametrize(
    "more",
    [{}, {"comment": b"made by hand"}, {"comment": b"#" * 0xFFFF}, {"zip64": True}, {"limit": 1000}, {"limit": -1}],
    ids=["plain", "comment", "long comment", "zip64 headers", "zip64 directory", "zip64 everywhere"],
)
def test_large_members_of_a_zip_are_found(more) -> None:
    contents = {"a/data.pkl": b"small", "a/data/0": WEIGHTS.tobytes(), "a/version": b"3\n", "a/data/1": BIAS.tobytes()}
    assert found(zipped(contents, **more)) == [WEIGHTS.tobytes(), BIAS.tobytes()]


def test_what_a_zip_compresses_is_found_as_it_is_stored() -> None:
    stream = io.BytesIO()
    np.savez_compressed(stream, weights=WEIGHTS)
    (member,) = found(stream.getvalue())
    assert 0.5 * WEIGHTS.nbytes < len(member) < WEIGHTS.nbytes


def test_a_member_is_large_from_64_kib() -> None:
    contents = {"less": os.urandom(MEMBER_BYTES - 1), "enough": os.urandom(MEMBER_BYTES)}
    assert found(zipped(contents)) == [contents["enough"]]
    assert found(safetensors(contents)) == [contents["enough"]]


def test_all_of_several_zips_one_after_the_other_are_found() -> None:
    archives = [zipped({"0": bytes([number]) * MEMBER_BYTES, "1": b"x"}, limit=-1) for number in range(4)]
    assert sorted(found(b"".join(archives))) == [bytes([number]) * MEMBER_BYTES for number in range(4)]


def test_tensors_of_safetensors_are_found() -> None:
    tensors = {"bias": BIAS.tobytes(), "scale": b"1234", "weight": WEIGHTS.tobytes()}
    assert found(safetensors(tensors)) == [BIAS.tobytes(), WEIGHTS.tobytes()]
    assert found(safetensors(tensors, {"format": "pt"})) == [BIAS.tobytes(), WEIGHTS.tobytes()]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("kind", [bytes, bytearray, "array", "text"])
def test_large_values_of_a_pickle_are_found(protocol, kind) -> None:
    values = {
        bytes: os.urandom(MEMBER_BYTES + 1),
        bytearray: bytearray(os.urandom(MEMBER_BYTES + 1)),
        "array": WEIGHTS,
        "text": "näh" * MEMBER_BYTES,
    }
    data = pickle.dumps({"history": [0.5] * 3, "value": values[kind]}, protocol)
    (member,) = found(data)
    if protocol >= 3 and kind == "array":
        assert member == WEIGHTS.tobytes()
    assert len(data) - len(member) < 500


def test_a_pickle_with_one_value_after_the_other() -> None:
    state = {"text": "x" * 1000, "weights": WEIGHTS, "long": 1 << 70_000, "names": list("abc"), "bias": BIAS}
    assert found(pickle.dumps(state, 4)) == [WEIGHTS.tobytes(), BIAS.tobytes()]


def test_a_value_of_a_pickle_that_is_read_may_lie_across_two_windows() -> None:
    state = {"strings": [bytes([number]) * 50_000 for number in range(9)], "weights": WEIGHTS}
    assert found(pickle.dumps(state, 4)) == [WEIGHTS.tobytes()]


def test_a_pickle_that_is_cut_short_keeps_what_was_found_until_then() -> None:
    data = pickle.dumps([WEIGHTS, BIAS], 5)
    assert found(data[: -BIAS.nbytes // 2]) == [WEIGHTS.tobytes()]


def test_of_a_pickle_with_very_many_values_only_the_beginning_is_looked_at(monkeypatch) -> None:
    monkeypatch.setattr(file_structure, "_OPCODES_MAX", 1000)
    assert found(pickle.dumps([WEIGHTS, [None] * 2000, BIAS], 4)) == [WEIGHTS.tobytes()]


@pytest.mark.parametrize(
    "data",
    [
        b"", b"P", b"PK\3\4", b"\x80", b"\x80\4", b"12345678{", b"\x89HDF\r\n\x1a\n", bytes(MEMBER_BYTES), b"\x80\1.",
        b"\x80\6.",
    ],
    ids=repr,
)  # fmt: skip
def test_what_is_no_container_has_no_members(data) -> None:
    assert found(data, at_least=1) == []
    assert found(data + bytes(2 * MEMBER_BYTES)) == []


# What did not change is cut into the same chunks, whatever grew before it.


def torch_like(history: bytes) -> bytes:
    return zipped({"m/data.pkl": b"x" + history, "m/data/0": WEIGHTS.tobytes(), "m/data/1": BIAS.tobytes()})


def torch_like_with_step(history: bytes) -> bytes:
    stem = f"epoch-{len(history)}"
    return zipped({f"{stem}/data.pkl": b"", f"{stem}/0": WEIGHTS.tobytes(), f"{stem}/1": BIAS.tobytes()}, limit=-1)


def numpy_archive(history: bytes) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, history=np.frombuffer(history, np.uint8), weights=WEIGHTS, bias=BIAS)
    return stream.getvalue()


def distributed(history: bytes) -> bytes:
    return b"".join(zipped({"data.pkl": item}) for item in (b"x" + history, WEIGHTS.tobytes(), BIAS.tobytes()))


def safetensors_with_metadata(history: bytes) -> bytes:
    return safetensors({"w": WEIGHTS.tobytes(), "b": BIAS.tobytes()}, {"history": "y" * len(history)})


def pickled(protocol: int) -> Callable[[bytes], bytes]:
    return lambda history: pickle.dumps({"history": [*map(float, history)], "w": WEIGHTS, "b": BIAS}, protocol)


def pickled_bytearrays(history: bytes) -> bytes:
    return pickle.dumps([list(history), bytearray(WEIGHTS.tobytes()), bytearray(BIAS.tobytes())], 5)


BUILDERS = [
    torch_like, torch_like_with_step, numpy_archive, distributed, safetensors_with_metadata, pickled_bytearrays,
    *map(pickled, (2, 3, 4, 5)),
]  # fmt: skip


@pytest.mark.parametrize(
    "build", BUILDERS, ids=lambda build: getattr(build, "__name__", "").replace("<lambda>", "pickled")
)
@settings(max_examples=5)
@given(history=st.integers(0, 6000).map(RANDOM.bytes))
def test_members_behind_one_that_grew_are_cut_into_the_same_chunks(build, history) -> None:
    before = {digest(piece) for piece in pieces(build(b""))}
    grown = pieces(build(history))
    new = [piece for piece in grown if digest(piece) not in before]
    assert sum(map(len, new)) <= 10 * len(history) + 3000
    assert sum(map(len, grown)) > WEIGHTS.nbytes + BIAS.nbytes


@pytest.mark.parametrize("build", [torch_like, distributed, safetensors_with_metadata, pickled(4)])
def test_the_grid_starts_anew_at_a_large_member(build) -> None:
    data = WEIGHTS.tobytes()
    wanted = [data[start : start + GRID_BYTES] for start in range(0, len(data), GRID_BYTES)]
    assert {*wanted, BIAS.tobytes()} <= set(pieces(build(b"history")))


# Truncated and damaged containers.


@pytest.fixture
def everything_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Members of 16 bytes are large: containers of some hundred bytes are as good as real ones."""
    make_everything_large(monkeypatch)


def make_everything_large(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(chunks, "MEMBER_BYTES", 16)
    patch.setattr(file_structure, "_SKIPPED_BYTES", 16)


TINY = {
    "zip": zipped({"a": b"first", "b": bytes(40), "c": bytes(range(30))}, comment=b"!"),
    "zip64": zipped({"a": b"first", "b": bytes(40)}, limit=-1),
    "several zips": zipped({"a": bytes(20)}) + zipped({"b": bytes(range(50))}, limit=-1),
    "safetensors": safetensors({"w": bytes(range(40)), "b": bytes(20)}, {"format": "pt"}),
    "pickle 2": pickle.dumps([1.5, "x" * 40, np.arange(10), 1 << 99, {"a": (None, True)}], 2),
    "pickle 5": pickle.dumps([1.5, "x" * 40, np.arange(10), bytearray(99), -(1 << 299), b"y" * 300], 5),
}


@pytest.mark.usefixtures("everything_is_large")
@pytest.mark.parametrize("kind", TINY)
class TestDamage:
    def test_the_whole_has_members(self, kind) -> None:
        assert found(TINY[kind], at_least=16)
        assert len(pieces(TINY[kind])) > 1

    def test_a_container_that_is_cut_short_anywhere_is_taken(self, kind) -> None:
        for length in range(len(TINY[kind])):
            pieces(TINY[kind][:length])
            pieces(TINY[kind][length:])

    def test_a_container_with_any_bit_flipped_is_taken(self, kind) -> None:
        for bit in range(8 * len(TINY[kind])):
            damaged = bytearray(TINY[kind])
            damaged[bit // 8] ^= 1 << bit % 8
            pieces(bytes(damaged))

    def test_a_container_with_any_field_at_its_limit_is_taken(self, kind) -> None:
        for width in (1, 2, 4, 8):
            for at in range(len(TINY[kind]) - width):
                for filler in (b"\0", b"\xff"):
                    pieces(TINY[kind][:at] + filler * width + TINY[kind][at + width :])

    def test_a_container_with_several_bytes_wrong_is_taken(self, kind) -> None:
        chance = random.Random(5)
        for _ in range(1500):
            damaged = bytearray(TINY[kind])
            for _ in range(chance.randint(2, 8)):
                damaged[chance.randrange(len(damaged))] = chance.choice(
                    (0, 1, 4, 0x7F, 0x80, 0xFF, chance.randrange(256))
                )
            pieces(bytes(damaged))


@settings(max_examples=300)
@given(
    st.sampled_from([b"PK\3\4", b"\x80\2", b"\x80\4", b"\x80\5", b"\x20\0\0\0\0\0\0\0{"]),
    st.lists(
        st.binary(max_size=40) | st.sampled_from([b"PK\1\2", b"PK\5\6", b"PK\6\6", b"PK\6\7", bytes(18)]), max_size=9
    ),
)
def test_anything_that_begins_like_a_container_is_taken(head, rest) -> None:
    with pytest.MonkeyPatch.context() as patch:
        make_everything_large(patch)
        pieces(head + b"".join(rest))


# Containers made to hurt.

END = struct.Struct("<4s4H2LH")
END64 = struct.Struct("<4sQ2H2L4Q")
LOCATOR64 = struct.Struct("<4sLQL")
LOCAL = b"PK\3\4" + bytes(26)
MAX32, MAX64 = (1 << 32) - 1, (1 << 64) - 1


def entry(
    stored: int = MEMBER_BYTES, full: int = MEMBER_BYTES, local: int = 0, extra: bytes = b"", name: bytes = b""
) -> bytes:
    fixed = struct.pack(
        "<4s6H3L5H2L", b"PK\1\2", 0, 0, 0, 0, 0, 0, 0, stored, full, len(name), len(extra), 0, 0, 0, 0, local
    )
    return fixed + name + extra


def zip64_field(*values: int) -> bytes:
    return struct.pack(f"<HH{len(values)}Q", 1, 8 * len(values), *values)


def archive(
    *entries: bytes, body: bytes = LOCAL + bytes(MEMBER_BYTES), directory_bytes=None, directory_offset=None
) -> bytes:
    directory = b"".join(entries)
    size = len(directory) if directory_bytes is None else directory_bytes
    offset = len(body) if directory_offset is None else directory_offset
    return body + directory + END.pack(b"PK\5\6", 0, 0, 0, 0, size, offset, 0)


def archive64(directory: bytes, directory_bytes: int, directory_offset: int) -> bytes:
    body = LOCAL + bytes(MEMBER_BYTES)
    end64 = END64.pack(b"PK\6\6", 44, 0, 0, 0, 0, 0, 0, directory_bytes, directory_offset)
    tail = LOCATOR64.pack(b"PK\6\7", 0, 0, 1) + END.pack(b"PK\5\6", 0, 0, 0, 0, MAX32, MAX32, 0)
    return body + directory + end64 + tail


def test_the_archives_made_here_are_as_zip_wants_them() -> None:
    assert found(archive(entry(name=b"a"))) == [bytes(MEMBER_BYTES)]
    assert found(archive64(entry(), 46, len(LOCAL) + MEMBER_BYTES)) == [bytes(MEMBER_BYTES)]
    large = entry(MAX32, MAX32, MAX32, zip64_field(MEMBER_BYTES, MEMBER_BYTES, 0))
    assert found(archive(large)) == [bytes(MEMBER_BYTES)]
    other = struct.pack("<HH4s", 0x5455, 4, b"time")
    assert found(archive(entry(MAX32, extra=other + zip64_field(MEMBER_BYTES)))) == [bytes(MEMBER_BYTES)]
    assert found(archive(entry(local=MAX32, extra=zip64_field(0)))) == [bytes(MEMBER_BYTES)]


HOSTILE_ZIPS = {
    "directory of 4 GiB": archive(entry(), directory_bytes=MAX32),
    "directory at 4 GiB": archive(entry(), directory_offset=MAX32),
    "zip64 directory of 2**64": archive64(entry(), MAX64, 0),
    "zip64 directory at 2**64": archive64(entry(), 46, MAX64),
    "zip64 locator without its record": archive(entry())[:-22] + LOCATOR64.pack(b"PK\6\7", 0, 0, 1) + archive()[-22:],
    "no entry": archive(b"PK\1\1" + bytes(42)),
    "member at 4 GiB": archive(entry(local=MAX32 - 1)),
    "member beyond the file": archive(entry(local=1 << 20)),
    "member at 2**64": archive(entry(local=MAX32, extra=zip64_field(MAX64))),
    "member at 2**63": archive(entry(local=MAX32, extra=zip64_field((1 << 63) - 1))),
    "member of 2**64 bytes": archive(entry(MAX32, extra=zip64_field(MAX64))),
    "member where none is": archive(entry(local=5)),
    "large without its field": archive(entry(MAX32)),
    "large with a field of nothing": archive(entry(MAX32, extra=zip64_field())),
    "large with too few values": archive(entry(MAX32, MAX32, MAX32, zip64_field(1 << 20, 1 << 20))),
    "large with a field cut short": archive(entry(MAX32, extra=struct.pack("<HH", 1, 8))),
    "large with an odd field": archive(entry(MAX32, extra=struct.pack("<HH3s", 1, 3, b"abc"))),
    "large with a stub of a field": archive(entry(MAX32, extra=b"\1\0\0")),
    "name longer than the directory": archive(entry()[:28] + b"\xff\xff" + entry()[30:]),
    "directory that is its own archive": archive(entry(), body=LOCAL, directory_bytes=0),
    "end record only": b"PK\3\4" + END.pack(b"PK\5\6", 0, 0, 0, 0, 0, 0, 0) * 4000,
    "end record cut short": b"PK\3\4" + bytes(MEMBER_BYTES) + b"PK\5\6",
    "locator at the very beginning": b"PK\3\4" + bytes(8) + END.pack(b"PK\5\6", 0, 0, 0, 0, 0, 0, 0) + bytes(60_000),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE_ZIPS)
def test_a_zip_that_lies_is_cut_like_any_file(name) -> None:
    data = HOSTILE_ZIPS[name]
    assert b"".join(pieces(data)) == data
    assert sum(map(len, found(data))) <= len(data)


def test_nothing_is_read_where_a_file_on_disk_has_no_bytes(tmp_path: Path) -> None:
    for name, data in HOSTILE_ZIPS.items():
        (tmp_path / "file").write_bytes(data)
        descriptor = os.open(tmp_path / "file", os.O_RDONLY)
        try:
            cuts = list(cut(lambda offset, length: os.pread(descriptor, length, offset), len(data)))  # noqa: B023
        finally:
            os.close(descriptor)
        assert sum(length for _, length in cuts) == len(data), name


def peak_bytes(action: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["directory of 4 GiB", "zip64 directory of 2**64", "member of 2**64 bytes"])
def test_what_a_zip_claims_is_not_allocated(name) -> None:
    assert peak_bytes(lambda: pieces(HOSTILE_ZIPS[name])) < 4 << 20


def test_a_directory_of_very_many_members_that_are_all_the_same_one() -> None:
    data = archive(entry() * 20_000)
    assert peak_bytes(lambda: members(Watched(data), len(data), at_least=MEMBER_BYTES)) < 12 << 20
    assert len(pieces(data)) == 3  # a header, the member, and the directory on its grid


def test_a_directory_larger_than_32_mib_is_not_read() -> None:
    data = archive(bytes(LONGEST + 1))
    assert peak_bytes(lambda: members(Watched(data), len(data), at_least=MEMBER_BYTES)) < 1 << 20


def test_a_directory_of_very_many_large_members_takes_no_longer_for_each(monkeypatch) -> None:
    copied = 0

    class Counted(bytes):
        def __getitem__(self, key):
            nonlocal copied
            data = super().__getitem__(key)
            if isinstance(key, slice):
                copied += len(data)
                data = Counted(data)
            return data

    data = archive(entry(MAX32, extra=zip64_field(MEMBER_BYTES)) * 2000)
    members(lambda offset, length: Counted(data[offset : offset + length]), len(data), at_least=MEMBER_BYTES)
    assert copied < 4 * len(data)


HOSTILE_SAFETENSORS = {
    "header of 2**63 bytes": framed(b"{", 1 << 63),
    "header of 2**64 bytes": framed(b"{", MAX64),
    "header longer than the file": framed(b"{}", 1 << 20),
    "no header": framed(b"{", 0),
    "no JSON": framed(b"{this is not JSON"),
    "no UTF-8": framed(b'{"\xff\xfe": 1}'),
    "UTF-16": framed('{"a": 1}'.encode("utf-16-le")),
    "100,000 deep": framed(b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    "100,000 lists": framed(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "endless number": framed(b'{"a": {"data_offsets": [0, ' + b"9" * 5000 + b"]}}"),
    **{
        f"offsets {offsets}": framed(json.dumps({"a": {"data_offsets": offsets}}).encode())
        for offsets in (
            None, 1, [], [0], [0, 1, 2], [0, "100000"], ["0", 100_000], [-100_000, 100_000], [100_000, 0], [0, 1 << 70],
            [0.0, 1e5], [float("nan"), float("inf")], [None, None], {"0": 1, "1": 2}, [0, 1 << 62], [-(1 << 62), 5],
        )
    },
    **{f"tensor {tensor}": framed(b'{"a": ' + tensor.encode() + b"}") for tensor in ("1", "[]", "null", '"x"', "{}")},
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE_SAFETENSORS)
def test_safetensors_that_lie_are_cut_like_any_file(name) -> None:
    data = HOSTILE_SAFETENSORS[name] + bytes(3 * MEMBER_BYTES)
    assert found(data) == []
    assert len(pieces(data)) == -(-len(data) // GRID_BYTES)


def test_what_safetensors_claim_is_not_allocated() -> None:
    for name in ("header of 2**63 bytes", "header longer than the file"):
        data = HOSTILE_SAFETENSORS[name] + bytes(MEMBER_BYTES)
        assert peak_bytes(lambda: members(Watched(data), len(data), at_least=1)) < 1 << 20  # noqa: B023
    data = framed(b"{", LONGEST + 1) + bytes(LONGEST + 1)
    assert peak_bytes(lambda: members(Watched(data), len(data), at_least=1)) < 1 << 20


def test_tensors_that_overlap_are_cut_once() -> None:
    header = {str(number): {"data_offsets": [number, 3 * MEMBER_BYTES]} for number in range(100)}
    assert len(pieces(framed(json.dumps(header).encode()) + bytes(3 * MEMBER_BYTES))) == 2


HOSTILE_PICKLES = {
    "BINBYTES8 of 2**60": b"\x8e" + struct.pack("<Q", 1 << 60),
    "BINBYTES8 of 2**64": b"\x8e" + struct.pack("<Q", MAX64),
    "BYTEARRAY8 of 2**60": b"\x96" + struct.pack("<Q", 1 << 60),
    "BINUNICODE8 of 2**60": b"\x8d" + struct.pack("<Q", 1 << 60),
    "BINBYTES of 4 GiB": b"B" + struct.pack("<L", MAX32),
    "BINUNICODE of 4 GiB": b"X" + struct.pack("<L", MAX32),
    "BINSTRING of 2 GiB": b"T" + struct.pack("<l", (1 << 31) - 1),
    "BINSTRING of less than nothing": b"T" + struct.pack("<l", -1),
    "LONG4 of 2 GiB": b"\x8b" + struct.pack("<l", (1 << 31) - 1),
    "LONG4 of less than nothing": b"\x8b" + struct.pack("<l", -(1 << 31)),
    "FRAME of 2**64": b"\x95" + struct.pack("<Q", MAX64),
    "a line without an end": b"c" + b"a" * (4 * MEMBER_BYTES),
    "a number without an end": b"I" + b"9" * 60_000 + b"\n",
    "no opcode": b"\xff",
    "no UTF-8": b"X\4\0\0\0\xff\xfe\xfd\xfc",
    "no quotes": b"Sabc\n",
    "20,000 deep": b"]" * 20_000,
    "20,000 tuples": b"N" + b"\x85" * 20_000 + b".",
    "an unknown memo": b"h\xffj\xff\xff\xff\xff.",
    "nothing": b"",
}


@pytest.mark.parametrize("name", HOSTILE_PICKLES)
@pytest.mark.parametrize("protocol", [2, 5])
def test_a_pickle_that_lies_is_cut_like_any_file(name, protocol) -> None:
    data = b"\x80" + bytes([protocol]) + HOSTILE_PICKLES[name] + b"\xff" * (2 * MEMBER_BYTES)
    assert peak_bytes(lambda: members(Watched(data), len(data), at_least=1)) < 2 << 20
    assert len(pieces(data)) == 1


def test_a_long_that_is_large_is_not_computed() -> None:
    data = b"\x80\4\x8b" + struct.pack("<l", 4 << 20) + b"\x7f" * (4 << 20) + b"."
    assert peak_bytes(lambda: members(Watched(data), len(data), at_least=MEMBER_BYTES)) < 1 << 20
    assert found(data) == [b"\x7f" * (4 << 20)]


def test_a_pickle_with_endless_opcodes_is_given_up(monkeypatch) -> None:
    monkeypatch.setattr(file_structure, "_OPCODES_MAX", 5000)
    data = b"\x80\4" + b"N" * (8 << 20)
    read = Watched(data)
    assert members(read, len(data), at_least=MEMBER_BYTES) == []
    assert read.total < 1 << 20


def test_nothing_in_a_pickle_is_carried_out(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "carried out"),)

    for protocol in (2, 3, 4, 5):
        assert found(pickle.dumps([Evil(), WEIGHTS], protocol))
    assert not (tmp_path / "carried out").exists()
