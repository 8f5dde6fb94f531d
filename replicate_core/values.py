"""Values people hand in (params, metrics) as plain data, and plain data as valid JSON.

Knows numpy, torch, TensorFlow and JAX by the methods their arrays have; none of them is imported.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from typing import TypeAlias

from replicate_core.errors import Corrupted, InvalidInput

Value: TypeAlias = "bool | int | float | str | list[Value] | dict[str, Value] | None"
"""What a param or a metric is once it is recorded. Floats may be NaN or infinite."""

DEPTH_MAX = 64
"""Nesting that is taken; deeper structures are most likely cycles."""

_ESCAPE = "$"
_FLOAT = "$float"
_FLOATS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def plain(value: object, *, name: str) -> Value:
    """Convert what a user handed in to plain data.

    Scalars and arrays of numpy, torch, TensorFlow and JAX become numbers and lists, tuples become lists, paths
    become text, and keys that are numbers become text.

    Args:
        value: anything.
        name: what the value is called in an error: `params`, `metrics`.

    Raises:
        InvalidInput: a value inside can't be recorded; the message names its key and its type.
    """
    return _plain(value, name, 0)


def _plain(value: object, name: str, depth: int) -> Value:
    if depth > DEPTH_MAX:
        raise InvalidInput(f"{name} is nested deeper than {DEPTH_MAX} levels: does it contain itself?")
    # The order counts: bool is an int, and numpy's float64 is a float.
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, str):
        return _text(str(value), name)
    if isinstance(value, bytes):
        return _decoded(value, name)
    if isinstance(value, os.PathLike):
        return _plain(os.fspath(value), name, depth + 1)
    if isinstance(value, Mapping):
        return _plain_mapping(value, name, depth)
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{name}[{index}]", depth + 1) for index, item in enumerate(value)]
    if (array := _from_array(value)) is not value:
        return _plain(array, name, depth + 1)
    raise InvalidInput(
        f"{name} is a {type(value).__module__}.{type(value).__qualname__} ({_shown(value)}), which can't be recorded. "
        "Give a number, a text, a bool, None, an array, or a list or dict of these; str(...) records its text"
    )


def _plain_mapping(mapping: Mapping[object, object], name: str, depth: int) -> dict[str, Value]:
    result: dict[str, Value] = {}
    for key, item in mapping.items():
        if isinstance(key, bool) or not isinstance(key, (str, int, float)):
            raise InvalidInput(f"{name} has the key {_shown(key)} of type {type(key).__name__}: keys must be text")
        text = _text(str(key), f"the key {key!r} of {name}")
        if text in result:
            raise InvalidInput(f"{name} has the key {text!r} twice, once as text and once as a number")
        result[text] = _plain(item, f"{name}[{text!r}]", depth + 1)
    return result


def _text(text: str, name: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidInput(f"{name} is no valid Unicode text: {error.reason} at character {error.start}") from error
    return text


def _decoded(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInput(
            f"{name} is binary data ({len(data)} bytes): save it as a file of a checkpoint instead"
        ) from error


def _from_array(value: object) -> object:
    """Lists and numbers for an array of any library; anything else comes back as it is."""
    if not hasattr(value, "dtype"):  # every array has one; files have a `detach`, and it would close them
        return value
    for method in ("detach", "numpy", "tolist"):  # torch; TensorFlow and Keras; numpy, torch and JAX
        convert = getattr(value, method, None)
        if not callable(convert) or (method == "numpy" and callable(getattr(value, "tolist", None))):
            continue
        try:
            value = convert()
        except (TypeError, ValueError, RuntimeError, NotImplementedError, AttributeError) as error:
            raise InvalidInput(
                f"{_shown(value)} has no value yet (is it symbolic, or inside a compiled function?): {error}"
            ) from error
    return value


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def dumps(value: Value) -> str:
    """Write plain data as one line of valid JSON, NaN and infinities included.

    A float that JSON has no word for is written `{"$float": "nan"}` (or `"inf"`, `"-inf"`); a key of the user's that
    begins with `$` gets a second one, so nothing is ambiguous.
    """
    return json.dumps(_escaped(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def loads(text: str | bytes) -> Value:
    """Read what `dumps` wrote.

    Raises:
        Corrupted: the text is not such JSON.
    """
    try:
        return _unescaped(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise Corrupted(f"a stored document is not valid JSON: {error}") from error


def _escaped(value: Value) -> Value:
    if isinstance(value, float) and not math.isfinite(value):
        return {_FLOAT: str(value)}
    if isinstance(value, list):
        return [_escaped(item) for item in value]
    if isinstance(value, dict):
        return {_ESCAPE + key if key.startswith(_ESCAPE) else key: _escaped(item) for key, item in value.items()}
    return value


def _unescaped(value: Value) -> Value:
    if isinstance(value, list):
        return [_unescaped(item) for item in value]
    if isinstance(value, dict):
        if len(value) == 1 and _FLOAT in value:
            return _float(value[_FLOAT])
        return {key.removeprefix(_ESCAPE): _unescaped(item) for key, item in value.items()}
    return value


def _float(word: Value) -> float:
    if not isinstance(word, str) or word not in _FLOATS:
        raise ValueError(f"{_FLOAT} is {word!r}, which is none of {', '.join(_FLOATS)}")
    return _FLOATS[word]
