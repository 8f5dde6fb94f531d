"""Manifests: the files of one snapshot, and where in the repository their bytes are.

Pure. A manifest may come from anyone who can write to the storage, so reading one checks everything that could lead
out of a directory or make a reader allocate without bound. `reading` fetches the bytes.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from replicate_core.errors import Corrupted, InvalidInput, TooNew
from replicate_core.format.encodings import CODECS
from replicate_core.format.keys import is_object_key
from replicate_core.format.sealed import FORMAT, expect_count, expect_list, expect_mapping, expect_text, what_is_wrong
from replicate_core.format.values import Value

PART_BYTES_MAX = 64 << 20
"""Maximum length of a part: a reader holds one whole part in memory to verify it."""

FORBIDDEN_NAMES = frozenset({".git", ".replicate"})
"""Names that are never part of a snapshot: tools run what is in `.git`, `.replicate` is ours. See `is_forbidden`."""

_SHORT_NAMES = frozenset({"git~1", "replic~1"})
"""The short names (8.3) that Windows may give them."""

PATH_LENGTH_MAX = 4096
LINKS_FOLLOWED_MAX = 40

_FIRST_CHARACTERS = frozenset(".gGrR")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Encoding:
    """How a part is stored when it is not stored as it is."""

    codec: str
    stored_bytes: int


@dataclass(frozen=True, slots=True)
class Part:
    """A run of bytes of a file, and where it is stored."""

    object: str
    """The key of the object that holds it."""
    offset: int
    """Where it begins in that object."""
    length: int
    """Its length in the file, in bytes."""
    digest: str
    """Digest of its bytes in the file, before any encoding."""
    encoding: Encoding | None = None

    @property
    def stored_bytes(self) -> int:
        """Its length in the object."""
        return self.encoding.stored_bytes if self.encoding else self.length


@dataclass(frozen=True, slots=True)
class File:
    """A file of a snapshot: its parts, in order, cover it exactly."""

    size: int
    mode: int
    """Permission bits, as in `stat`."""
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Manifest:
    """The files of one snapshot. Paths are relative, with `/` between their names."""

    files: Mapping[str, File] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
    """Target of each symbolic link, by the path of the link; it is relative to the link and stays in the snapshot."""
    directories: tuple[str, ...] = ()
    """Empty directories."""
    object_bytes: Mapping[str, int] = field(default_factory=dict)
    """Size of each object that holds a part, by key."""
    object_digests: Mapping[str, str] = field(default_factory=dict)
    """Digest of each pack among them, by key: of all its bytes, including those between its members."""

    @property
    def total_bytes(self) -> int:
        """The total size of all files."""
        return sum(file.size for file in self.files.values())


def encode(manifest: Manifest) -> dict[str, Value]:
    """A manifest as plain data, ready to be sealed."""
    objects = list(manifest.object_bytes)
    index = {key: number for number, key in enumerate(objects)}
    return {
        "format": FORMAT,
        "objects": [_encode_object(manifest, key) for key in objects],
        "files": {
            path: {
                "size": file.size,
                "mode": file.mode,
                "parts": [_encode_part(part, index[part.object]) for part in file.parts],
            }
            for path, file in manifest.files.items()
        },
        "links": dict(manifest.links),
        "directories": list(manifest.directories),
    }


def _encode_object(manifest: Manifest, key: str) -> Value:
    digest = manifest.object_digests.get(key)
    return [key, manifest.object_bytes[key], *([] if digest is None else [digest])]


def _encode_part(part: Part, number: int) -> Value:
    plain: list[Value] = [number, part.offset, part.length, part.digest]
    if part.encoding:
        plain.append({"codec": part.encoding.codec, "size": part.encoding.stored_bytes})
    return plain


def decode(document: Value, *, key: str) -> Manifest:
    """Read a manifest from plain data, checked as untrusted input.

    Raises:
        Corrupted: it is not a manifest, or it asks for something that no honest manifest asks for.
        TooNew: it was written in a later format.
    """
    try:
        return _decode(document)
    except (Corrupted, TooNew) as error:
        raise type(error)(f"the manifest {key} can't be used: {error}") from None
    except (LookupError, TypeError, ValueError) as error:
        raise Corrupted(f"the manifest {key} can't be understood: {what_is_wrong(error)}") from error


def objects_of(document: Value, *, key: str) -> frozenset[str]:
    """The objects that a manifest refers to, even if the rest of it is invalid.

    Raises:
        Corrupted: its list of objects is missing or damaged.
        TooNew: it was written in a later format.
    """
    try:
        top = _checked(document)
        return frozenset(_decode_object(expect_list(item))[0] for item in expect_list(top["objects"]))
    except (Corrupted, TooNew) as error:
        raise type(error)(f"the manifest {key} can't be used: {error}") from None
    except (LookupError, ValueError) as error:
        raise Corrupted(f"the manifest {key} can't be understood: {what_is_wrong(error)}") from error


def size_problem(manifest: Manifest, size_bytes: int | None) -> str | None:
    """Say why a manifest is not the one that a record means, by the recorded size of its files; None if it may be."""
    if size_bytes in (None, manifest.total_bytes):
        return None
    return (
        f"lists {manifest.total_bytes} bytes of files, but {size_bytes} were recorded: it belongs to another snapshot, "
        "and was copied or moved there. Restore it from a copy of the repository"
    )


def _checked(document: Value) -> dict[str, Value]:
    top = expect_mapping(document)
    if (found := expect_count(top["format"])) > FORMAT:
        raise TooNew(f"it has format {found}, and this version of replicate reads {FORMAT}: upgrade replicate")
    return top


def _decode(document: Value) -> Manifest:
    top = _checked(document)
    described = [_decode_object(expect_list(item)) for item in expect_list(top["objects"])]
    objects = [(key, size) for key, size, _ in described]
    files = {
        path: _decode_file(path, expect_mapping(item), objects) for path, item in expect_mapping(top["files"]).items()
    }
    links = {path: expect_text(target) for path, target in expect_mapping(top["links"]).items()}
    directories = tuple(expect_text(path) for path in expect_list(top["directories"]))
    if problem := tree_problem(files, links, directories):
        raise Corrupted(problem)
    digests = {key: digest for key, _, digest in described if digest is not None}
    return Manifest(files, links, directories, dict(objects), digests)


def _decode_object(plain: list[Value]) -> tuple[str, int, str | None]:
    key, size, *rest = plain
    return _object_key(key), expect_count(size), _digest(rest[0]) if rest else None


def _decode_file(path: str, item: Mapping[str, Value], objects: list[tuple[str, int]]) -> File:
    parts = tuple(_decode_part(expect_list(part), objects) for part in expect_list(item["parts"]))
    file = File(expect_count(item["size"]), expect_count(item["mode"]) & 0o777, parts)
    if file.size != sum(part.length for part in parts):
        raise Corrupted(f"the parts of {path!r} do not add up to its size, {file.size}")
    return file


def _decode_part(plain: list[Value], objects: list[tuple[str, int]]) -> Part:
    number, offset, length, digest, *rest = plain
    key, object_bytes = objects[expect_count(number)]
    encoding = None
    if rest:
        extra = expect_mapping(rest[0])
        encoding = Encoding(expect_text(extra["codec"]), expect_count(extra["size"]))
        if encoding.codec not in CODECS:
            raise TooNew(f"a part has the encoding {encoding.codec!r}, unknown to this version: upgrade replicate")
    part = Part(key, expect_count(offset), expect_count(length), _digest(digest), encoding)
    for count in (part.length, part.stored_bytes):
        if not 0 < count <= PART_BYTES_MAX:
            raise Corrupted(f"a part has {count} bytes: it must have 1 to {PART_BYTES_MAX}")
    if part.offset + part.stored_bytes > object_bytes:
        raise Corrupted(f"a part ends beyond the {object_bytes} bytes of its object {key}")
    return part


def tree_problem(files: Iterable[str], links: Mapping[str, str], directories: Iterable[str]) -> str | None:
    """Say why these paths can't be written safely below one directory; None if they can."""
    files, directories = list(files), list(directories)
    for path in (*files, *links, *directories):
        if problem := path_problem(path):
            return f"the path {path!r} {problem}"
    leaves = set(files) | set(links)
    if len(leaves) < len(files) + len(links):
        return "a path is both a file and a link"
    for path in (*files, *links, *directories):
        if blocked := next((above for above in _parents(path) if above in leaves), None):
            return f"{path!r} lies below {blocked!r}, which is not a directory"
    for path in links:
        if problem := link_problem(path, links):
            return problem
    return next((f"{path!r} is both a directory and a file" for path in directories if path in leaves), None)


