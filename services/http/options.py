"""Options of requests: members of a JSON body and query parameters, checked by their struct."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC
from functools import lru_cache
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

from msgspec import Meta, Struct, ValidationError, convert

from services.http.columns import RowErrors, read_values
from services.http.contract import Instant
from services.http.errors import HTTPError, quote

OptionsType = TypeVar("OptionsType", bound=Struct)


def read_options(
    body: Mapping[str, Any], query: Mapping[str, str], kind: type[OptionsType]
) -> OptionsType:
    """Check the options of a request.

    Args:
        body: Members of a JSON body.
        query: Query parameters; no option may be in both.
        kind: The struct that declares the options.

    Raises:
        HTTPError: 422, naming the first wrong option.
    """
    hints = _hints(kind)
    for name in (*body, *query):
        if name not in hints:
            raise unknown_option(name, hints)
        if name in query and name in body:
            raise HTTPError(422, f"the option {name} is given twice, in the body and in the query")
    values = {
        name: _from_text(value, hints[name]) if isinstance(value, str) else value
        for name, value in (*body.items(), *query.items())
    }
    try:
        return convert(values, kind, dec_hook=_to_instant)
    except ValidationError as error:
        raise HTTPError(422, _sentence(str(error), hints)) from None


@lru_cache
def _hints(kind: type[Struct]) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def unknown_option(name: str, names: Any) -> HTTPError:
    """The refusal of an option that the endpoint does not have."""
    declared = ", ".join(names) or "none"
    return HTTPError(422, f"there is no option {quote(name)} here; the options are {declared}")


def _from_text(text: str, hint: Any) -> Any:
    """The value that a text stands for, as JSON would give it; the text itself if none."""
    kinds = str(hint)
    if "tuple" in kinds:
        return [_number(level) for level in text.split(",")]
    if "bool" in kinds:
        return {"true": True, "false": False}.get(text.lower(), text)
    return _number(text) if "float" in kinds else text


def _number(text: str) -> float | str:
    with suppress(ValueError):
        return float(text)
    return text


def _to_instant(_: type, value: Any) -> Instant:
    if value == "now":
        return Instant.now(UTC)
    errors = RowErrors()
    times = read_values("submitted_at", [value], errors)
    if errors.by_row:
        reason = errors.by_row[0].replace("submitted_at", "at")
        raise ValueError(f"is no time to ask the history of: {reason}")
    return Instant.fromisoformat(times[0].as_py().isoformat())


def _sentence(message: str, hints: Mapping[str, Any]) -> str:
    """The sentence for a message of msgspec, by the rule declared with the option."""
    problem, _, path = message.partition(" - at `$.")
    name = (re.match(r"\w+", path) or re.search(r"(?<=`)\w+", message) or [""])[0]
    if problem.startswith("is no time"):
        return f"{name} {problem}"
    return f"{name} {_rule(hints.get(name), inside='[' in path) or 'is wrong'}"


def _rule(hint: Any, inside: bool) -> str:
    """The rule of an annotated type, or of its elements; "" where there is none."""
    if get_origin(hint) is Annotated and not inside:
        for meta in hint.__metadata__:
            if isinstance(meta, Meta) and meta.extra:
                return str(meta.extra["rule"])
    inside = inside and get_origin(hint) is not tuple
    inner = (hint.__origin__,) if get_origin(hint) is Annotated else get_args(hint)
    return next((rule for argument in inner if (rule := _rule(argument, inside))), "")
