"""JSON as systems send it: half a character (a lone surrogate) in the name of one person must not cost the others what they said.

No UTF-8 can carry one, so orjson refuses the whole text, while many systems let somebody type it (the escape of U+D800). Whatever else is no JSON stays none.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

import orjson


def loads(body: bytes) -> Any:
    """The value, with U+FFFD for each half a character, so that everything in it can be written again. Raises orjson.JSONDecodeError."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        value = loads_halves(body)
        if value is None:
            raise error from None
        return orjson.loads(json.dumps(value, ensure_ascii=False).encode("utf-16", "surrogatepass").decode("utf-16", "replace"))


def loads_halves(body: bytes) -> Any:
    """The value with its halves of characters as they are, None for what is no JSON; `is_whole` tells what is without."""
    try:
        return json.loads(body.decode("utf-8", "surrogatepass"), parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError):
        return None


def is_whole(value: Any) -> bool:
    """Whether there is no half a character in a value."""
    try:
        orjson.dumps(value)
    except orjson.JSONEncodeError:
        return False
    return True


def _refuse(_: str) -> NoReturn:
    raise ValueError("NaN and infinities are no JSON")


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        _refuse(text)
    return number
