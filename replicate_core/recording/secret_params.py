"""Secrets in what users record: params, other values of checkpoints, names, tags and notes.

Pure. It redacts less than `redaction`, because recorded values are used again: `tokenizer: bert`, `pad_token: "<pad>"`
and `sort_key: date` stay, and numbers are never secrets.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from replicate_core.format.values import Value
from replicate_core.redaction import (
    OPTION,
    OPTION_NAME,
    PAIR,
    PRIVATE_KEY,
    QUERY,
    REDACTED,
    SECRET_ENDINGS,
    SHAPES,
    WORDS,
    is_secret,
    redact_short_option,
)

_SECRET_WORDS = frozenset(
    {
        "auth",
        "authorization",
        "bearer",
        "cookie",
        "credential",
        "keypass",
        "pass",
        "passphrase",
        "password",
        "passwd",
        "pw",
        "pwd",
        "secret",
        "storepass",
    }
)
"""Last words of names of secrets."""

_VOCABULARY = frozenset({
    "additional", "assistant", "audio", "begin", "bos", "class", "cls", "context", "decoder", "end", "eos", "first",
    "image", "last", "mask", "masked", "max", "min", "next", "num", "pad", "padding", "per", "prefix", "prompt", "sep",
    "separator", "special", "start", "stop", "suffix", "target", "text", "unk", "unknown", "video", "vision", "word",
})  # fmt: skip
"""Words before `token` that make it a token of a model's vocabulary."""

_OWNERS = frozenset({
    "access", "account", "anthropic", "api", "auth", "aws", "azure", "bearer", "client", "comet", "encryption", "gcp",
    "github", "gitlab", "google", "hf", "huggingface", "license", "neptune", "openai", "private", "secret", "service",
    "session", "signing", "ssh", "storage", "subscription", "wandb",
})  # fmt: skip
"""Words before `key`, `keys` or `tokens` that make it a secret."""

_NOT_SECRET = re.compile(
    r"<[^<>]*>|\[[^\[\]]*\]"  # a token of a vocabulary
    r"|[+-]?[\d._,:\s]+"  # a number
    r"|\$\{?\w+\}?"  # a variable
    r"|(?:~|\.\.?)/\S*|/\S*\.\w{2,5}"  # a file
    r"|auto|basic|default|digest|false|iam|kerberos|no|none|null|oauth2?|sso|true|yes",
    re.IGNORECASE,
)
_URL_PASSWORD = re.compile(r"(?<=://)[^/\s@:]*:[^/\s@]+(?:@[^/\s@]+)*@|(?:(?<=http://)|(?<=https://))[^/\s@:]+@")
_ASSIGNED = re.compile(r"(?<![\w.-])([A-Za-z][\w.-]*)(=)([^\s&;,\"']+)")
_LINE = re.compile(
    r"""(?<![\w.-])([A-Za-z][\w.-]*)([ \t]*:[ \t]*)(["']?)(?!//)([^\s,"'{}]{1,200})\3(?=\s*(?:[,}]|$))""", re.MULTILINE
)
"""`password: abc` as in YAML, up to a comma or the end of the line; not the beginning of a sentence."""
_SHELL_WORD = re.compile(r"""(?:"[^"]*"|'[^']*'|\S)+""")
_ANY_WORD = re.compile(r"\S+")
_HEADER = re.compile(
    r"(authorization\s*[:=]\s*(?:basic|bearer|digest|token)\s+|\bbearer\s+(?=\S{16}))\S+", re.IGNORECASE
)


class Redactor:
    """Takes secrets out of what is about to be recorded, and remembers where they were.

    Args:
        enabled: if False, nothing is changed.
    """

    def __init__(self, *, enabled: bool = True) -> None:
        self._enabled = enabled
        self.found: list[str] = []

    def values(self, values: Mapping[str, Value], above: str = "") -> dict[str, Value]:
        """Values without those that are surely secrets. `above` is a prefix for the names of what was taken out."""
        if not self._enabled:
            return dict(values)
        return {
            name: _concealed(value, f"{above}{name}", self.found, is_secret=names_secret(name))
            for name, value in values.items()
        }

    def text(self, text: str, name: str) -> str:
        """A string without what is surely a secret."""
        shown = _without_secrets(text) if self._enabled else text
        if shown != text:
            self.found.append(name)
        return shown


