from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replicate_core.errors import Corrupted
from replicate_core.format.digest import digest
from replicate_core.format.sealed import (
    COUNT_MAX,
    expect_count,
    expect_list,
    expect_mapping,
    expect_text,
    is_sealed_under,
    names_key,
    seal,
    seal_under,
    unseal,
    unseal_under,
)

DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
KEY = "records/20261123/01J.json"


def test_a_digest_names_its_algorithm():
    assert digest(b"weights") == "sha256:" + hashlib.sha256(b"weights").hexdigest()


@given(DOCUMENTS)
def test_a_sealed_document_comes_back_as_it_was(document):
    assert repr(unseal(seal(document), key=KEY)) == repr(document)


@given(DOCUMENTS)
def test_a_sealed_document_is_one_line_of_json_that_any_tool_reads(document):
    sealed = seal(document)
    assert sealed.splitlines(keepends=True) == [sealed]
    outer = json.loads(sealed)
    assert list(outer) == ["digest", "document"]
    assert digest(json.dumps(outer["document"], ensure_ascii=False, separators=(",", ":")).encode()) == outer["digest"]


@settings(max_examples=25)
@given(DOCUMENTS)
def test_no_flipped_bit_passes_unseen(document):
    sealed = bytearray(seal(document))
    for place in range(len(sealed)):
        for bit in range(8):
            sealed[place] ^= 1 << bit
            with pytest.raises(Corrupted, match=KEY):
                unseal(bytes(sealed), key=KEY)
            sealed[place] ^= 1 << bit


@settings(max_examples=25)
@given(DOCUMENTS)
def test_no_missing_end_passes_unseen(document):
    line = seal(document).removesuffix(b"\n")
    for length in range(len(line)):
        with pytest.raises(Corrupted, match=KEY):
            unseal(line[:length], key=KEY)


def test_a_sealed_document_may_lack_its_line_break():
    assert unseal(seal({"step": 7}).removesuffix(b"\n"), key=KEY) == {"step": 7}


@given(DOCUMENTS, st.binary(min_size=1, max_size=10))
def test_nothing_may_follow_a_sealed_document(document, more):
    with pytest.raises(Corrupted, match=KEY):
        unseal(seal(document) + more, key=KEY)


@given(st.binary(max_size=200))
def test_other_bytes_are_no_sealed_document(data):
    with pytest.raises(Corrupted, match="is not a document of replicate"):
        unseal(data, key=KEY)


def test_a_changed_document_says_what_to_do():
    with pytest.raises(Corrupted, match=r"Restore it from a copy.*replicate verify"):
        unseal(seal({"loss": 1}).replace(b'"loss":1', b'"loss":0'), key=KEY)


def test_a_seal_around_what_is_no_json_is_refused():
    body = b"{loss}"
    sealed = b'{"digest":"%s","document":%s}\n' % (digest(body).encode(), body)
    with pytest.raises(Corrupted, match="not valid JSON"):
        unseal(sealed, key=KEY)


@pytest.mark.parametrize("count", [0, 1, COUNT_MAX])
def test_a_count_is_a_whole_number(count):
    assert expect_count(count) == count


@pytest.mark.parametrize("other", [-1, COUNT_MAX + 1, 1.0, True, "1", None, [], {}])
def test_nothing_else_is_a_count(other):
    with pytest.raises(Corrupted, match="is not a whole number from 0 to"):
        expect_count(other)


def test_text_lists_and_mappings_are_taken_as_they_are():
    assert expect_text("loss") == "loss"
    assert expect_list([1]) == [1]
    assert expect_mapping({"loss": 1}) == {"loss": 1}


@pytest.mark.parametrize("other", [None, True, 1, 1.0, [], {}])
def test_nothing_else_is_text(other):
    with pytest.raises(Corrupted, match="is not a string"):
        expect_text(other)


@pytest.mark.parametrize("other", [None, True, 1, 1.0, "", {}])
def test_nothing_else_is_a_list(other):
    with pytest.raises(Corrupted, match="is not a list"):
        expect_list(other)


@pytest.mark.parametrize("other", [None, True, 1, 1.0, "", []])
def test_nothing_else_is_a_mapping(other):
    with pytest.raises(Corrupted, match="is not a mapping"):
        expect_mapping(other)


MAPPINGS = st.dictionaries(st.text(max_size=5).filter(lambda name: name != "key"), DOCUMENTS, max_size=3)


@given(MAPPINGS)
def test_a_document_says_under_which_key_it_stands(document):
    sealed = seal_under(KEY, document)
    assert json.loads(sealed)["document"]["key"] == KEY
    assert repr(unseal_under(KEY, sealed)) == repr({"key": KEY, **document})
    assert is_sealed_under(KEY, sealed)
    assert names_key(sealed)


@given(MAPPINGS)
def test_a_document_under_the_key_of_another_is_refused(document):
    sealed, other = seal_under(KEY, document), KEY + ".json"
    with pytest.raises(Corrupted, match=f"^{other} holds what belongs under another key, '{KEY}'.*Restore it"):
        unseal_under(other, sealed)
    assert not is_sealed_under(other, sealed)
    assert not is_sealed_under(KEY[:-1], sealed)


@given(MAPPINGS)
def test_a_document_of_an_earlier_version_is_taken_as_it_is(document):
    sealed = seal(document)
    assert repr(unseal_under(KEY, sealed)) == repr(document)
    assert is_sealed_under(KEY, sealed)
    assert not names_key(sealed)


@given(st.binary(max_size=200))
def test_other_bytes_name_no_key(data):
    assert not names_key(data)
    assert not is_sealed_under(KEY, data)
    assert not is_sealed_under(KEY, seal_under(KEY, {"step": 1}).replace(b'"step":1', b'"step":2'))


@pytest.mark.parametrize("strange", [None, 7, ["x"], {}], ids=str)
def test_a_key_that_is_none_is_refused(strange):
    with pytest.raises(Corrupted, match="belongs under another key"):
        unseal_under(KEY, seal({"key": strange}))


def test_what_stands_under_a_key_is_a_mapping():
    with pytest.raises(Corrupted, match="is not a mapping"):
        unseal_under(KEY, seal([1]))
