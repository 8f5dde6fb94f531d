from __future__ import annotations

import pickle

import pytest

from replicate_core.errors import (
    ConfigInvalid,
    Corrupted,
    InvalidInput,
    MissingExtra,
    NotFound,
    ReplicateError,
    StorageFailed,
    TooNew,
)

TREE = {
    NotFound: KeyError,
    InvalidInput: ValueError,
    ConfigInvalid: ValueError,
    StorageFailed: OSError,
    Corrupted: ReplicateError,
    TooNew: ReplicateError,
    MissingExtra: ImportError,
}


@pytest.mark.parametrize("error", TREE)
def test_one_name_catches_every_error(error):
    with pytest.raises(ReplicateError):
        raise error("no such thing")


@pytest.mark.parametrize(("error", "builtin"), TREE.items())
def test_an_error_is_also_what_python_calls_such_an_error(error, builtin):
    assert issubclass(error, builtin)


@pytest.mark.parametrize("error", TREE)
def test_the_message_is_shown_as_it_was_written(error):
    message = "no experiment 'abc'\nsee `replicate ls`"
    assert str(error(message)) == message


@pytest.mark.parametrize("error", TREE)
def test_an_error_without_a_message_shows_nothing(error):
    assert str(error()) == ""


@pytest.mark.parametrize("error", TREE)
def test_an_error_keeps_its_kind_and_message_on_the_way_to_another_process(error):
    copy = pickle.loads(pickle.dumps(error("the disk is full")))
    assert type(copy) is error
    assert str(copy) == "the disk is full"
