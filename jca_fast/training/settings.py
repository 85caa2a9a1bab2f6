"""The settings of a command as a dataclass: its flags, its configuration file and its checks."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import difflib
import json
import tomllib
import typing
from collections.abc import Iterable
from typing import Any

from jca_fast.reading import read_text, user_path


def option(
    default: Any,
    help: str,
    *,
    choices: tuple[Any, ...] | None = None,
    low: float | None = None,
    free: bool = False,
    required: bool = False,
) -> Any:
    """A dataclass field with its help text and its allowed values or smallest value (low).

    The default {} makes a table. A free setting does not change the results, so a run may be
    resumed with another value. The help of a required flag names no default.
    """
    metadata = {"help": help, "choices": choices, "low": low, "free": free, "required": required}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=lambda: dict(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def add_flags(parser: argparse.ArgumentParser, cls: type, file: bool = True) -> None:
    """Adds one flag per field of the dataclass cls, and --config FILE if file is True.

    An absent flag sets no attribute.
    """
    if file:
        parser.add_argument(
            "--config",
            metavar="FILE",
            help="TOML or JSON file with any of the settings below (flags override it)",
        )
    kinds = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        kind, meta = kinds[field.name], field.metadata
        flag = "--" + field.name.replace("_", "-")
        shown = (
            ""
            if meta["required"] or field.default in (None, "", dataclasses.MISSING)
            else f" (default: {field.default})"
        )
        common: dict[str, Any] = {
            "dest": field.name,
            "default": argparse.SUPPRESS,
            "help": meta["help"] + shown,
        }
        if kind is bool or bool in typing.get_args(kind):
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, **common)
        elif kind == dict[str, Any]:
            parser.add_argument(flag, nargs="+", action="extend", metavar="KEY=VALUE", **common)
        else:
            named = ",".join(str(choice) for choice in meta["choices"] or () if choice != "")
            metavar = f"{{{named}}}" if named else kind.__name__.upper()
            parser.add_argument(flag, type=kind, choices=meta["choices"], metavar=metavar, **common)


def read_settings(path: str, known: Iterable[str]) -> dict[str, Any]:
    """The table in a JSON file, by its suffix, or else a TOML file; dashes in keys are underscores.

    All keys of the top level must be known.
    """
    file = user_path(path)
    suffix = file.suffix.lower()
    kind = "JSON" if suffix == ".json" else "TOML"
    if not file.is_file():
        raise FileNotFoundError(f"{path}: no such configuration file")
    if suffix in (".yaml", ".yml"):
        raise ValueError(f"{path}: a YAML file; needed: TOML or JSON")
    text = read_text(file)
    try:
        table = json.loads(text) if kind == "JSON" else tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not a valid {kind} file: {error}") from error
    if not isinstance(table, dict):
        raise ValueError(f"{path}: found a {type(table).__name__}; needed: a table of settings")
    table = {key.replace("-", "_"): value for key, value in table.items()}
    check_keys(table, known, path)
    return table


def parse_pairs(pairs: list[str], flag: str) -> dict[str, Any]:
    """{key: value} from texts KEY=VALUE; values are numbers, true, false, none, tuples or text."""
    table = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise ValueError(f"{flag}: expected KEY=VALUE, got {pair!r}")
        table[key.replace("-", "_")] = _parse_value(text)
    return table


def check_keys(given: Iterable[str], known: Iterable[str], where: str) -> None:
    """Raises ValueError with the first unknown key of given, and the nearest known key."""
    known = sorted(known)
    for key in given:
        if key not in known:
            nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            hint = f"did you mean {nearest[0]!r}?" if nearest else f"known keys: {', '.join(known)}"
            raise ValueError(f"{where}: unknown key {key!r}; {hint}")


def check_choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    """Raises ValueError unless value is one of choices."""
    if value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(map(str, choices))}, got {value!r}")


def check_values(settings: Any) -> None:
    """Raises ValueError for a field of the wrong type, not among its choices, or below its low."""
    kinds = typing.get_type_hints(type(settings))
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        kind = kinds[field.name]
        meta = field.metadata
        if kind is float and type(value) is int:
            value = float(value)
            setattr(settings, field.name, value)
        allowed = typing.get_args(kind) if typing.get_origin(kind) is not dict else (dict,)
        if type(value) not in (allowed or (kind,)):
            names = " or ".join(k.__name__ for k in allowed or (kind,) if k is not type(None))
            raise ValueError(f"{field.name}: expected {names}, got {value!r}")
        if meta["choices"]:
            check_choice(field.name, value, meta["choices"])
        if meta["low"] is not None and not value >= meta["low"]:
            raise ValueError(f"{field.name}: must be at least {meta['low']}, got {value!r}")


def _parse_value(text: str) -> Any:
    constants = {"true": True, "false": False, "none": None}
    if text.lower() in constants:
        return constants[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
