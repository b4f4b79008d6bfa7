"""What the standard library does as well, but takes longer to import than a lookup may take.

`dataclasses` brings inspect, `typing` and `json` bring re. To a type checker these are the real
ones; and to `dataclasses` a class that is made here is one of its own.
"""

from __future__ import annotations

from collections import namedtuple
from operator import attrgetter

TYPE_CHECKING = False

if TYPE_CHECKING:
    from dataclasses import dataclass, field, fields, replace
    from json import loads
    from typing import NamedTuple
else:
    try:
        from _json import make_scanner
    except ImportError:
        make_scanner = None

    _MISSING = object()

    class _Field:
        """As `dataclasses.Field`, of which it has what is asked for here."""

        __slots__ = ("compare", "default", "metadata", "name", "repr", "type")

        def __init__(self, default, repr, compare, metadata):  # noqa: A002 (as the real one has it)
            self.default, self.repr, self.compare, self.metadata = default, repr, compare, metadata
            self.name = self.type = ""

    def field(*, default=_MISSING, repr=True, compare=True, metadata=None):  # noqa: A002
        """As `dataclasses.field`."""
        return _Field(default, repr, compare, metadata or {})

    def fields(one):
        """As `dataclasses.fields`."""
        cls = one if isinstance(one, type) else type(one)
        if "_light" in cls.__dict__:
            return tuple(cls._light.values())
        import dataclasses

        return dataclasses.fields(cls)

    def replace(one, /, **changes):
        """As `dataclasses.replace`."""
        cls = type(one)
        return cls(**{each.name: getattr(one, each.name) for each in fields(cls)} | changes)

    def dataclass(*, frozen, slots, kw_only, order=False):
        """As `dataclasses.dataclass`, always frozen, with slots, and by keyword only."""
        if not (frozen and slots and kw_only):
            raise TypeError("only frozen, slotted and keyword-only ones are made here")
        return lambda cls: _made(cls, order)

    def _made(cls, order):
        inherited, own = {}, {}
        for base in reversed(cls.__mro__[1:]):
            inherited |= base.__dict__.get("_light", {})
        for name, of in cls.__dict__.get("__annotations__", {}).items():  # noqa: RUF063
            default = cls.__dict__.get(name, _MISSING)
            own[name] = one = default if isinstance(default, _Field) else field(default=default)
            one.name, one.type = name, of
        known = inherited | own
        body = {
            name: value
            for name, value in cls.__dict__.items()
            if name not in own and name not in ("__dict__", "__weakref__")
        }
        body |= {
            "__slots__": tuple(name for name in own if name not in inherited),
            "__qualname__": cls.__qualname__,
            "_light": known,
            "__match_args__": (),
            "__dataclass_fields__": _Late("__dataclass_fields__"),
            "__dataclass_params__": _Late("__dataclass_params__"),
            "__setattr__": _frozen,
            "__delattr__": _frozen,
            "__getstate__": _state,
            "__setstate__": _set_state,
            "__replace__": replace,
        }
        methods = (
            *_written(known, "__post_init__" in body),
            _repr(known),
            *_compared(known, order),
        )
        body |= {each.__name__: each for each in methods if each.__name__ not in cls.__dict__}
        return type(cls)(cls.__name__, cls.__bases__, body)

    def _written(known, checked):
        """Written out as text: arguments would have no names, and hashes take thrice the time."""
        lines = [f" _set(self, {name!r}, {name})" for name in known]
        lines += [" self.__post_init__()"] * checked
        given = {f"_{name}": each.default for name, each in known.items()}
        values = {"_set": object.__setattr__} | given
        named = (
            name if value is _MISSING else f"{name}=_{name}"
            for name, value in ((name, each.default) for name, each in known.items())
        )
        arguments = ", ".join(("*", *named)) if known else ""
        compared = "".join(f"self.{name}, " for name, each in known.items() if each.compare)
        text = f"def __init__(self, {arguments}):\n" + "\n".join(lines or [" pass"])
        exec(f"{text}\ndef __hash__(self):\n return hash(({compared}))", values)
        made = values["__init__"]
        made.__annotations__ = {name: each.type for name, each in known.items()} | {"return": None}
        return made, values["__hash__"]

    def _repr(known):
        names = tuple(name for name, each in known.items() if each.repr)

        def __repr__(self):  # noqa: N807
            values = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
            return f"{type(self).__qualname__}({values})"

        return __repr__

    def _compared(known, order):
        names = tuple(name for name, each in known.items() if each.compare)
        values = attrgetter(*names) if names else lambda _: ()

        def __eq__(self, other):  # noqa: N807
            if self is other:
                return True
            return values(self) == values(other) if type(self) is type(other) else NotImplemented

        def __lt__(self, other):  # noqa: N807
            return values(self) < values(other) if type(self) is type(other) else NotImplemented

        def __le__(self, other):  # noqa: N807
            return values(self) <= values(other) if type(self) is type(other) else NotImplemented

        def __gt__(self, other):  # noqa: N807
            return values(self) > values(other) if type(self) is type(other) else NotImplemented

        def __ge__(self, other):  # noqa: N807
            return values(self) >= values(other) if type(self) is type(other) else NotImplemented

        return (__eq__, *((__lt__, __le__, __gt__, __ge__) if order else ()))

    def _frozen(self, name, *_):  # noqa: ARG001
        from dataclasses import FrozenInstanceError

        raise FrozenInstanceError(f"cannot assign to field {name!r}")

    def _state(self):
        return [getattr(self, name) for name in self._light]

    def _set_state(self, state):
        for name, value in zip(self._light, state, strict=True):
            object.__setattr__(self, name, value)

    class _Late:
        """What `dataclasses` has to say of a class: found when it is first asked for."""

        def __init__(self, name):
            self._name = name

        def __get__(self, one, cls):
            import dataclasses

            known = next(each for each in cls.__mro__ if "_light" in each.__dict__)
            made = []
            for each in known._light.values():
                some = {"default": each.default} if each.default is not _MISSING else {}
                options = {"repr": each.repr, "compare": each.compare, "metadata": each.metadata}
                made.append((each.name, each.type, dataclasses.field(**some, **options)))
            real = dataclasses.make_dataclass(
                known.__name__, made, frozen=True, slots=True, kw_only=True
            )
            for name in ("__dataclass_fields__", "__dataclass_params__"):
                setattr(known, name, getattr(real, name))
            return getattr(known, self._name)

    class _Tuples(type):
        """Makes subclasses of `NamedTuple`."""

        def __new__(meta, name, bases, body):
            if not bases:
                return super().__new__(meta, name, bases, body)
            names = tuple(body.get("__annotations__", {}))
            defaults = [body[each] for each in names if each in body]
            made = namedtuple(name, names, defaults=defaults, module=body["__module__"])
            for each, value in body.items():
                if each not in names and each not in ("__module__", "__qualname__"):
                    setattr(made, each, value)
            made.__qualname__ = body["__qualname__"]
            return made

    class NamedTuple(metaclass=_Tuples):
        """As `typing.NamedTuple`."""

    class _Context:
        """How JSON is read: as `json.loads` does."""

        strict, object_hook, object_pairs_hook = True, None, None
        parse_float, parse_int = float, int
        parse_constant = {
            "NaN": float("nan"),
            "Infinity": float("inf"),
            "-Infinity": -float("inf"),
        }.__getitem__
        memo = {}  # noqa: RUF012

    def loads(text, _space=" \t\n\r"):
        """As `json.loads`, of text."""
        inner = text.strip(_space)
        try:
            value, end = _scan(inner, 0)
        except (StopIteration, ValueError):
            end = -1
        if end != len(inner):  # it is no JSON, and `json` says why
            from json import loads

            return loads(text)
        return value

    def _scan(text, start):
        global _scan
        if make_scanner is None:
            raise StopIteration
        _scan = make_scanner(_Context)
        return _scan(text, start)


__all__ = ["NamedTuple", "dataclass", "field", "fields", "loads", "replace"]
