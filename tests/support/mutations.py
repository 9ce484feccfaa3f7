"""Rubbish that looks like the real thing: bodies near a sample, so that a reader is led further than to its first check."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from hypothesis import strategies as st

ODD_TEXTS = (
    "",
    " ",
    "0",
    "-1",
    "9" * 400,
    "1e999",
    "null",
    "true",
    "\x00",
    "ana@example.org",
    "2026-02-30",
    "31/31/2026 99:99",
    "0000-00-00T00:00:00.000+0000",
    "é" * 300,
    "١٢",
    "\ud800",
)
ODD_VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    2**63,
    2**70,
    -(2**70),
    1e308,
    0.1,
    [],
    {},
    [[]],
    [None],
    [{}],
    {"": None},
    {"code": {}},
    [[[[[[[[[[1]]]]]]]]]],
    *ODD_TEXTS,
)
JUNK = st.one_of(
    st.binary(max_size=60),
    st.sampled_from([b"", b"null", b"[]", b"{}", b'""', b"0", b"[" * 2000, b"<a/>", b"<html>", b"\xff\xfe", b"a=b&a=c&data[email]=", b"{" * 500 + b"}" * 500]),
)


def near(samples: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """A sample, one in which a value was replaced, one with its bytes disturbed, or plain junk."""
    return st.one_of(st.sampled_from(samples).flatmap(_like), JUNK) if samples else JUNK


def _like(sample: bytes) -> st.SearchStrategy[bytes]:
    ways = [st.just(sample), _disturbed(sample)]
    try:
        value = json.loads(sample)
    except ValueError:
        return st.one_of(ways)
    return st.one_of([*ways, _replaced(value), _replaced(value)])


@st.composite
def _disturbed(draw: Callable[..., Any], sample: bytes) -> bytes:
    """A piece cut out, doubled or overwritten."""
    start = draw(st.integers(0, max(0, len(sample) - 1)))
    end = draw(st.integers(start, min(len(sample), start + 40)))
    return (
        sample[:start]
        + draw(
            st.one_of(st.just(b""), st.just(sample[start:end] * 2), st.binary(max_size=8), st.sampled_from([b'"', b"<", b"&", b"=", b"%", b"\x00", b"\\ud800"]))
        )
        + sample[end:]
    )


@st.composite
def _replaced(draw: Callable[..., Any], value: Any) -> bytes:
    """One to three values of other types or odd contents, or a name that is gone."""
    changed = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(changed))
        if not places:
            break
        holder, key = draw(st.sampled_from(places))
        if draw(st.integers(0, 5)) == 0:
            del holder[key]
        else:
            holder[key] = copy.deepcopy(draw(st.sampled_from(ODD_VALUES)))
    return json.dumps(changed).encode()


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key])


def texts_filled(value: Any, text: str) -> Any:
    """The same value with every text in it replaced."""
    if isinstance(value, Mapping):
        return {name: texts_filled(inner, text) for name, inner in value.items()}
    if isinstance(value, list):
        return [texts_filled(inner, text) for inner in value]
    return text if isinstance(value, str) else value