def path_problem(path: str) -> str | None:
    """Say why a path can't be a path of a snapshot (`is absolute`, `contains '..'`); None if it can."""
    if not path or "\0" in path:
        return "is empty or holds a NUL character"
    if len(path) > PATH_LENGTH_MAX:
        return f"is longer than {PATH_LENGTH_MAX} characters"
    if path.startswith("/"):
        return "is absolute"
    names = path.split("/")
    bad = next((name for name in names if name in ("", ".", "..") or is_forbidden(name)), None)
    return None if bad is None else f"has the name {bad!r} in it"


def is_forbidden(name: str) -> bool:
    """Tell whether a name is `.git` or `.replicate`, or some file system would treat it as one of them.

    That includes other cases, characters that HFS+ ignores, a dot, a space or a stream at the end (Windows), short
    names, and a backslash before the name. Writers leave such names out, and readers refuse them.
    """
    if (
        name.isascii() and name[:1] not in _FIRST_CHARACTERS and "\\" not in name
    ):  # the fast path, for nearly all of many names
        return False
    visible = "".join(character for character in name if unicodedata.category(character) != "Cf")
    spelled = (part.partition(":")[0].rstrip(". ") for part in _fold(visible).split("\\"))
    return any(part in FORBIDDEN_NAMES or part in _SHORT_NAMES for part in spelled)


