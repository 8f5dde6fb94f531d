from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from replicate_core.errors import Corrupted, InvalidInput, TooNew
from replicate_core.format.digest import digest
from replicate_core.format.manifest import (
    LINKS_FOLLOWED_MAX,
    PART_BYTES_MAX,
    Encoding,
    File,
    Manifest,
    Part,
    decode,
    digest_hex,
    encode,
    is_forbidden,
    link_problem,
    objects_of,
    path_problem,
    size_problem,
    tree_problem,
)
from replicate_core.format.sealed import COUNT_MAX, FORMAT, seal, unseal
from replicate_core.format.values import Value

DIGEST = digest(b"weights")
OBJECT = f"data/ab/{'ab' * 32}-7.tar"
OBJECT_BYTES = 1000
KEY = "manifests/01J.json"

NAMES = st.text(min_size=1, max_size=4).filter(
    lambda name: not {"/", "\0"} & set(name) and name not in {".", ".."} and path_problem(name) is None
)
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
OBJECTS = st.builds(
    "data/{}/{}-{}{}".format,
    st.text("0123456789abcdef", min_size=2, max_size=2),
    st.text("0123456789abcdef", min_size=64, max_size=64),
    st.text("0123456789abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=8),
    st.sampled_from(["", ".tar", ".py", ".safetensors", ".tar.gz"]),
)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    objects = draw(st.dictionaries(OBJECTS, st.integers(1, COUNT_MAX), min_size=1, max_size=3))
    leaves: list[str] = []
    for path in draw(st.lists(PATHS, max_size=6, unique=True)):
        if not any(f"{path}/".startswith(f"{other}/") or f"{other}/".startswith(f"{path}/") for other in leaves):
            leaves.append(path)
    kinds = draw(st.lists(st.sampled_from(["file", "link", "directory"]), min_size=6, max_size=6))
    of_kind = {kind: [path for path, its in zip(leaves, kinds, strict=False) if its == kind] for kind in set(kinds)}
    return Manifest(
        {path: draw(files(objects)) for path in of_kind.get("file", ())},
        {
            path: draw(NAMES.filter(lambda name: name not in leaves))
            for path in of_kind.get("link", ())
            if "/" not in path
        },
        tuple(of_kind.get("directory", ())),
        objects,
    )


@st.composite
def files(draw: st.DrawFn, objects: Mapping[str, int]) -> File:
    found = draw(st.lists(parts(objects), max_size=3))
    return File(sum(part.length for part in found), draw(st.integers(0, 0o777)), tuple(found))


@st.composite
def parts(draw: st.DrawFn, objects: Mapping[str, int]) -> Part:
    key = draw(st.sampled_from(sorted(objects)))
    stored_bytes = draw(st.integers(1, min(objects[key], PART_BYTES_MAX)))
    offset = draw(st.integers(0, objects[key] - stored_bytes))
    encoded = draw(st.booleans())
    return Part(
        key,
        offset,
        draw(st.integers(1, PART_BYTES_MAX)) if encoded else stored_bytes,
        digest(draw(st.binary(max_size=4))),
        Encoding("gzip", stored_bytes) if encoded else None,
    )


def document(**changes: Value) -> dict[str, Value]:
    """A manifest with nothing wrong, as plain data, but for the changes."""
    return {
        "format": FORMAT,
        "objects": [[OBJECT, OBJECT_BYTES]],
        "files": {"model.pt": {"size": 30, "mode": 0o644, "parts": [[0, 10, 20, DIGEST], [0, 40, 10, DIGEST]]}},
        "links": {"latest": "model.pt"},
        "directories": ["logs"],
    } | changes


def one_part(*part: Value, size: Value = 10) -> dict[str, Value]:
    """A manifest of one file that has one part."""
    return document(files={"model.pt": {"size": size, "mode": 0o644, "parts": [list(part)]}})


def refused(changed: Value) -> str:
    with pytest.raises(Corrupted, match=f"the manifest {KEY} can't be ") as error:
        decode(changed, key=KEY)
    return str(error.value)


# Writing and reading.


@given(manifests())
def test_a_manifest_comes_back_as_it_was(manifest):
    assert decode(unseal(seal(encode(manifest)), key=KEY), key=KEY) == manifest


def test_an_empty_manifest_comes_back_as_it_was():
    assert decode(encode(Manifest()), key=KEY) == Manifest()


def test_a_manifest_with_nothing_wrong_is_read():
    parts = (Part(OBJECT, 10, 20, DIGEST), Part(OBJECT, 40, 10, DIGEST))
    assert decode(document(), key=KEY) == Manifest(
        {"model.pt": File(30, 0o644, parts)}, {"latest": "model.pt"}, ("logs",), {OBJECT: OBJECT_BYTES}
    )


def test_the_size_of_a_snapshot_is_that_of_its_files():
    assert Manifest({"a": File(1, 0o644, ()), "b": File(2, 0o644, ())}).total_bytes == 3
    assert Manifest().total_bytes == 0


def test_an_encoded_part_takes_its_encoded_size_in_the_object():
    assert Part(OBJECT, 0, 20, DIGEST).stored_bytes == 20
    assert Part(OBJECT, 0, 20, DIGEST, Encoding("gzip", 8)).stored_bytes == 8


def test_a_file_is_never_given_the_rights_of_its_owner():
    changed = document(files={"tool": {"size": 0, "mode": 0o104755, "parts": []}})
    assert decode(changed, key=KEY).files["tool"].mode == 0o755


# A manifest that a stranger wrote.


@given(data=st.data())
def test_no_document_at_all_fails_in_another_way(anything, data):
    with pytest.raises((Corrupted, TooNew)):
        decode(data.draw(anything), key=KEY)


@settings(max_examples=400)
@given(data=st.data())
def test_a_manifest_that_is_wrong_somewhere_is_refused_in_one_way_or_safe(damaged, data):
    start = document()
    start["files"]["code/train.py"] = {
        "size": 9,
        "mode": 0o644,
        "parts": [[0, 0, 9, DIGEST, {"codec": "gzip", "size": 5}]],
    }
    try:
        manifest = decode(data.draw(damaged(start)), key=KEY)
    except (Corrupted, TooNew):
        return
    assert tree_problem(manifest.files, manifest.links, manifest.directories) is None
    assert all(file.size == sum(part.length for part in file.parts) for file in manifest.files.values())
    assert decode(encode(manifest), key=KEY) == manifest


@pytest.mark.parametrize("field", sorted(document()))
@pytest.mark.parametrize("value", [None, True, -1, 1.5, "text", [None], [[]], {"a": None}, {"a": {}}])
def test_every_field_must_have_its_type(field, value):
    assert KEY in refused(document(**{field: value}))


@pytest.mark.parametrize("field", sorted(document()))
def test_every_field_must_be_there(field):
    changed = document()
    del changed[field]
    assert field in refused(changed)


@pytest.mark.parametrize("field", ["size", "mode", "parts"])
def test_every_field_of_a_file_must_be_there(field):
    changed = document()
    del changed["files"]["model.pt"][field]
    assert field in refused(changed)


def test_a_later_format_asks_for_an_upgrade():
    with pytest.raises(TooNew, match=f"{KEY}.*has format 2.*upgrade replicate"):
        decode({"format": 2, "trees": []}, key=KEY)


def test_an_unknown_encoding_asks_for_an_upgrade():
    with pytest.raises(TooNew, match=f"{KEY}.*the encoding 'zstd'.*upgrade replicate"):
        decode(one_part(0, 0, 10, DIGEST, {"codec": "zstd", "size": 5}), key=KEY)


@pytest.mark.parametrize("size", [-1, 29, 31, COUNT_MAX, COUNT_MAX + 1, 30.0])
def test_the_parts_of_a_file_must_add_up_to_its_size(size):
    changed = document()
    changed["files"]["model.pt"]["size"] = size
    assert "add up" in refused(changed) or "not a whole number" in refused(changed)


@pytest.mark.parametrize(("offset", "length"), [(OBJECT_BYTES - 9, 10), (OBJECT_BYTES, 10), (COUNT_MAX, 10)])
def test_a_part_must_lie_in_its_object(offset, length):
    assert "ends beyond" in refused(one_part(0, offset, length, DIGEST))


def test_a_part_may_end_where_its_object_ends():
    assert decode(one_part(0, OBJECT_BYTES - 10, 10, DIGEST), key=KEY).total_bytes == 10


def test_an_encoded_part_must_lie_in_its_object_too():
    assert "ends beyond" in refused(one_part(0, 0, 10, DIGEST, {"codec": "gzip", "size": OBJECT_BYTES + 1}))


@pytest.mark.parametrize("number", [1, 2, COUNT_MAX, -1, "0", None])
def test_a_part_must_name_an_object_of_the_manifest(number):
    assert refused(one_part(number, 0, 10, DIGEST))


@pytest.mark.parametrize("length", [0, PART_BYTES_MAX + 1, COUNT_MAX])
def test_a_part_must_be_of_a_length_that_can_be_held_in_memory(length):
    changed = one_part(0, 0, length, DIGEST, size=length) | {"objects": [[OBJECT, COUNT_MAX]]}
    assert f"a part has {length} bytes" in refused(changed)


def test_a_part_must_be_of_a_length_that_can_be_held_in_memory_when_it_is_encoded_too():
    changed = one_part(0, 0, 10, DIGEST, {"codec": "gzip", "size": 2 * PART_BYTES_MAX})
    assert refused(changed | {"objects": [[OBJECT, COUNT_MAX]]})


def test_the_longest_part_is_taken():
    changed = one_part(0, 0, PART_BYTES_MAX, DIGEST, size=PART_BYTES_MAX) | {"objects": [[OBJECT, COUNT_MAX]]}
    assert decode(changed, key=KEY).total_bytes == PART_BYTES_MAX


@pytest.mark.parametrize("part", [[], [0], [0, 0, 10], [0, 0, 10, DIGEST, "gzip"], [0, 0, 10, DIGEST, {}], "part", {}])
def test_a_part_must_say_where_it_lies(part):
    assert refused(document(files={"model.pt": {"size": 10, "mode": 0o644, "parts": [part]}}))


@pytest.mark.parametrize(
    "text",
    ["", "sha256:", DIGEST[:-1], DIGEST + "0", DIGEST + "\n", DIGEST.upper(), "md5:" + "0" * 32, 7, None],
)
def test_a_part_must_have_a_digest(text):
    assert refused(one_part(0, 0, 10, text))


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/etc/passwd",
        "../" + OBJECT,
        OBJECT.replace("data/", "data/../"),
        OBJECT.replace("data/", "records/"),
        OBJECT.replace("-7", ""),
        OBJECT + "/..",
        OBJECT + "\n",
        OBJECT.upper(),
        f"data/ab/{'ab' * 31}-7.tar",
        7,
        None,
    ],
)
def test_an_object_must_have_the_key_of_an_object(key):
    assert refused(document(objects=[[key, OBJECT_BYTES]]))


