"""The user's values (params, metrics) as plain data, and plain data as valid JSON.

Arrays of numpy, torch, TensorFlow and JAX are recognised by their methods. Containers of OmegaConf are sequences and
mappings. None of these libraries is imported.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import json
import math
import os
import re
import types
import uuid
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, TypeAlias, TypeGuard, TypeVar

from replicate_core.errors import Corrupted, InvalidInput

T = TypeVar("T")

Value: TypeAlias = "bool | int | float | str | list[Value] | dict[str, Value] | None"
"""A param or a metric as it is recorded. Floats may be NaN or infinite."""

DEPTH_MAX = 64
"""Maximum nesting of a value that is recorded: deeper structures are most likely cycles."""

DEPTH_READ_MAX = 4 * DEPTH_MAX
"""Maximum nesting of a value that is read back: functions that handle values recurse once a level."""

WHOLE_DIGITS_MAX = 4000
"""Maximum number of digits of a whole number: Python itself refuses to convert much longer ones."""

_WHOLE_LIMIT = 10**WHOLE_DIGITS_MAX
_MOMENTS = (dt.date, dt.time)  # a datetime is a date
_TEXTUAL = (decimal.Decimal, fractions.Fraction, uuid.UUID, dt.timedelta)
_TEXTUAL_NAMES = frozenset(
    {"torch.dtype", "torch.device", "torch.layout", "torch.memory_format", "numpy.dtype"}  # by name: not imported
)
_SCALAR_TYPES = (bool, int, float, complex, str, bytes)
_NOT_LISTS = (range, bytearray, memoryview)
_ESCAPE = "$"
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
_FLOAT = "$float"
_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)
_FLOATS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def is_number(value: object) -> TypeGuard[float]:
    """Tell whether a value is a single number; NaN is one, a bool is not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def plain(value: object, *, name: str) -> Value:
    """Convert a user's value to plain data.

    Scalars and arrays of numpy, torch, TensorFlow and JAX become numbers and lists. Tuples and other sequences, such as
    OmegaConf's, become lists; sets become sorted lists. Dataclasses and namespaces become dictionaries. Types such as
    `float` and `numpy.float32` become their names. Members of an Enum become their values if these are strings, else
    their names. Dates and times become ISO 8601 strings. Paths, decimals, fractions, durations, UUIDs, dtypes and
    devices of torch and numpy, and keys that are numbers become strings.

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
    # The order matters: bool is an int, and numpy's float64 is a float.
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return _whole(int(value), name)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, str):
        return _text(str.__str__(value), name)  # the value of an Enum member, not its name
    if isinstance(value, bytes):
        return _decoded(value, name)
    if isinstance(value, os.PathLike):
        return _plain(os.fspath(value), name, depth + 1)
    if (described := _described(value)) is not None:
        return _text(described, name)
    if isinstance(value, Mapping):
        return _plain_mapping(value, name, depth)
    if isinstance(value, Sequence) and not isinstance(value, _NOT_LISTS):
        return [_plain(item, f"{name}[{index}]", depth + 1) for index, item in enumerate(value)]
    if isinstance(value, AbstractSet):
        return _in_order([_plain(item, f"an item of {name}", depth + 1) for item in value])
    if (array := _from_array(value, name)) is not value:
        return _plain(array, name, depth + 1)
    if (fields := _fields(value)) is not None:
        return _plain_mapping(fields, name, depth)
    raise InvalidInput(
        f"{name} is a {type(value).__module__}.{type(value).__qualname__} ({_shown(value)}), which can't be recorded. "
        "Give a number, a string, a bool, None, an array, a date or time, a path, a member of an Enum, a dataclass, a "
        "dtype, or a list, set or dict of these; str(...) records it as a string"
    )


def _in_order(items: list[Any]) -> list[Value]:
    """The items of a set, sorted; by their `repr` if they can't be compared."""
    try:
        return sorted(items)
    except TypeError:
        return sorted(items, key=repr)


def _described(value: object) -> str | None:
    """The string that people write for a value, such as a date or a dtype; None for other values."""
    if isinstance(value, enum.Enum):
        return value.value if isinstance(value.value, str) else value.name
    if isinstance(value, _MOMENTS):
        return value.isoformat()
    if isinstance(value, _TEXTUAL):
        return str(value)
    if isinstance(value, type):
        return _type_name(value)
    names = (f"{base.__module__}.{base.__qualname__}" for base in type(value).__mro__)
    return None if _TEXTUAL_NAMES.isdisjoint(names) else str(value)


def _type_name(kind: type) -> str | None:
    """The name of a type that is used as a dtype: Python's own, or a scalar of numpy or JAX; None for any other."""
    if kind in _SCALAR_TYPES:
        return kind.__name__
    is_scalar = kind.__module__ == "numpy" and any(base.__qualname__ == "generic" for base in kind.__mro__)
    if is_scalar or kind.__module__ == "jax.numpy":
        return kind.__name__.rstrip("_")  # bool_ and str_ of older versions
    return None


