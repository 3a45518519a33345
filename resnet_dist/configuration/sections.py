"""Sections of a configuration: conversion to and from plain values, and errors that name the field.

A section is a frozen dataclass whose fields are int, float, str, bool, a Literal, a tuple of int, or a union of
these; each field is followed by its own docstring, from which the command line takes its help.
"""

import ast
import functools
import inspect
import math
import types
import typing
from collections.abc import Hashable
from dataclasses import fields
from typing import Any, Literal, TypeVar, cast, get_args, get_origin

from resnet_dist.errors import ConfigurationError
from resnet_dist.nearest_name import suggestion
from resnet_dist.paths import require_utf8

T = TypeVar("T")


class Section:
    """Base of the configuration's sections: coerces plain values to the declared types, then calls `check`."""

    def __post_init__(self) -> None:
        for name, hint in field_types(cast(Hashable, type(self))).items():
            value = getattr(self, name)
            if hint not in (int, bool) or type(value) is not hint:  # else it is as it should be
                object.__setattr__(self, name, convert(f"{section_name(type(self))}.{name}", value, hint))
        self.check()

    def check(self) -> None:
        """Refuse values that are impossible; sections override it."""

    def require(self, name: str, condition: bool, allowed: str) -> None:
        """Raise a `ConfigurationError` for field `name` unless the condition holds."""
        if not condition:
            raise ConfigurationError(
                f"{section_name(type(self))}.{name}: {_plain(getattr(self, name))!r} is not allowed; "
                f"it must be {allowed}"
            )


def section_name(section: type) -> str:
    """`BatchNormConfig` → `batch_norm`, the name by which configuration files and options know it."""
    stem = section.__name__.removesuffix("Config")
    return "".join(("_" if c.isupper() and i else "") + c.lower() for i, c in enumerate(stem))


@functools.cache
def field_types(section: Hashable) -> dict[str, Any]:
    """Declared type of each field, in order."""
    hints = typing.get_type_hints(section)
    return {item.name: hints[item.name] for item in fields(cast(Any, section))}


@functools.cache
def field_docs(section: type) -> dict[str, str]:
    """The docstring that stands below each field, on one line."""
    (body,) = ast.parse(inspect.cleandoc(inspect.getsource(section))).body
    assert isinstance(body, ast.ClassDef)
    docs = {}
    for statement, following in zip(body.body, body.body[1:], strict=False):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            assert isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
            docs[statement.target.id] = " ".join(str(following.value.value).split())
    return docs


def describe_type(hint: Any) -> str:
    """What a field accepts, in words: `int`, `number or 'dynamic'`, `'A', 'B' or 'C'`."""
    words: list[str] = []
    for option in _options(hint):
        if get_origin(option) is Literal:
            words += [repr(choice) for choice in get_args(option)]
        elif option is not types.NoneType:
            words.append(
                {int: "a whole number", float: "a number", bool: "true or false", str: "text"}.get(
                    option, "whole numbers separated by commas"
                )
            )
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def literals(hint: Any) -> tuple[str, ...]:
    """The words that a field accepts as they are."""
    return tuple(str(c) for option in _options(hint) if get_origin(option) is Literal for c in get_args(option))


def convert(name: str, value: Any, hint: Any) -> Any:
    """`value`, which may be text from a command line, as the declared type; else a `ConfigurationError`."""
    if isinstance(value, str):
        require_utf8(value, name)
    for option in _options(hint):
        converted = _convert_one(value, option)
        if converted is not _NO:
            return converted
    wanted = describe_type(hint)
    if _is_infinite(value):
        wanted = wanted.replace("a number", "a finite number")
    raise ConfigurationError(
        f"{name}: {value!r} is not allowed; it must be {wanted}{suggestion(str(value), literals(hint))}"
    )


def choices(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raise a `ConfigurationError` that names the nearest match unless `value` is one of `allowed`."""
    if value not in allowed:
        which = f"one of {', '.join(allowed)}" if len(allowed) > 1 else allowed[0]
        raise ConfigurationError(f"{name}: {value!r} is not known; it must be {which}{suggestion(value, allowed)}")


def build(cls: type[T], plain: Any) -> T:
    """A configuration of dataclass `cls`, whose fields are sections, from nested plain values.

    Raises a `ConfigurationError` for whatever does not have their form.
    """
    if not isinstance(plain, dict):
        raise ConfigurationError(f"{plain!r} is not allowed; it must be a table of sections")
    sections = field_types(cast(Hashable, cls))
    arguments = {}
    for section, values in plain.items():
        choices("section", section, tuple(sections))
        if not isinstance(values, dict):
            raise ConfigurationError(f"{section}: {values!r} is not allowed; it must be a table of settings")
        for key in values:
            known = tuple(f"{section}.{name}" for name in field_types(sections[section]))
            choices("setting", f"{section}.{key}", known)
        arguments[section] = sections[section](**values)
    return cls(**arguments)


def to_plain(section: Any) -> dict[str, Any]:
    """Field values as JSON has them."""
    return {item.name: _plain(getattr(section, item.name)) for item in fields(section)}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


_NO = object()


@functools.cache
def _options(hint: Any) -> tuple[Any, ...]:
    # A literal comes before a free type: "dynamic" before a number.
    if get_origin(hint) in (types.UnionType, typing.Union):
        literals = [option for option in get_args(hint) if get_origin(option) is Literal]
        return (*literals, *(option for option in get_args(hint) if option not in literals))
    return (hint,)


def _convert_one(value: Any, option: Any) -> Any:
    if get_origin(option) is Literal:
        return value if value in get_args(option) else _NO
    if option is types.NoneType:
        return None if value is None else _NO
    if option is bool:
        words = {"true": True, "false": False, "yes": True, "no": False, "on": True, "off": False}
        return value if isinstance(value, bool) else words.get(str(value).lower(), _NO)
    if get_origin(option) is tuple:
        if isinstance(value, str):
            value = [part for part in value.replace(",", " ").split() if part]
        if not isinstance(value, (list, tuple)):
            return _NO
        items = [_convert_one(part, get_args(option)[0]) for part in value]
        return _NO if _NO in items else tuple(items)
    if option is str:
        return value if isinstance(value, str) else _NO
    return _convert_number(value, option)


def _is_infinite(value: Any) -> bool:
    """Whether this is a number that is none: NaN, infinity, or larger than a float can be."""
    try:
        return not math.isfinite(float(value))
    except (TypeError, ValueError):
        return False
    except OverflowError:
        return True


def _convert_number(value: Any, option: type[int] | type[float]) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return _NO
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return _NO
    if not math.isfinite(number):
        return _NO
    if option is float:
        return number + 0.0 if number else 0.0  # -0.0 and 0.0 are one setting
    try:
        return int(value) if isinstance(value, (int, str)) else (int(value) if value.is_integer() else _NO)
    except ValueError:
        return int(number) if number.is_integer() else _NO
