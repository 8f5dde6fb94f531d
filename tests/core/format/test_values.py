from __future__ import annotations

import argparse
import collections
import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import json
import math
import types
import uuid
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from replicate_core.errors import Corrupted, InvalidInput
from replicate_core.format.values import DEPTH_MAX, DEPTH_READ_MAX, dumps, is_deeper, loads, plain, renamed

KEYS = st.text(max_size=6) | st.text("$float", max_size=8) | st.sampled_from(["$float", "$$float", "$", ""])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10) | st.sampled_from(["nan", "inf"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=15,
)
"""Plain data. Compared by `repr` where it may hold NaN, which also tells 1 from 1.0 and from True."""


def strict_json(text: str) -> object:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    return json.loads(text, parse_constant=refuse)


class Tensor:
    """Behaves as one of torch that needs a gradient."""

    dtype = "torch.float32"

    def __init__(self, numbers, *, requires_grad=True):
        self.numbers, self.requires_grad = numbers, requires_grad

    def detach(self):
        return Tensor(self.numbers, requires_grad=False)

    def numpy(self):
        raise TypeError("can't convert a cuda device tensor to numpy")

    def tolist(self):
        assert not self.requires_grad
        return self.numbers


class MetaTensor(Tensor):
    """Behaves as one of torch without data."""

    def detach(self):
        return self

    def tolist(self):
        raise NotImplementedError("Cannot copy out of meta tensor; no data!")


class EagerTensor:
    """Behaves as one of TensorFlow, or a variable of Keras: it has no `tolist`."""

    dtype = "float32"

    def __init__(self, numbers):
        self.numbers = numbers

    def numpy(self):
        return np.array(self.numbers, np.float32)


class SymbolicTensor(EagerTensor):
    """Behaves as one of TensorFlow inside a compiled function."""

    def numpy(self):
        raise NotImplementedError("numpy() is only available when eager execution is enabled")


class Tracer:
    """Behaves as one of JAX: an array while a function is being compiled."""

    dtype = "float32"

    def tolist(self):
        raise TypeError("The numpy.ndarray conversion method __array__() was called on traced array")


class Optimizer(str, enum.Enum):
    ADAM = "adam"


class Size(enum.IntEnum):
    LARGE = 3


# Writing and reading.


@given(VALUES)
@example({"$float": "nan"})
@example({"$float": {"$float": "inf"}, "$$float": math.nan})
@example([math.nan, math.inf, -math.inf, -0.0])
def test_what_is_written_is_read_back_as_it_was(value):
    assert repr(loads(dumps(value))) == repr(value)
    assert repr(loads(dumps(value).encode())) == repr(value)


@given(VALUES)
def test_what_is_written_is_one_line_of_valid_json(value):
    text = dumps(value)
    strict_json(text)
    assert not {"\n", "\r"} & set(text)


@pytest.mark.parametrize(("number", "word"), [(math.nan, "nan"), (math.inf, "inf"), (-math.inf, "-inf")])
def test_a_float_that_json_has_no_word_for_is_named(number, word):
    assert dumps({"loss": number}) == f'{{"loss":{{"$float":"{word}"}}}}'


def test_json_without_anything_special_is_written_as_it_is():
    assert dumps({"loss": 0.5, "näme": ["a", None, True]}) == '{"loss":0.5,"näme":["a",null,true]}'


@pytest.mark.parametrize(
    "text",
    ["", "{", "{1:2}", '{"$float":"NaN"}', '{"$float":1}', '{"$float":[]}', b"\xff", "[" * 100_000, "9" * 10_000],
)
def test_what_was_not_written_so_is_corrupted(text):
    with pytest.raises(Corrupted, match="not valid JSON"):
        loads(text)


def test_text_that_is_no_unicode_is_corrupted():
    with pytest.raises(Corrupted):
        loads(b'{"name":"\\ud800"}')


@given(st.binary(max_size=30) | st.text(max_size=30))
def test_reading_anything_at_all_fails_in_one_way_only(text):
    try:
        value = loads(text)
    except Corrupted:
        return
    assert repr(loads(dumps(value))) == repr(value)


# Taking what users hand in.


@given(VALUES)
def test_plain_data_stays_as_it_is(value):
    assert repr(plain(value, name="params")) == repr(value)


@given(VALUES)
def test_a_copy_is_taken(value):
    taken = plain({"list": [value]}, name="params")
    before = repr(taken)
    taken["list"].append(1)
    assert repr(plain({"list": [value]}, name="params")) == before


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        ("bool", True),
        *((dtype, 2) for dtype in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")),
        *((dtype, 0.5) for dtype in ("float16", "float32", "float64", "longdouble")),
        ("str", "adam"),
        ("bytes", "adam"),
        ("object", "adam"),
    ],
)
def test_numpy_becomes_numbers_and_lists(dtype, value):
    array = np.array([[value], [value]], np.dtype(dtype))
    for given_value, wanted in [
        (array, [[value], [value]]),
        (array[0, 0], value),
        (np.array(value, np.dtype(dtype)), value),
        (array[:0], []),
    ]:
        taken = plain(given_value, name="params")
        assert repr(taken) == repr(wanted)
        assert loads(dumps(taken)) == wanted


