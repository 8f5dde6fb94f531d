"""Redacting credentials in text before it is shown or recorded: URLs, command lines, tokens of known shapes.

Pure. It is better to hide too much, because redacted text is only read, never used.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence

REDACTED = "[redacted]"

_SECRET_WORDS = frozenset(
    {
        "auth",
        "authorization",
        "bearer",
        "cookie",
        "cookies",
        "credential",
        "credentials",
        "pass",
        "passphrase",
        "pw",
        "pwd",
        "sig",
        "signature",
    }
)
SECRET_ENDINGS = ("password", "passwd", "secret", "token", "apikey", "accesskey", "secretkey", "privatekey")
WORDS = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z0-9]+(?![a-z])")
"""A word of a name such as `dbPassword`, `HF_TOKEN`, `api-key`."""

OPTION = re.compile(r"([-+]*)([A-Za-z_][\w.\-/]*)([=:])(.*)", re.DOTALL)
_SHORT_PASSWORD = re.compile(r"-p(?=.{6})(.*)", re.DOTALL)
_SHORT_LOGIN = re.compile(r"([^\s:/]+):(?!\d+$)([^\s/]+)")
_NO_PASSWORD = re.compile(r"[a-z]+(?:[-_][a-z]+)*|[\d.,:eEx+-]+|.*[/\\=].*|.+\.[a-z]\w{0,4}|.{0,5}|-.*", re.DOTALL)
"""Values after `-p` that are not passwords: a word, a number, a path, a file, an assignment."""

OPTION_NAME = re.compile(r"--?([A-Za-z][\w.\-]*)")
PAIR = re.compile(r"""(["'])([\w.\-]+)\1(\s*:\s*)(["'])(.*?)\4""")
_HEADER = re.compile(r"(authorization\s*[:=]\s*)\S.*|(\bbearer\s+)\S+", re.IGNORECASE)
_URL_USER = re.compile(r"(?<=://)(?:[^/\s@]*:[^\s@]*|[^/\s@]*)@(?:[^/\s]*@)?")
QUERY = re.compile(r"([?&])([\w.\-]+)=([^&\s#]*)")
PRIVATE_KEY = re.compile(
    r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----|\Z)",
    re.DOTALL,
)
"""A private key in PEM or OpenPGP form, whole or cut off."""
_NUMBER = re.compile(r"[\d.,eE+-]+")
SHAPES = re.compile(
    r"\b(?:sk-[\w-]{16,}|hf_\w{16,}|gh[pousr]_\w{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|xox[abprs]-[\w-]{10,}"
    r"|A[KS]IA[0-9A-Z]{16}|AIza[\w-]{30,}|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]{5,})"
)


def is_secret(name: str) -> bool:
    """Tell whether a name is that of a secret: `api-key`, `HF_TOKEN`, `dbPassword`; not `max_tokens` or `author`."""
    words = [word.lower() for word in WORDS.findall(name)]
    if not words:
        return False
    last = words[-1]
    if last in ("key", "keys"):
        return len(words) > 1 and words[0] != "max"  # `max-keys=1` is a parameter of listings
    singular = last.removesuffix("s") if len(words) == 1 else last  # `--tokens` is a secret, `--max-tokens` a number
    return any(word in _SECRET_WORDS or word.endswith(SECRET_ENDINGS) for word in (*words[:-1], singular))


def redact(text: str) -> str:
    """Redact credentials in a text: users in URLs, values in queries, headers and JSON, keys of known shapes."""
    text = PRIVATE_KEY.sub(REDACTED, text)
    text = _URL_USER.sub(f"{REDACTED}@", text)
    text = QUERY.sub(lambda found: f"{found[1]}{found[2]}={REDACTED if is_secret(found[2]) else found[3]}", text)
    text = _HEADER.sub(lambda found: f"{found[1] or found[2]}{REDACTED}", text)
    text = PAIR.sub(_redact_pair, text)
    return SHAPES.sub(REDACTED, text)


def _redact_pair(found: re.Match[str]) -> str:
    quote, name, colon, value_quote, value = found.groups()
    return f"{quote}{name}{quote}{colon}{value_quote}{REDACTED if is_secret(name) else value}{value_quote}"


def redact_command(words: Sequence[str]) -> str:
    """A command line quoted for a shell, with the values of secret options redacted, and anything `redact` finds."""
    line = " ".join(shlex.quote(word) if REDACTED not in word else word for word in _redacted_words(words))
    return line.encode("utf-8", "backslashreplace").decode("utf-8")  # a word need not be Unicode


def _redacted_words(words: Sequence[str]) -> Iterator[str]:
    hide_next = False
    before = ""
    for word in words:
        short = redact_short_option(before, word)
        hide_next = hide_next and not _is_amount(before, word)
        before = word
        if hide_next and not word.startswith("--"):
            hide_next = False
            yield REDACTED
            continue
        option = OPTION.fullmatch(word)
        name = OPTION_NAME.fullmatch(word)
        hide_next = bool(name and is_secret(name[1]))
        if short is not None:
            yield short
        elif option and is_secret(option[2]) and not _is_amount(option[2], option[4]):
            yield f"{option[1]}{option[2]}{option[3]}{REDACTED}"
        else:
            yield redact(word)


def _is_amount(name: str, value: str) -> bool:
    """Tell whether a value of `--pw` is a number: that is as often a weight or a width as a password."""
    return WORDS.findall(name)[-1:] == ["pw"] and _NUMBER.fullmatch(value) is not None


def redact_short_option(before: str, word: str) -> str | None:
    """A word with the secret of a short option redacted (`-p SECRET`, `-u me:SECRET`); None if it seems to have none.

    `-p` is as often a port, a path or a name: only a value that looks like none of these counts as a password.
    """
    if before == "-p" and not _NO_PASSWORD.fullmatch(word):
        return REDACTED
    if before == "-u" and (login := _SHORT_LOGIN.fullmatch(word)):
        return f"{login[1]}:{REDACTED}"
    if (glued := _SHORT_PASSWORD.fullmatch(word)) and not _NO_PASSWORD.fullmatch(glued[1]):
        return f"-p{REDACTED}"
    return None


def without_credentials(url: str) -> str:
    """A URL that may be shown and recorded: without user, password and query."""
    return _URL_USER.sub("", url).partition("?")[0]