@pytest.mark.parametrize("item", [[], [OBJECT], [OBJECT, 1, 2], [OBJECT, -1], [OBJECT, "1"], OBJECT, None])
def test_an_object_must_have_a_size(item):
    assert refused(document(objects=[item]))


# Paths.

BAD_PATHS = {
    "": "is empty",
    "a\0b": "NUL",
    "/etc/passwd": "is absolute",
    "//server/share": "is absolute",
    "..": "has the name '..' in it",
    "../a": "has the name '..' in it",
    "a/../../b": "has the name '..' in it",
    "a/..": "has the name '..' in it",
    ".": "has the name '.' in it",
    "a/./b": "has the name '.' in it",
    "a//b": "has the name '' in it",
    "a/": "has the name '' in it",
}


@pytest.mark.parametrize(("path", "problem"), BAD_PATHS.items())
def test_a_path_that_could_lead_out_is_refused(path, problem):
    assert problem in path_problem(path)
    assert problem in refused(document(files={path: {"size": 0, "mode": 0o644, "parts": []}}))
    assert problem in refused(document(links={path: "model.pt"}))
    assert problem in refused(document(directories=[path]))


def test_a_path_that_is_no_unicode_is_refused():
    sealed = seal(document(directories=["logs"])).replace(b'"logs"', b'"\\ud800"')
    body = sealed.partition(b'"document":')[2].removesuffix(b"}\n")
    with pytest.raises(Corrupted):
        decode(unseal(b'{"digest":"%s","document":%s}\n' % (digest(body).encode(), body), key=KEY), key=KEY)


