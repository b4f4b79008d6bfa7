"""What is made without `dataclasses`, `typing` and `json` is as if it were made with them."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import json
import pickle
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemmtune import Device, Gemm, Lookup, light, literals
from gemmtune.device import Fragment, Limits
from gemmtune.kernels import FAMILIES, base, coopmat_config, gemv_config
from gemmtune.kernels.base import Launch
from gemmtune.lookup.predict import Speed
from gemmtune.problem import ACTIVATIONS, DTYPES, MATHS

MADE = [Device, Fragment, Gemm, Launch, Limits, Lookup, *(one.config for one in FAMILIES.values())]


def real(cls: type[Any]) -> type[Any]:
    """The same fields as `dataclasses` makes them."""
    fields = []
    for one in light.fields(cls):
        given = one.default is not light._MISSING  # type: ignore[attr-defined]
        default = {"default": one.default} if given else {}
        options = {"repr": one.repr, "compare": one.compare, "metadata": one.metadata}
        fields.append((one.name, one.type, dataclasses.field(**default, **options)))
    return dataclasses.make_dataclass(cls.__name__, fields, frozen=True, slots=True, kw_only=True)


@pytest.mark.parametrize("cls", MADE, ids=lambda cls: cls.__name__)
def test_dataclasses_takes_it_for_its_own(cls: type[Any]) -> None:
    wanted = real(cls)
    assert dataclasses.is_dataclass(cls)
    ours, theirs = dataclasses.fields(cls), dataclasses.fields(wanted)
    what = ("name", "type", "default", "repr", "compare", "init", "kw_only")
    for one, other in zip(ours, theirs, strict=True):
        assert [getattr(one, each) for each in what] == [getattr(other, each) for each in what]
        assert dict(one.metadata) == dict(other.metadata)
    parameters = [inspect.signature(each).parameters for each in (cls, wanted)]
    assert [*parameters[0]] == [*parameters[1]]
    for one, other in zip(*(each.values() for each in parameters), strict=True):
        assert (one.kind, one.default) == (other.kind, other.default)


def test_values_compare_hash_show_copy_and_change_as_dataclasses_do() -> None:
    one = Gemm(m=1, n=2, k=3, bias=True)
    same = Gemm(m=1, n=2, k=3, bias=True)
    assert one == same
    assert hash(one) == hash(same)
    assert one != Gemm(m=1, n=2, k=4, bias=True)
    assert one != Limits()
    assert repr(one).startswith("Gemm(m=1, n=2, k=3, a='f32', ")
    assert (
        dataclasses.replace(one, k=9) == light.replace(one, k=9) == Gemm(m=1, n=2, k=9, bias=True)
    )
    assert dataclasses.asdict(one)["bias"] is True
    for copied in (pickle.loads(pickle.dumps(one)), copy.copy(one), copy.deepcopy(one)):
        assert copied == one
    assert not hasattr(one, "__dict__")


def test_nothing_about_them_can_be_changed() -> None:
    one = Gemm(m=1, n=2, k=3)
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign to field 'm'"):
        one.m = 2  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        del one.m  # type: ignore[misc]


def test_missing_and_unknown_values_are_told_by_name() -> None:
    with pytest.raises(TypeError, match="missing 1 required keyword-only argument: 'k'"):
        Gemm(m=1, n=2)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="unexpected keyword argument 'o'"):
        Gemm(m=1, n=2, k=3, o=4)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="positional"):
        Gemm(1, 2, 3)  # type: ignore[misc]
    with pytest.raises(TypeError, match="only frozen"):
        light.dataclass(frozen=False, slots=True, kw_only=True)


def test_those_with_an_order_have_one() -> None:
    small, large = (Fragment(size=size, ab="f16", acc="f32") for size in (8, 16))
    assert sorted([large, small]) == [small, large]
    assert small < large
    assert small <= large
    assert large > small
    assert large >= large
    with pytest.raises(TypeError):
        assert Limits() < Limits()  # type: ignore[operator]


def test_a_dataclass_may_build_on_one() -> None:
    made = dataclasses.make_dataclass(
        "Made", ["size"], bases=(base.Config,), frozen=True, slots=True, kw_only=True
    )
    assert made(size=1).to_json() == {"size": 1}
    assert made.from_json({"size": 1}) == made(size=1)


def test_named_tuples_have_names_defaults_and_methods() -> None:
    speed = Speed(at_once=1, busy=2, launch_ns=3.0, bytes_per_ns=4.0)
    assert speed._fields == ("at_once", "busy", "launch_ns", "bytes_per_ns")
    assert speed == (1, 2, 3.0, 4.0)
    assert speed._replace(busy=5).busy == 5
    assert type(speed).__doc__ == "What is known of a device apart from its single results."
    assert pickle.loads(pickle.dumps(speed)) == speed
    assert FAMILIES["naive"].features == ()
    assert not FAMILIES["naive"].multiplies_matrices


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    ),
    st.sampled_from(("", " ", "\n", "\t ")),
)
def test_json_is_read_as_json_reads_it(value: Any, space: str) -> None:
    text = f"{space}{json.dumps(value)}{space}"
    assert light.loads(text) == json.loads(text) == value


@pytest.mark.parametrize("text", ["", " ", "{", "[1,]", "1 2", "nonsense", '{"a": 1}}', "\x0c1"])
def test_what_is_no_json_is_refused_as_json_refuses_it(text: str) -> None:
    with pytest.raises(json.JSONDecodeError) as wanted:
        json.loads(text)
    with pytest.raises(json.JSONDecodeError) as found:
        light.loads(text)
    assert str(found.value) == str(wanted.value)


def test_json_is_read_without_the_interpreter_s_own_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(text: str, start: int) -> None:
        raise StopIteration

    monkeypatch.setattr(light, "_scan", none)
    assert light.loads('{"a": [1.5, null]}') == {"a": [1.5, None]}


def test_constants_are_the_values_of_the_literals() -> None:
    assert get_args(literals.Dtype) == DTYPES
    assert get_args(literals.Activation) == ACTIVATIONS
    assert get_args(literals.Math) == MATHS
    assert get_args(literals.Dims) == base.DIMS
    assert get_args(literals.Side) == gemv_config.SIDES
    assert get_args(literals.Order) == coopmat_config.ORDERS
    assert get_args(literals.FragmentSource) == coopmat_config.SOURCES
    assert get_args(literals.Hold) == coopmat_config.HOLDS
