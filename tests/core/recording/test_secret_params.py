"""Secrets among params, tags and notes are taken out; what only sounds like one stays as it is."""

from __future__ import annotations

import pytest

from replicate_core.format.values import Value
from replicate_core.recording.secret_params import Redactor

SECRETS: list[dict[str, Value]] = [
    {"password": "hunter2"},
    {"db_password": "hunter2"},
    {"dbPassword": "hunter2"},
    {"passwords": ["hunter2"]},
    {"password2": "hunter2"},
    {"api_key": "abc"},
    {"API-KEY": "abc"},
    {"openai_api_keys": ["abc"]},
    {"wandb_key": "abc"},
    {"token": "abc"},
    {"hf_token": "abc"},
    {"hfToken": "abc"},
    {"access_tokens": ["abc"]},
    {"authtoken": "abc"},
    {"secret": "abc"},
    {"client_secret": "abc"},
    {"cookie": "abc"},
    {"session_cookies": ["abc", "def"]},
    {"keypass": "abc"},
    {"aws_secret_access_key": "abc/def"},
    {"credentials": {"user": "me", "password": "x"}},
    {"auth": ["me", "pw"]},
    {"data": {"sources": [{"password": "x"}]}},
    {"url": "postgres://me:pw@host/db"},
    {"url": "https://abcdef@github.com/me/x"},
    {"url": "https://host/x?sig=1&access_token=abc"},
    {"connection": "Server=x;Password=abc;"},
    {"text": "hf_abcdefghijklmnop1234"},
    {"header": "Authorization: Basic dXNlcg=="},
    {"header": "bearer 0123456789abcdef"},
    {"json": '{"password": "abc"}'},
    {"cmd": "mysql -pHUNTER2"},
    {"cmd": "mysql --password abc"},
    {"cmd": "mysql --password 'abc def' db"},
    {"cmd": "bash -c 'mysql --password abc'"},
    {"cmd": "t.py --api-key=abc --lr 1"},
    {"cmd": "t.py --pw abc"},
    {"cmd": "curl -u me:abc"},
    {"argv": ["--api-key", "abc"]},
    {"argv": ["--api-key=abc"]},
    {"argv": ["--lr", 0.1, "-p", "HUNTER2"]},
    {"text": "password: abc"},
    {"text": "user: me\n  password: 'abc'\nport: 1"},
    {"text": "user: me, password: abc, port: 1"},
    {"url": "https://h/x?sig=abc"},
    {"pem": "-----BEGIN PRIVATE KEY-----\nabc\n-----END PRIVATE KEY-----\n"},
    {"pem": "api_key=-----BEGIN RSA PRIVATE KEY-----\nabc"},
    {"pem": "-----BEGIN PGP PRIVATE KEY BLOCK-----\nabc\n-----END PGP PRIVATE KEY BLOCK-----"},
]


@pytest.mark.parametrize("params", SECRETS)
def test_a_secret_is_taken_out_and_named(params: dict[str, Value]) -> None:
    redactor = Redactor()
    shown, found = redactor.values({"params": params}), redactor.found
    assert "[redacted]" in str(shown)
    assert found
    assert found[0].startswith(f"params.{next(iter(params))}")
    if "cmd" in params or "argv" in params or "text" in params or "pem" in params:
        assert not any(secret in str(shown) for secret in ("abc", "def", "HUNTER2"))


HARMLESS: list[dict[str, Value]] = [
    {"max_tokens": 512, "token_count": 7, "n_tokens": 1, "num_tokens": "many", "tokens": ["a", "b"]},
    {"tokenizer": "bert", "tokenizer_name": "bert", "token_type": "word", "tokenization": "bpe"},
    {"pad_token": "pad", "eos_token": "</s>", "bos_token": "<s>", "mask_token": "[MASK]", "token": "<mask>"},
    {"pad_token_id": 0, "stop_tokens": ["x"], "special_tokens": ["y"], "additional_special_tokens": ["z"]},
    {"password": 12345, "api_key": None, "secret": True, "token": 1.5, "auth": False, "pwd": ""},
    {"api_key": "${OPENAI_KEY}", "token": "$HF_TOKEN", "secret": "none", "auth": "kerberos"},
    {"credentials": "~/.aws/credentials", "ssh_key": "/home/me/id.pem"},
    {"sort_key": "date", "label_key": "y", "input_keys": ["a"], "rng_key": "x", "primary_key": "id", "key": "C"},
    {"author": "Ann", "signature": "serving_default", "bypass": "x", "compass": "y", "__": "x", "7": "x"},
    {"url": "abfs://container@account.dfs.core.windows.net/x", "repo": "ssh://git@github.com/me/x"},
    {"url": "https://host/x?page=2&design=7", "mail": "me@example.org", "lr": "lr=0.1,max_tokens=5"},
    {"notes": "Secret: more data. The bearer of bad news; authorization: needed; pad_token=x"},
    {"cmd": "docker run -p 8080:80 -p train -pthread --pw 3 --password ${PW} --token --lr 1", "pw": 3},
    {"cmd": 't.py --max-tokens 512 --pad_token pad --tokenizer bert --sort-key date --password "$PW" --api-key=7'},
    {"argv": ["--api-key", 7, "--lr", "1", "--token", "--pw", "3", "-p", "8080"], "words": ["token", "abc"]},
    {"notes": "Secret: more data, no token. token: 7, password: none\npad_token: pad\nsecret://x"},
    {"url": "https://h/x?sig=7&page=abc", "pem": "-----BEGIN CERTIFICATE-----\nabc\n-----END CERTIFICATE-----"},
    {"nested": [{"deep": [1, 2.5, None, "word"]}]},
]


@pytest.mark.parametrize("params", HARMLESS)
def test_what_only_sounds_like_one_stays(params: dict[str, Value]) -> None:
    redactor = Redactor()
    assert (redactor.values(params), redactor.found) == (params, [])


def test_the_rest_of_a_text_stays_and_nothing_is_taken_out_twice() -> None:
    given: list[Value] = ["see postgres://me:pw@host/db", "token=abc, lr=1", "plain"]
    redactor = Redactor()
    shown = redactor.values({"tags": given})
    assert shown["tags"] == ["see postgres://[redacted]@host/db", "token=[redacted], lr=1", "plain"]
    assert redactor.found == ["tags[0]", "tags[1]"]
    again = Redactor()
    assert (again.values(shown), again.found) == (shown, [])


def test_one_that_is_switched_off_takes_nothing_out() -> None:
    redactor = Redactor(enabled=False)
    assert redactor.values({"password": "hunter2"}) == {"password": "hunter2"}
    assert redactor.text("token=abcdef", "notes") == "token=abcdef"
    assert redactor.found == []


def test_a_text_of_its_own_is_named_as_a_whole() -> None:
    redactor = Redactor()
    assert redactor.text("see https://me:pw@host", "notes") == "see https://[redacted]@host"
    assert redactor.text("plain", "name") == "plain"
    assert redactor.found == ["notes"]
