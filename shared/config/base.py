"""What every part of the schema is made of: the base model, lists, shorthands and refusals."""

from collections.abc import Iterable
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError

from weirgate.shared.config.codes import Code

T = TypeVar("T")
KIND = "x-weirgate-kind"


class Section(BaseModel):
    """A mapping of the configuration: unknown keys are refused, types are not guessed."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)


def refusal(code: Code, wanted: str, hint: str = "") -> PydanticCustomError:
    """Return the error to raise for the value being validated; it becomes a problem."""
    return PydanticCustomError(code.id, "{wanted}", {"wanted": wanted, "hint": hint})


class Shorthand:
    """Adds a shorter way to write a value to its JSON Schema."""

    def __init__(self, *schemas: dict[str, Any]) -> None:
        self._schemas = schemas

    def __get_pydantic_json_schema__(
        self, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"anyOf": [*self._schemas, handler(core_schema)]}


class _OneOrMany:
    """Says in the JSON Schema that a list of one may be written without the list."""

    def __get_pydantic_json_schema__(
        self, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        schema = handler(core_schema)
        return {"anyOf": [schema["items"], schema]}


def _tuple_of_list(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _tuple_of_any(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(value)
    return (value,)


Many = Annotated[tuple[T, ...], BeforeValidator(_tuple_of_list)]
OneOrMany = Annotated[tuple[T, ...], BeforeValidator(_tuple_of_any), _OneOrMany()]


def repeated(items: Iterable[str]) -> str | None:
    """Return the first item that stands a second time."""
    seen: set[str] = set()
    for item in items:
        if item in seen:
            return item
        seen.add(item)
    return None