@pytest.mark.parametrize("path", ["a", "a/b", "...", "..a", "a..b/c..", ".github", "a b", "-rf", "~", "ä/\n"])
def test_other_paths_are_taken(path):
    assert path_problem(path) is None


@given(PATHS)
def test_a_path_without_a_problem_stays_below_its_directory(path):
    assert path_problem(path) is None
    assert os.path.normpath(f"/root/{path}") == f"/root/{path}"


@pytest.mark.parametrize("below", ["a/b", "a/b/c"])
@pytest.mark.parametrize("kind", ["files", "links", "directories"])
@pytest.mark.parametrize("above", ["files", "links"])
def test_nothing_lies_below_a_file_or_a_link(above, below, kind):
    tree = {"files": {}, "links": {}, "directories": {}}
    tree[above]["a"] = "x"
    tree[kind][below] = "x"
    assert tree_problem(**tree) == f"'{below}' lies below 'a', which is not a directory"


def test_a_path_is_one_thing_only():
    assert tree_problem(["a"], {"a": "b"}, []) == "a path is both a file and a link"
    assert tree_problem(["a"], {}, ["a"]) == "'a' is both a directory and a file"
    assert tree_problem([], {"a": "b"}, ["a"]) == "'a' is both a directory and a file"


def test_directories_may_lie_in_each_other():
    assert tree_problem(["a/b/file"], {"a/c/link": "../b"}, ["a", "a/b", "a/d"]) is None


