"""What a user tells the driver of a storage: references to the environment, and what must be shown nowhere."""

from __future__ import annotations

import pytest

from replicate_core.errors import ConfigInvalid
from replicate_core.format.values import Value
from replicate_core.storage.options import hide, names_of_secrets, resolve, secrets


class TestReferences:
    def test_a_text_may_refer_to_the_environment_at_any_depth(self) -> None:
        given: dict[str, Value] = {
            "key": "${KEY}",
            "nested": {"list": ["a${KEY}b", 1, None, True]},
            "plain": "$KEY {KEY} $",
            "number": 3,
        }
        assert resolve(given, {"KEY": "k"}) == {
            "key": "k",
            "nested": {"list": ["akb", 1, None, True]},
            "plain": "$KEY {KEY} $",
            "number": 3,
        }

    def test_a_value_that_looks_like_a_reference_is_none(self) -> None:
        assert resolve({"key": "${KEY}"}, {"KEY": "${OTHER}"}) == {"key": "${OTHER}"}

    def test_two_dollars_stand_for_the_text_itself(self) -> None:
        assert resolve({"key": "a$${KEY}"}, {}) == {"key": "a${KEY}"}

    @pytest.mark.parametrize(("text", "shown"), [("${MISSING}", "MISSING"), ("${}", "")])
    def test_a_variable_that_is_not_set_is_named_with_its_option(self, text: str, shown: str) -> None:
        with pytest.raises(
            ConfigInvalid, match=rf"nested\.list\[1\] refers to the environment variable '{shown}'.*export"
        ):
            resolve({"nested": {"list": ["", text]}}, {"KEY": "k"})


class TestSecrets:
    @pytest.mark.parametrize(
        ("options", "hidden"),
        [
            ({"key": "AKIA1", "secret": "s3cret", "endpoint_url": "http://host"}, ("s3cret", "AKIA1")),
            ({"client_kwargs": {"aws_secret_access_key": "s3cret", "region_name": "eu"}}, ("s3cret",)),
            ({"auth": ["me", "password"]}, ("password",)),
            ({"token": "anon"}, ()),
            ({"token": {"client_id": "name", "private_key": "-----"}}, ("-----", "name")),
            ({"secret": "abc", "password": 12345, "anon": True}, ()),
            (
                {"connection_string": "AccountName=me;AccountKey=a2V5a2V5;x"},
                ("AccountName=me;AccountKey=a2V5a2V5;x", "a2V5a2V5"),
            ),
        ],
        ids=["s3", "nested", "list", "a word", "a mapping", "short or no text", "connection string"],
    )
    def test_are_told_by_the_names_of_options(self, options: dict[str, Value], hidden: tuple[str, ...]) -> None:
        assert secrets(options) == hidden

    def test_are_taken_out_of_texts(self) -> None:
        assert hide("no s3cret here, nor s3cret-longer", ("s3cret-longer", "s3cret")) == (
            "no [redacted] here, nor [redacted]"
        )


def test_secrets_in_plain_are_named_and_references_are_none() -> None:
    options = {
        "key": "AKIAPLAIN",
        "secret": "${SECRET}",
        "account_key": "plain-key",
        "profile": "research",
        "token": "/home/me/key.json",
        "client_keys": ["keys/user"],
        "client_kwargs": {"aws_session_token": "plain-token"},
        "password": "abc",
    }
    assert names_of_secrets(options) == ["account_key", "client_kwargs"]