def test_numbers_of_numpy_lose_their_type_and_not_their_value():
    taken = plain({"a": np.float64(0.1), "b": np.float16("nan"), "c": np.bool_(0)}, name="metrics")
    assert repr(taken) == "{'a': 0.1, 'b': nan, 'c': False}"
    assert type(taken["a"]) is float


def test_objects_inside_an_array_are_taken_one_by_one():
    array = np.array([b"text", np.float32(0.5), None, {"path": Path("a/b")}, (1, 2)], dtype=object)
    assert plain(array, name="params") == ["text", 0.5, None, {"path": "a/b"}, [1, 2]]


def test_a_structured_array_becomes_lists():
    array = np.array([(1, 0.5), (2, 1.5)], dtype=[("step", "i4"), ("loss", "f4")])
    assert plain(array, name="params") == [[1, 0.5], [2, 1.5]]


@pytest.mark.parametrize("numbers", [0.5, [], [[1.0, 2.0], [3.0, 4.0]]])
@pytest.mark.parametrize("library", [Tensor, EagerTensor])
def test_tensors_become_numbers_and_lists(library, numbers):
    assert plain({"weights": library(numbers)}, name="params") == {"weights": numbers}


@pytest.mark.parametrize(
    "symbol", [Tracer(), SymbolicTensor([1.0]), MetaTensor([1.0])], ids=lambda it: type(it).__name__
)
def test_a_tensor_without_a_value_is_refused_with_its_key(symbol):
    with pytest.raises(InvalidInput, match="has no value yet") as refused:
        plain({"model": {"loss": symbol}}, name="metrics")
    assert "metrics['model']['loss']" in str(refused.value)


def test_paths_become_text():
    assert plain({"data": Path("a") / "b"}, name="params") == {"data": "a/b"}


def test_tuples_become_lists():
    assert plain({"betas": (0.9, 0.999)}, name="params") == {"betas": [0.9, 0.999]}


def test_bytes_that_are_text_become_text():
    assert plain("grüße".encode(), name="params") == "grüße"


def test_members_of_an_enum_become_what_they_stand_for():
    taken = plain({"optimizer": Optimizer.ADAM, "size": Size.LARGE, "sizes": {Size.LARGE: 1}}, name="params")
    assert repr(taken) == "{'optimizer': 'adam', 'size': 3, 'sizes': {'3': 1}}"


class Split(enum.Enum):
    TRAIN = enum.auto()
    TEST = "test"


@dataclasses.dataclass
class Adam:
    lr: float
    betas: tuple[float, float]