def link_problem(path: str, links: Mapping[str, str]) -> str | None:
    """Say why the link at `path` can't be followed safely: it leads out of the snapshot, or in a circle.

    Links on the way are followed as the operating system does, so that no pair of harmless links leads out. This is
    done twice: once as written, and once ignoring case, as some file systems do. A circle that only appears when case
    is ignored is harmless.
    """
    folded = {_fold(link): target for link, target in links.items()}
    circle = f"the link {path!r} leads in a circle"
    problem = _problem_following(path, links, links.get, circle)
    if problem is None:
        problem = _problem_following(path, links, lambda reached: folded.get(_fold(reached)), circle)
        return None if problem == circle else problem
    return problem


def _problem_following(
    path: str, links: Mapping[str, str], target_of: Callable[[str], str | None], circle: str
) -> str | None:
    pending, reached, followed = path.split("/")[::-1], list[str](), 0
    while pending:
        name = pending.pop()
        if name in ("", "."):
            continue
        if name == "..":
            if not reached:
                return f"the link {path!r} points out of the project, to {links[path]!r}"
            reached.pop()
            continue
        target = target_of("/".join((*reached, name)))
        if target is None:
            reached.append(name)
            continue
        followed += 1
        if followed > LINKS_FOLLOWED_MAX:
            return circle
        if not target or target.startswith("/") or "\0" in target or len(target) > PATH_LENGTH_MAX:
            return f"the link {path!r} points out of the project, to {target!r}"
        pending += target.split("/")[::-1]
    return None


def follow(path: str, links: Mapping[str, str]) -> str:
    """Where a path leads once every link on the way is followed.

    Args:
        path: a path in a snapshot.
        links: the links of the snapshot. None may lead out of it or in a circle: see `link_problem`.
    """
    pending, reached, followed = path.split("/")[::-1], list[str](), 0
    while pending and followed <= LINKS_FOLLOWED_MAX:
        name = pending.pop()
        target = links.get("/".join((*reached, name)))
        if target is not None:
            followed += 1
            pending += target.split("/")[::-1]
        elif name == "..":
            reached = reached[:-1]
        elif name not in ("", "."):
            reached.append(name)
    return "/".join(reached)


def _fold(path: str) -> str:
    return unicodedata.normalize("NFC", path).casefold()


def _parents(path: str) -> Iterable[str]:
    at = path.find("/")
    while at >= 0:
        yield path[:at]
        at = path.find("/", at + 1)


def digest_hex(digest: str) -> str:
    """The hexadecimal part of a digest, which is part of an object's key."""
    if not _DIGEST.fullmatch(digest):
        raise InvalidInput(f"{digest!r} is not a digest: it must be 'sha256:' and 64 hexadecimal characters")
    return digest.partition(":")[2]


def _digest(value: Value) -> str:
    digest = expect_text(value)
    if not _DIGEST.fullmatch(digest):
        raise Corrupted(f"{digest!r} is not a digest")
    return digest


def _object_key(value: Value) -> str:
    key = expect_text(value)
    if not is_object_key(key):
        raise Corrupted(f"{key!r} is not a key of an object")
    return key