def _fields(value: object) -> Mapping[Any, object] | None:
    """The fields of a dataclass or a namespace; None for anything else."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, types.SimpleNamespace) or type(value).__module__ == "argparse":
        return dict(vars(value))
    return None


def _plain_mapping(mapping: Mapping[object, object], name: str, depth: int) -> dict[str, Value]:
    result: dict[str, Value] = {}
    for given, item in mapping.items():
        is_known = hasattr(given, "dtype") or isinstance(given, enum.Enum)  # np.int64, say
        key = _plain(given, f"a key of {name}", depth + 1) if is_known else given
        if isinstance(key, bool) or not isinstance(key, (str, int, float)):
            raise InvalidInput(f"{name} has the key {_shown(key)} of type {type(key).__name__}: keys must be strings")
        called = f"the key {_shown(key)} of {name}" if isinstance(key, str) else f"a key of {name}"
        text = str(_plain(key, called, depth + 1))
        if text in result:
            raise InvalidInput(f"{name} has the key {text!r} twice, once as a string and once as a number")
        result[text] = _plain(item, f"{name}[{text!r}]", depth + 1)
    return result


def _whole(number: int, name: str) -> int:
    if abs(number) >= _WHOLE_LIMIT:
        raise InvalidInput(f"{name} is a number of more than {WHOLE_DIGITS_MAX} digits: record it as a string instead")
    return number


def _text(text: str, name: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidInput(f"{name} is not valid Unicode text: {error.reason} at character {error.start}") from error
    return text


def _decoded(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInput(
            f"{name} is binary data ({len(data)} bytes): save it as a file of a checkpoint instead"
        ) from error


def _from_array(value: object, name: str) -> object:
    """Lists and numbers for an array of any library; anything else is returned as it is."""
    if isinstance(value, type) or not hasattr(value, "dtype"):  # calling `detach` on a file would make it unusable
        return value
    array = value
    for method in ("detach", "numpy", "tolist"):  # torch; TensorFlow and Keras; numpy, torch and JAX
        convert = getattr(value, method, None)
        if not callable(convert) or (method == "numpy" and callable(getattr(value, "tolist", None))):
            continue
        try:
            value = convert()
        except (TypeError, ValueError, RuntimeError, NotImplementedError, AttributeError) as error:
            raise InvalidInput(
                f"{name} has no value yet (is it symbolic, or inside a compiled function?): {_shown(array)}: {error}"
            ) from error
    if type(value) is not type(array):
        return value
    try:
        return float(value)  # type: ignore[arg-type]  # numpy's longdouble has no plain counterpart
    except (TypeError, ValueError):
        return array  # a model has a dtype, too, and is not an array


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def dumps(value: Value) -> str:
    """Write plain data as one line of valid JSON, NaN and infinities included.

    A float that JSON can't express is written `{"$float": "nan"}` (or `"inf"`, `"-inf"`). A user's key that begins with
    `$` gets a second one, so nothing is ambiguous.
    """
    try:
        text = _JSON.encode(value)
    except ValueError:  # a float that JSON can't express
        return _JSON.encode(_escaped(value))
    return text if '"$' not in text else _JSON.encode(_escaped(value))


def loads(text: str | bytes) -> Value:
    """Read what `dumps` wrote.

    Raises:
        Corrupted: the text is not JSON of this form.
    """
    try:
        decoded = _unicode(text)
        value: Value = json.loads(decoded)
        return _unescaped(value) if '"$' in decoded or "\\u0024" in decoded else value
    except (ValueError, RecursionError) as error:
        raise Corrupted(f"a stored document is not valid JSON: {error}") from error


def is_deeper(value: Value, levels: int) -> bool:
    """Tell whether lists and mappings are nested deeper than `levels`."""
    layer = [value]
    for _ in range(levels):
        layer = [inner for outer in layer for inner in _inside(outer)]
        if not layer:
            return False
    return any(isinstance(inner, (list, dict)) for inner in layer)


def _inside(value: Value) -> Iterable[Value]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _unicode(text: str | bytes) -> str:
    """The text as a string. Raises `ValueError` for an escaped lone surrogate, which is not Unicode."""
    decoded = text if isinstance(text, str) else text.decode("utf-8")
    if "\\u" in decoded and _SURROGATE_ESCAPE.search(decoded):
        json.dumps(json.loads(decoded), ensure_ascii=False).encode("utf-8")  # raises if it is alone
    return decoded


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


def renamed(name: str, value: T | None, former: str, former_value: T | None) -> T | None:
    """The value of an argument that may also be given by its former name.

    Raises:
        InvalidInput: it is given under both.
    """
    if value is not None and former_value is not None:
        raise InvalidInput(f"{name} and {former} are two names of the same argument: give only {name}")
    return former_value if value is None else value