def test_members_of_an_enum_that_stand_for_no_text_become_their_names():
    taken = plain({"split": Split.TRAIN, Split.TRAIN: Split.TEST}, name="params")
    assert taken == {"split": "TRAIN", "TRAIN": "test"}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (dt.datetime(2026, 11, 25, 18, 0, tzinfo=dt.timezone.utc), "2026-11-25T18:00:00+00:00"),
        (dt.date(2026, 11, 25), "2026-11-25"),
        (dt.time(18, 30), "18:30:00"),
        (dt.timedelta(hours=1), "1:00:00"),
        (decimal.Decimal("0.10"), "0.10"),
        (fractions.Fraction(1, 3), "1/3"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (np.dtype("float32"), "float32"),
        (np.datetime64("2026-11-25"), "2026-11-25"),
    ],
    ids=repr,
)
def test_what_has_a_text_of_its_own_becomes_that_text(value, text):
    assert plain({"a": value}, name="params") == {"a": text}


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        *((kind, kind.__name__) for kind in (bool, int, float, complex, str, bytes)),
        *((kind, kind.__name__) for kind in (np.float16, np.float32, np.float64, np.int8, np.int64, np.complex64)),
        (np.bool_, "bool"),
        (np.str_, "str"),
        (type("bfloat16", (), {"__module__": "jax.numpy"}), "bfloat16"),
    ],
)
def test_types_that_are_given_as_dtypes_become_their_names(kind, text):
    assert plain({"dtype": kind}, name="params") == {"dtype": text}


@pytest.mark.parametrize(
    ("value", "items"),
    [
        ({3, 1, 2}, [1, 2, 3]),
        (frozenset(("b", "a")), ["a", "b"]),
        ({np.int64(2), 1}, [1, 2]),
        ({"b", 1, None}, ["b", 1, None]),
        ({(2, 1), (1, 2)}, [[1, 2], [2, 1]]),
        ({"b": 1, "a": 2}.keys(), ["a", "b"]),
        (set(), []),
    ],
    ids=("ints", "texts", "numpy", "mixed", "tuples", "keys", "none"),  # the order in a set's repr differs by process
)
def test_sets_become_sorted_lists_or_those_in_the_order_of_their_texts(value, items):
    assert plain({"a": value}, name="params") == {"a": items}


def test_the_error_names_what_is_taken():
    with pytest.raises(
        InvalidInput, match=r"a date or time, a path, a member of an Enum, a dataclass, a dtype, or a list"
    ):
        plain(object(), name="params")


@pytest.mark.parametrize("value", [collections.deque([1, 2]), collections.UserList([1, 2])], ids=repr)
def test_sequences_of_any_library_become_lists(value):
    assert plain({"a": value}, name="params") == {"a": [1, 2]}


@pytest.mark.parametrize("kind", [argparse.Namespace, types.SimpleNamespace, Adam])
def test_dataclasses_and_namespaces_become_dictionaries(kind):
    taken = plain({"optimizer": kind(lr=0.1, betas=(0.9, 0.99))}, name="params")
    assert taken == {"optimizer": {"lr": 0.1, "betas": [0.9, 0.99]}}


@dataclasses.dataclass
class Precision:
    dtype: str


def test_what_has_a_dtype_need_not_be_an_array():
    assert plain({"precision": Precision("float16")}, name="params") == {"precision": {"dtype": "float16"}}


def test_a_dataclass_itself_is_refused():
    with pytest.raises(InvalidInput, match=r"params\['optimizer'\]"):
        plain({"optimizer": Adam}, name="params")


@pytest.mark.parametrize(
    ("key", "text"), [(1, "1"), (0.5, "0.5"), (np.float64(0.5), "0.5"), (np.int64(1), "1"), (np.str_("a"), "a")]
)
def test_keys_that_are_numbers_become_text(key, text):
    assert repr(plain({key: 7}, name="params")) == repr({text: 7})


# Refusing what can't be recorded.


@pytest.mark.parametrize(
    "value",
    [object(), 1j, np.complex64(1j), len, range(3), bytearray(2), object, type, np.ndarray, {1, 1j}],
    ids=lambda value: str(type(value)),
)
def test_what_can_not_be_recorded_is_refused_with_its_key(value):
    with pytest.raises(InvalidInput) as refused:
        plain({"model": {"net": value}}, name="params")
    assert "params['model']['net']" in str(refused.value)


def test_the_key_in_an_error_counts_the_places_of_a_list():
    with pytest.raises(InvalidInput, match=r"params\['layers'\]\[1\]\['units'\] is a builtins\.complex \(1j\)"):
        plain({"layers": [{"units": 32}, {"units": 1j}]}, name="params")


def test_a_long_value_is_shown_shortened():
    with pytest.raises(InvalidInput) as refused:
        plain(bytearray(range(1000 % 256)), name="params")
    assert "bytearray(b" in str(refused.value)
    assert "..." in str(refused.value)
    assert len(str(refused.value)) < 350


