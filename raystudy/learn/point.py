"""Points: hyperparameters by name, checked against the signature of the method (and the fields of the recipe) they are for."""

import inspect
import math
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Literal, get_args, get_origin

from raystudy import own
from raystudy.errors import InputError, unknown
from raystudy.learn.method import Method
from raystudy.learn.methods import METHODS
from raystudy.learn.networks import NETWORKS
from raystudy.learn.recipe import Recipe

RECIPE_FIELDS = {f.name: f for f in fields(Recipe)}
Point = dict[str, Any]


def method_class(name: str) -> type[Method]:
    """A method by name: ours, or one that a user brings (``raystudy.own``). Raises InputError with the nearest valid name."""
    if name in METHODS:
        return METHODS[name]
    brought = own.found("methods", name)
    if brought is None and name.rstrip(":").endswith(".py"):
        raise InputError(f"{name} names no class: write {name.rstrip(':')}:CLASS")
    if brought is None:
        raise unknown("method", name, [*METHODS, *own.installed("methods"), "FILE.py:CLASS", "PACKAGE.MODULE:CLASS"])
    if not (isinstance(brought, type) and issubclass(brought, Method)):
        raise InputError(f"{name} is no method: it must be a class made from raystudy.learn.method.Method")
    if brought.step is Method.step and brought.epoch is Method.epoch:
        raise InputError(f"{name} is no method yet: it has neither step(batch, t) nor epoch(t, train)")
    told = list(inspect.signature(brought.__init__).parameters.values())[2:]  # without self and task
    if loose := [
        p.name for p in told if p.kind is p.POSITIONAL_OR_KEYWORD or (p.kind is p.KEYWORD_ONLY and p.default is p.empty)
    ]:
        raise InputError(
            f"{name}: {', '.join(loose)}: every hyperparameter is keyword-only, after a *, and has a default, the paper's general value"
        )
    return brought


def code(method: str, network: str) -> str:
    """A digest of what is a user's own of a method and a network; empty where both are ours."""
    told = [own.code("methods", method)] if method not in METHODS else []
    told += [own.code("networks", network)] if network not in NETWORKS else []
    return "-".join(filter(None, told))


def hyperparameters(method: str) -> dict[str, inspect.Parameter]:
    """A method's keyword-only constructor arguments, with annotation and default."""
    signature = inspect.signature(method_class(method).__init__)
    return {p.name: p for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY}


def checked(method: str, point: Mapping[str, Any], where: str) -> Point:
    """A point whose names are known and whose values have the right type; those of the recipe also make one.

    Raises InputError naming the nearest valid name.
    """
    return _checked(method, hyperparameters(method), point, where)


def checked_recipe(values: Mapping[str, Any], where: str) -> Recipe:
    """A recipe whose names are known and whose values fit, the rest being defaults. Raises InputError as ``checked`` does."""
    return Recipe(**_checked("the recipe", {}, values, where))


def _checked(owner: str, known: Mapping[str, inspect.Parameter], point: Mapping[str, Any], where: str) -> Point:
    out: Point = {}
    for name, value in point.items():
        if name in known:
            default, annotation = known[name].default, known[name].annotation
        elif name in RECIPE_FIELDS:
            default, annotation = RECIPE_FIELDS[name].default, RECIPE_FIELDS[name].type
        else:
            raise unknown(f"hyperparameter of {owner} in {where}", name, [*known, *RECIPE_FIELDS])
        kind = type(default)
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        fits = isinstance(value, kind) and isinstance(value, bool) == (kind is bool)
        if not fits and not (kind is tuple and isinstance(value, list)):
            told = getattr(annotation, "__name__", annotation)
            raise InputError(f"{where}: {name} of {owner} is {told} (default {default!r}), not {value!r}")
        if get_origin(annotation) is Literal and value not in get_args(annotation):
            raise unknown(f"{name} of {owner} in {where}", value, map(str, get_args(annotation)))
        if kind is float and not math.isfinite(value):
            raise InputError(f"{where}: {name} of {owner} must be a finite number, not {value!r}")
        out[name] = value
    try:
        Recipe(**{k: v for k, v in out.items() if k not in known})
    except InputError as e:
        raise InputError(f"{where}: {e}") from None
    return out


def parse_setting(method: str, text: str) -> Point:
    """``name=value`` of ``--set``; the value is written as in TOML, a bare word is a string."""
    name, sign, value = text.partition("=")
    if not sign or not name.strip():
        raise InputError(f"--set takes name=value, not {text!r}")
    try:
        parsed = tomllib.loads(f"v = {value}")["v"]
    except tomllib.TOMLDecodeError:
        parsed = value.strip()
    point = checked(method, {name.strip(): parsed}, "--set")
    known = hyperparameters(method)
    for k, v in point.items():
        if k in known and isinstance(v, int | float) and v < 0 <= known[k].default:
            raise InputError(f"--set: {k} of {method} must not be negative (default {known[k].default!r}), not {v!r}")
    return point


def split(method: str, point: Point) -> tuple[Point, Point]:
    """A point's two halves: (hyperparameters of the method, overrides of the recipe)."""
    known = hyperparameters(method)
    return {k: v for k, v in point.items() if k in known}, {k: v for k, v in point.items() if k not in known}


def recipe_of(method: str, point: Point, recipe: Mapping[str, Any]) -> Recipe:
    """The recipe of a training: the study's, with what the point says of it."""
    return Recipe(**{**recipe, **split(method, point)[1]})


def card(method: str) -> str:
    """A method's card: the docstring of its module, or of its class where that has none."""
    found = method_class(method)
    return (sys.modules[found.__module__].__doc__ or found.__doc__ or "").strip()
