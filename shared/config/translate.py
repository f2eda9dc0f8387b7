"""What pydantic found → problems with a place, a code and a hint."""

import re
import typing
from collections.abc import Callable, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from weirgate.shared.config import codes
from weirgate.shared.config.problem import PathStep
from weirgate.shared.config.schema import Config
from weirgate.shared.config.secrets import is_secret
from weirgate.shared.config.suggest import did_you_mean, explain_word
from weirgate.shared.config.tree import Report, Tree, describe

_QUOTED = re.compile(r"'([^']*)'")
_WRONG_TYPE = {
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "int_type": "a whole number",
    "model_type": "a mapping",
    "string_type": "a string",
    "tuple_type": "a list",
}
_BOUNDS = {
    "greater_than_equal": ("at least {ge}", "ge"),
    "less_than_equal": ("at most {le}", "le"),
    "string_too_long": ("at most {max_length} characters", "max_length"),
    "string_too_short": ("at least {min_length} characters", "min_length"),
    "too_long": ("at most {max_length} entries", "max_length"),
    "too_short": ("at least {min_length} entry", "min_length"),
}


def translate(error: ErrorDetails, tree: Tree, report: Report) -> None:
    """Add the problem that one of pydantic's errors stands for."""
    path = tuple(step for step in error["loc"] if step != "[key]")
    if error["type"] == "extra_forbidden":
        _unknown_key(path, report)
    elif error["type"] == "missing":
        _missing_key(path, report)
    else:
        code, wanted, hint = _explain(error, tree.value(path))
        at_key = len(path) != len(error["loc"])
        got = describe(path[-1]) if at_key else None
        report.add(
            code, path, wanted=wanted, hint=hint, got=got, at_key=at_key, secret=is_secret(path)
        )


def _unknown_key(path: tuple[PathStep, ...], report: Report) -> None:
    allowed = allowed_keys(path[:-1])
    key = str(path[-1])
    hint = did_you_mean(key, allowed)
    wanted = ("one of " if len(allowed) > 1 else "") + ", ".join(allowed)
    report.add(
        codes.UNKNOWN_KEY, path, got=f"the unknown key {describe(key)}", wanted=wanted, hint=hint,
        at_key=True,
    )  # fmt: skip


def _missing_key(path: tuple[PathStep, ...], report: Report) -> None:
    key = path[-1]
    report.add(
        codes.MISSING_KEY, path[:-1], got=f'no key "{key}"', wanted=f'the key "{key}"', at_key=True
    )


def _explain(error: ErrorDetails, value: Any) -> tuple[codes.Code, str, str]:
    kind, context = error["type"], error.get("ctx", {})
    if kind in codes.REGISTRY:
        return codes.REGISTRY[kind], str(context["wanted"]), str(context["hint"])
    if kind == "literal_error":
        choices = _QUOTED.findall(str(context["expected"]))
        return codes.CHOICE, " or ".join(choices), explain_word(value, choices)
    if kind in _BOUNDS:
        return codes.RANGE, _BOUNDS[kind][0].format_map(context), ""
    wanted = _WRONG_TYPE.get(kind, "another type of value")
    return codes.TYPE, wanted, _type_hint(wanted, value)


def _type_hint(wanted: str, value: Any) -> str:
    hints: dict[str, Callable[[], str]] = {
        "a string": lambda: _quote_hint(value),
        "a whole number": lambda: "remove the quotes" if _looks_whole(value) else "",
        "true or false": lambda: explain_word(value, ("true", "false")),
        "a mapping": lambda: "write {} for the defaults" if value is True else "",
        "a list": lambda: "write [ ] around it" if isinstance(value, str | dict) else "",
    }
    return hints[wanted]() if wanted in hints else ""


def _quote_hint(value: Any) -> str:
    if isinstance(value, bool | int | float):
        return "put it in quotes"
    return "one value, not a list" if isinstance(value, list) else ""


def _looks_whole(value: Any) -> bool:
    return isinstance(value, str) and value.isascii() and value.isdigit()


def allowed_keys(path: Sequence[PathStep]) -> list[str]:
    """Return the keys that the schema knows for the mapping at ``path``."""
    annotation: Any = Config
    for step in path:
        annotation = _step_into(annotation, step)
    model = _find(annotation, _is_model)
    return [] if model is None else [f.alias or n for n, f in model.model_fields.items()]


def is_list(path: Sequence[PathStep]) -> bool:
    """Tell whether the schema has a list at ``path``, be it as one of several choices."""
    annotation: Any = Config
    for step in path:
        annotation = _step_into(annotation, step)
    return _find(annotation, lambda a: typing.get_origin(a) is tuple) is not None


def _step_into(annotation: Any, step: PathStep) -> Any:
    model = _find(annotation, _is_model)
    if model is not None:
        fields = {f.alias or n: f.annotation for n, f in model.model_fields.items()}
        return fields.get(str(step))
    container = _find(annotation, lambda a: typing.get_origin(a) in {dict, tuple})
    if container is None:
        return None
    arguments = typing.get_args(container)
    return arguments[1] if typing.get_origin(container) is dict else arguments[0]


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _find(annotation: Any, wanted: Callable[[Any], bool]) -> Any:
    """Return the first type that is ``wanted`` inside ``Annotated`` and unions."""
    if wanted(annotation):
        return annotation
    origin = typing.get_origin(annotation)
    if origin in {dict, tuple} or origin is None:
        return None
    found = (_find(argument, wanted) for argument in typing.get_args(annotation))
    return next((f for f in found if f is not None), None)