def test_an_array_of_what_can_not_be_recorded_is_refused_with_its_place():
    with pytest.raises(InvalidInput, match=r"params\['net'\]\[1\]"):
        plain({"net": np.array([1, object()], dtype=object)}, name="params")


@pytest.mark.parametrize("mode", ["r", "rb"])
def test_an_open_file_is_refused_and_stays_usable(tmp_path, mode):
    path = tmp_path / "data.txt"
    path.write_text("still here")
    with path.open(mode) as file:
        with pytest.raises(InvalidInput, match=r"params\['file'\]"):
            plain({"file": file}, name="params")
        assert len(file.read()) == len("still here")


def test_binary_data_is_sent_to_a_checkpoint():
    with pytest.raises(InvalidInput, match=r"params\['net'\] is binary data \(2 bytes\): save it as a file"):
        plain({"net": b"\xff\x00"}, name="params")


@pytest.mark.parametrize("value", ["\ud800", Path("\udcff"), ["\ud800"]])
def test_text_that_is_no_unicode_is_refused(value):
    with pytest.raises(InvalidInput, match=r"params\['name'\].*is not valid Unicode text"):
        plain({"name": value}, name="params")


def test_a_key_that_is_no_unicode_is_refused():
    with pytest.raises(InvalidInput, match=r"the key '\\ud800' of params\['model'\] is not valid Unicode text"):
        plain({"model": {"\ud800": 1}}, name="params")


@pytest.mark.parametrize("key", [None, True, np.bool_(1), (1, 2), b"net", 1j], ids=repr)
def test_keys_of_other_types_are_refused(key):
    with pytest.raises(InvalidInput, match=r"params\['model'\] has the key .*: keys must be strings"):
        plain({"model": {key: 1}}, name="params")


@pytest.mark.parametrize("mapping", [{1: "a", "1": "b"}, {"0.5": "a", 0.5: "b"}])
def test_keys_that_become_the_same_text_are_refused(mapping):
    with pytest.raises(InvalidInput, match="twice, once as a string and once as a number"):
        plain(mapping, name="params")


@pytest.mark.parametrize("value", [10**5000, {10**5000: 1}], ids=["value", "key"])
def test_a_number_too_long_to_be_written_is_refused(value):
    with pytest.raises(InvalidInput, match="params"):
        plain(value, name="params")


def test_a_structure_that_contains_itself_is_refused():
    mapping: dict[str, object] = {}
    mapping["self"] = mapping
    with pytest.raises(InvalidInput, match="does it contain itself"):
        plain(mapping, name="params")


def test_an_array_that_contains_itself_is_refused():
    array = np.empty(1, dtype=object)
    array[0] = array
    with pytest.raises(InvalidInput, match="does it contain itself"):
        plain(array, name="params")


def test_the_deepest_structure_that_is_taken_comes_back():
    nested: object = "bottom"
    for _ in range(DEPTH_MAX):
        nested = [nested]
    assert loads(dumps(plain(nested, name="params"))) == nested
    with pytest.raises(InvalidInput, match=f"deeper than {DEPTH_MAX} levels"):
        plain([nested], name="params")


def test_an_argument_may_be_given_under_its_former_name_but_not_under_both():
    assert renamed("new", "a", "old", None) == renamed("new", None, "old", "a") == "a"
    assert renamed("new", None, "old", None) is None
    with pytest.raises(InvalidInput, match="new and old are two names of the same argument: give only new"):
        renamed("new", "a", "old", "a")


@given(VALUES)
def test_nesting_is_counted_in_levels(value):
    depth = next(levels for levels in range(20) if not is_deeper(value, levels))
    assert not is_deeper(value, depth + 1)
    assert is_deeper([value], depth)
    assert not is_deeper([value], depth + 1)


def test_nesting_of_thousands_is_counted_too():
    value = 1
    for level in range(3000):
        value = {"a": value} if level % 2 else [value, 2]
    assert is_deeper(value, 2999)
    assert not is_deeper(value, 3000)


def test_whatever_is_taken_is_read_back():
    assert DEPTH_MAX < DEPTH_READ_MAX