def _concealed(value: Value, name: str, found: list[str], *, is_secret: bool) -> Value:
    if isinstance(value, dict):
        return {
            key: _concealed(item, f"{name}.{key}", found, is_secret=is_secret or names_secret(key))
            for key, item in value.items()
        }
    if isinstance(value, list):
        words = _without_options([item if isinstance(item, str) else "" for item in value])
        return [
            _concealed(item, f"{name}[{index}]", found, is_secret=is_secret or (word == REDACTED != item))
            for index, (item, word) in enumerate(zip(value, words, strict=True))
        ]
    if not isinstance(value, str):
        return value
    shown = REDACTED if is_secret and may_be_secret(value) else _without_secrets(value)
    if shown != value:
        found.append(name)
    return shown


def _without_secrets(text: str) -> str:
    """A string without passwords in URLs, `api_key=...`, `--api-key ...`, headers and keys of known shapes."""
    text = PRIVATE_KEY.sub(REDACTED, text)
    text = _URL_PASSWORD.sub(f"{REDACTED}@", text)
    text = QUERY.sub(_without_parameter, text)
    text = _ASSIGNED.sub(_without_assigned, text)
    text = _LINE.sub(_without_line, text)
    for pattern in (_SHELL_WORD, _ANY_WORD):  # a quoted word can be a value with spaces, or a whole command
        words = _without_options(pattern.findall(text))
        text = pattern.sub(lambda _, words=words: next(words), text)  # type: ignore[misc]
    text = _HEADER.sub(lambda header: f"{header[1]}{REDACTED}", text)
    text = PAIR.sub(_without_pair, text)
    return SHAPES.sub(REDACTED, text)


def _without_options(words: Sequence[str]) -> Iterator[str]:
    """The words of a command line without the values of secret options: `--api-key abc`, `-pSECRET`."""
    before = ""
    for word in words:
        name = OPTION_NAME.fullmatch(before)
        option = OPTION.fullmatch(word)
        if name and names_secret(name[1]) and not word.startswith("--") and may_be_secret(word.strip("\"'")):
            yield REDACTED
        elif option and option[1] and names_secret(option[2]) and may_be_secret(option[4].strip("\"'")):
            yield f"{option[1]}{option[2]}{option[3]}{REDACTED}"
        else:
            yield redact_short_option(before, word) or word
        before = word


def _without_parameter(found: re.Match[str]) -> str:
    before, name, value = found.groups()
    return f"{before}{name}={REDACTED}" if is_secret(name) and may_be_secret(value) else found[0]


def _without_line(found: re.Match[str]) -> str:
    name, colon, quote, value = found.groups()
    return f"{name}{colon}{quote}{REDACTED}{quote}" if names_secret(name) and may_be_secret(value) else found[0]


def _without_assigned(found: re.Match[str]) -> str:
    name, equals, value = found.groups()
    return f"{name}{equals}{REDACTED}" if names_secret(name) and may_be_secret(value) else found[0]


def _without_pair(found: re.Match[str]) -> str:
    quote, name, colon, value_quote, value = found.groups()
    shown = REDACTED if names_secret(name) and may_be_secret(value) else value
    return f"{quote}{name}{quote}{colon}{value_quote}{shown}{value_quote}"


def names_secret(name: str) -> bool:
    """Tell whether a param of this name is a secret: `db_password` and `hf_token` are, `pad_token` is not."""
    words = [word for word in (found.lower().rstrip("0123456789") for found in WORDS.findall(name)) if word]
    if not words:
        return False
    before = words[-2] if len(words) > 1 else ""
    last = words[-1]
    if last == "token":
        return before not in _VOCABULARY
    if last in ("key", "keys", "tokens"):
        return before in _OWNERS
    singular = last.removesuffix("s")
    return last in _SECRET_WORDS or singular in _SECRET_WORDS or singular.endswith(SECRET_ENDINGS)


def may_be_secret(text: str) -> bool:
    """Tell whether a value with such a name can be a secret: not a number, file, variable, or word such as `<pad>`."""
    return bool(text.strip()) and _NOT_SECRET.fullmatch(text) is None