# Links.


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("a", "b"),
        ("a", "."),
        ("a", "b/c/../.."),
        ("a", "./b//c/"),
        ("a/b", ".."),
        ("a/b/c", "../.."),
        ("a", "missing/../missing"),
    ],
)
def test_a_link_that_stays_in_the_project_is_taken(path, target):
    assert link_problem(path, {path: target}) is None
    assert decode(document(links={path: target}), key=KEY).links == {path: target}


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("a", "/etc"),
        ("a", "/"),
        ("a", ".."),
        ("a", "../root/a"),
        ("a", "b/../.."),
        ("a/b", "../../c"),
        ("a", ""),
        ("a", "b\0"),
    ],
)
def test_a_link_out_of_the_project_is_refused(path, target):
    assert link_problem(path, {path: target}) == f"the link {path!r} points out of the project, to {target!r}"
    assert "points out of the project" in refused(document(links={path: target}))


def test_links_that_lead_out_only_together_are_refused():
    links = {"a/b/up": "../..", "out": "a/b/up/.."}
    assert link_problem("a/b/up", links) is None
    assert "points out of the project" in link_problem("out", links)
    assert "points out of the project" in refused(document(links=links))


@pytest.mark.parametrize("links", [{"a": "a"}, {"a": "b", "b": "a"}, {"a": "d/b", "d/b": "../a"}, {"a": "a/b"}])
def test_links_in_a_circle_are_refused(links):
    assert link_problem("a", links) == "the link 'a' leads in a circle"
    assert "leads in a circle" in refused(document(links=links))


@pytest.mark.parametrize("links", [{"w/best": "BEST"}, {"w/straße": "STRASSE"}, {"a": "B", "b": "A"}])
def test_links_that_differ_in_case_only_are_no_circle(links):
    assert [link_problem(path, links) for path in links] == [None] * len(links)
    assert decode(document(links=links), key=KEY).links == links


def test_links_that_lead_out_where_case_counts_or_where_it_does_not_are_refused():
    assert "points out" in link_problem("a", {"a": "Deep/../..", "deep": "x/y/z"})
    assert "points out" in link_problem("a", {"a": "x/Deep/../..", "x/deep": ".."})


def test_as_many_links_are_followed_as_linux_follows():
    chain = {str(number): str(number + 1) for number in range(LINKS_FOLLOWED_MAX + 1)}
    assert link_problem("1", chain) is None
    assert "circle" in link_problem("0", chain)


LINK_PATHS = st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map("/".join)
LINK_TARGETS = st.lists(st.sampled_from(["a", "b", "c", "..", "..", "."]), min_size=1, max_size=5).map("/".join)


@settings(max_examples=300)
@given(
    st.dictionaries(LINK_PATHS, LINK_TARGETS | st.just("/"), min_size=1, max_size=5),
    st.lists(LINK_PATHS, max_size=3),
    st.lists(LINK_PATHS, max_size=3),
)
@example({"a/b/c": "../..", "b": "a/b/c/.."}, [], [])
@example({"a": "b/../..", "b": "c/c"}, [], ["c/c"])
def test_the_file_system_agrees_with_what_is_said_about_links(links, files, directories):
    files = [path for path in files if path not in links]
    if tree_problem([*files, *links], {}, directories):
        return  # the links could not even be made
    with tempfile.TemporaryDirectory() as parent:
        root = Path(parent).resolve() / "project"
        lay_out(root, files, links, directories)
        for path in links:
            lies_inside = (root / path).resolve().is_relative_to(root) if can_be_followed(root / path) else None
            if tree_problem(files, links, directories) is None:
                assert Path(os.path.realpath(root / path)).is_relative_to(root)
            if lies_inside:
                assert link_problem(path, links) is None
            if lies_inside is False:
                assert "points out of the project" in link_problem(path, links)


def lay_out(root: Path, files: Iterable[str], links: Mapping[str, str], directories: Iterable[str]) -> None:
    root.mkdir()
    for path in directories:
        (root / path).mkdir(parents=True, exist_ok=True)
    for path in files:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    for path, target in links.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        os.symlink(target, root / path)


