"""Credentials are taken out of command lines, URLs and texts, and nothing else is."""

from __future__ import annotations

import os

import pytest

from replicate_core.redaction import is_secret, redact, redact_command, without_credentials

KEY = "AKIA" + "ABCDEFGHIJKLMNOP"


class TestCommandLine:
    @pytest.mark.parametrize(
        ("words", "shown"),
        [
            (["t.py", "--api-key", "s3cret", "--lr", "1"], "t.py --api-key [redacted] --lr 1"),
            (["t.py", "--db.password=s3cret"], "t.py --db.password=[redacted]"),
            (["t.py", "HF_TOKEN=s3cret"], "t.py HF_TOKEN=[redacted]"),
            (["t.py", "-token", "s3cret"], "t.py -token [redacted]"),
            (["t.py", "--secret", "--lr", "1"], "t.py --secret --lr 1"),
            (["t.py", "--token"], "t.py --token"),
            (["t.py", f"--key={KEY}"], "t.py --key=[redacted]"),
            (["t.py", "+api_key=s3cret"], "t.py +api_key=[redacted]"),
            (["t.py", "++db.password=s3cret"], "t.py ++db.password=[redacted]"),
            (["t.py", "--password:s3cret"], "t.py --password:[redacted]"),
            (["t.py", "--password", "-s3cret"], "t.py --password [redacted]"),
            (["t.py", "--dbpassword=s3cret"], "t.py --dbpassword=[redacted]"),
            (["t.py", "--authtoken", "s3cret"], "t.py --authtoken [redacted]"),
            (["t.py", "--accessToken", "s3cret"], "t.py --accessToken [redacted]"),
            (["t.py", "--awsSecretAccessKey=s3cret"], "t.py --awsSecretAccessKey=[redacted]"),
            (["t.py", "--pwd=s3cret"], "t.py --pwd=[redacted]"),
            (["t.py", "--tokens", "s3cret"], "t.py --tokens [redacted]"),
            (["t.py", "--wandb-key", "s3cret"], "t.py --wandb-key [redacted]"),
            (["t.py", "--header", "Authorization: Bearer s3cret"], "t.py --header Authorization:[redacted]"),
            (["t.py", "Bearer s3cret"], "t.py Bearer [redacted]"),
            (["t.py", '{"password": "s3cret", "lr": "1"}'], 't.py {"password": "[redacted]", "lr": "1"}'),
            (["t.py", "--pw", "s3cret"], "t.py --pw [redacted]"),
            (["t.py", "--pw=s3cret"], "t.py --pw=[redacted]"),
            (["t.py", "-----BEGIN PRIVATE KEY-----\nabc\n-----END PRIVATE KEY-----"], "t.py [redacted]"),
            (["t.py", "-p", "SECRET"], "t.py -p [redacted]"),
            (["t.py", "-p", "hunter2"], "t.py -p [redacted]"),
            (["t.py", "-pHunter2"], "t.py -p[redacted]"),
            (["curl", "-u", "me:s3cret"], "curl -u me:[redacted]"),
            (["t.py", "s3://me:s3cret@bucket/x"], "t.py s3://[redacted]@bucket/x"),
        ],
    )
    def test_values_of_options_that_speak_of_secrets_are_left_out(self, words: list[str], shown: str) -> None:
        assert redact_command(words) == shown

    @pytest.mark.parametrize(
        "words",
        [
            "--max_tokens 512",
            "--tokenizer bert",
            "--author Ann",
            "token",
            "--lr=0.1",
            "--key 3",
            "-p 8080",
            "--pw 3",
            "--pw=0.5",
            "-p8080",
            "-p 8080:80",
            "-p 1e-3",
            "-p train",
            "-pretrained",
            "-p a/b2.yaml",
            "-p model.h5",
            "-p LR 0.1",
            "-p lr=Cos1ne",
            "-p -v",
            "-u 1000:1000",
            "-u me",
        ],
    )
    def test_what_only_sounds_like_a_secret_is_kept(self, words: str) -> None:
        assert redact_command(words.split()) == words

    def test_several_lines_in_a_secret_are_left_out_whole(self) -> None:
        assert "second" not in redact_command(["t.py", "--password=first\nsecond"])

    def test_a_word_that_is_no_unicode_is_shown_as_far_as_it_is(self) -> None:
        assert redact_command(["t.py", os.fsdecode(b"caf\xe9.csv")]) == "t.py 'caf\\udce9.csv'"


class TestRedacting:
    @pytest.mark.parametrize(
        "text",
        [
            "sk-abcdefghijklmnop1234",
            "hf_abcdefghijklmnop1234",
            "ghp_abcdefghijklmnopqrst1234",
            "github_pat_abcdefghijklmnopqrst12",
            "glpat-abcdefghijklmnop1234",
            "xoxb-1234567890-abc",
            KEY,
            "AIza" + "x" * 35,
            "eyJhbGciOiJIUzI1.eyJzdWIiOiIxMjM0.c2lnbmF0dXJl",
            "https://user:s3cret@host/path",
            "https://user:s3@cret@host/path",
            "https://host/path?X-Amz-Signature=s3cret&a=b",
            "https://host/path?a=b&sig=s3cret",
        ],
    )
    def test_credentials_of_known_shapes_go(self, text: str) -> None:
        shown = redact(f"before {text} after")
        assert "[redacted]" in shown
        assert shown.startswith("before ")
        assert shown.endswith(" after")
        assert "s3cret" not in shown
        assert "cret@" not in shown
        assert text not in shown

    def test_everything_else_stays(self) -> None:
        text = "https://host/path?design=7&page=2 mail@example.org risk-averse-but-long-enough"
        assert redact(text) == text


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("s3://key:s3cret@bucket/x", "s3://bucket/x"),
        ("memory://me:s3@cret@host/x?token=s3cret", "memory://host/x"),
        ("runs", "runs"),
    ],
)
def test_a_url_is_shown_without_user_password_and_query(url: str, shown: str) -> None:
    assert without_credentials(url) == shown


def test_a_name_without_letters_is_no_secret() -> None:
    assert not is_secret("__")