def can_be_followed(path: Path) -> bool:
    try:
        path.stat()
    except OSError:
        return False
    return True


# Digests.


def test_objects_are_named_by_the_hexadecimal_part_of_a_digest():
    assert digest_hex(DIGEST) == DIGEST.removeprefix("sha256:")


@pytest.mark.parametrize("text", ["", DIGEST[:-1], DIGEST.removeprefix("sha256:"), "md5:" + "0" * 64, DIGEST + "\n"])
def test_what_is_no_digest_names_no_object(text):
    with pytest.raises(InvalidInput, match="is not a digest"):
        digest_hex(text)


def test_a_path_or_a_target_beyond_all_measure_is_refused():
    assert "longer than 4096" in path_problem("a" * 4097)
    assert path_problem("a" * 4096) is None
    assert link_problem("link", {"link": "a/" * 3000}) is not None


def test_names_that_differ_in_case_only_may_be_one_on_disk():
    assert "points out of the project" in link_problem("L", {"p/q/B": "../..", "L": "p/q/b/../../.."})


SPELLINGS = [
    ".git",
    ".GIT",
    ".Git",
    ".gi\u200ct",
    "\u200d.git",
    "\ufeff.g\u202eit\u200b",
    ".G\u206fIT.",
    "git~1",
    "GIT~1",
    "Git~1. .",
    ".git.",
    ".git ",
    ".git . .",
    ".git::$INDEX_ALLOCATION",
    ".git:x",
    ".git\\hooks",
    "a\\.git\\hooks",
    ".replicate",
    ".Replicate",
    ".replicate.",
    ".rep\u200blicate",
    "REPLIC~1",
]


@pytest.mark.parametrize("name", SPELLINGS, ids=ascii)
def test_what_git_would_carry_out_is_never_checked_out_however_it_is_spelled(name):
    assert is_forbidden(name)
    for path in (name, f"{name}/hooks/post-checkout", f"a/{name}", f"a/{name}/config"):
        assert "has the name" in path_problem(path)
        for tree in (([path], {}, []), ([], {path: "x"}, []), ([], {}, [path])):
            assert "has the name" in tree_problem(*tree)


@pytest.mark.parametrize(
    "name",
    [
        ".gitignore",
        ".github",
        ".git-old",
        "git",
        "git~2",
        "x.git",
        ".gi.t",
        "..git",
        "replicate",
        ".replicateignore",
        "repository~1",
        "a\\b",
        "gì~1",
        "\u200c",
        ".g\u0131t",
        "",
    ],
    ids=ascii,
)
def test_other_names_are_taken(name):
    assert not is_forbidden(name)


def test_the_objects_of_a_manifest_are_known_though_it_can_never_be_laid_out():
    bad = document(files={".git/config": {"size": 0, "mode": 0, "parts": []}}, objects=[[OBJECT, 7]])
    assert ".git" in refused(bad)
    assert objects_of(bad, key=KEY) == {OBJECT}


@pytest.mark.parametrize(
    "strange",
    [
        [],
        {},
        {"format": 1},
        {"format": 1, "objects": 7},
        {"format": 1, "objects": [[]]},
        {"format": 1, "objects": [["replicate.json", 7]]},
        {"format": 1, "objects": [[OBJECT]]},
    ],
    ids=str,
)
def test_of_what_is_no_manifest_no_objects_are_known(strange):
    with pytest.raises(Corrupted, match=KEY):
        objects_of(strange, key=KEY)


def test_of_a_later_format_no_objects_are_known():
    with pytest.raises(TooNew, match=f"{KEY}.*upgrade"):
        objects_of({"format": 2, "objects": []}, key=KEY)


def test_a_manifest_that_lists_another_size_than_was_recorded_is_that_of_another_snapshot():
    manifest = Manifest({"a": File(7, 0o644, ()), "b": File(3, 0o644, ())})
    assert size_problem(manifest, None) is None
    assert size_problem(manifest, 10) is None
    assert "lists 10 bytes of files, but 7 were recorded" in size_problem(manifest, 7)


def test_the_digest_of_a_pack_comes_back_and_must_be_one():
    manifest = Manifest({"a": File(10, 0o644, (Part(OBJECT, 0, 10, DIGEST),))}, object_bytes={OBJECT: 20})
    for digests in ({}, {OBJECT: DIGEST}):
        packed = dataclasses.replace(manifest, object_digests=digests)
        assert decode(encode(packed), key=KEY) == packed
    with pytest.raises(Corrupted, match="is not a digest"):
        decode(encode(dataclasses.replace(manifest, object_digests={OBJECT: "sha256:0"})), key=KEY)
