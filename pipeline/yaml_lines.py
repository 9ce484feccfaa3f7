"""Reads YAML so that every complaint can name its line; collects complaints instead of stopping at the first.

Values are read by the type that is expected, from the text as it stands in the file: `0010` stays `0010` where text is expected, and
`NO` is Norway. `${NAME}` and `${NAME:-default}` are replaced in values only, and a complaint never shows what they became.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator, Mapping
from datetime import date, datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

import yaml

from pipeline.errors import ConfigurationError

VARIABLE: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(:-([^}]*))?\}")
_TAG: Final = "tag:yaml.org,2002:"
_WHOLE: Final = re.compile(r"-?[0-9]{1,15}")
_NUMBER: Final = re.compile(r"-?[0-9]{1,15}([.][0-9]{1,9})?")


class LineReader:
    """Reads nodes of one file; `complaints` are pairs of line and text."""

    def __init__(self, filename: str, environment: Mapping[str, str], *, may_be_unset: bool = False) -> None:
        self._filename = filename
        self._may_be_unset = may_be_unset
        self._environment = environment
        self._root: yaml.Node | None = None
        self._key_lines: dict[int, int] = {}
        self._unset: set[tuple[int, str]] = set()
        self.complaints: list[tuple[int, str]] = []

    def root(self, text: str) -> yaml.Node:
        """The top node. Raises ConfigurationError if the text is not YAML or is empty."""
        try:
            node = yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            raise ConfigurationError(f"{self._filename}:{line}: is not YAML: {error.problem}") from None
        except RecursionError:
            raise ConfigurationError(f"{self._filename}:1: is nested too deeply to be a routing file") from None
        except yaml.YAMLError:
            raise ConfigurationError(f"{self._filename}:1: is not YAML: it has characters that YAML does not allow") from None
        if node is None:
            raise ConfigurationError(f"{self._filename}:1: is empty; expected version, sources, purposes, destinations and triggers")
        self._root = node  # keeps every node alive, so that their ids stay unique
        return node

    def complain(self, node: yaml.Node, text: str) -> None:
        self.complaints.append((self._line(node), text))

    def at(self, node: yaml.Node) -> str:
        """Where a node stands, as `file:line`."""
        return f"{self._filename}:{self._line(node)}"

    def raise_complaints(self) -> None:
        """Raise ConfigurationError with every complaint so far, by line, one a line; with `may_be_unset` not for variables alone."""
        wrong = [complaint for complaint in self.complaints if not (self._may_be_unset and complaint in self._unset)]
        if wrong:
            raise ConfigurationError("\n".join(f"{self._filename}:{line}: {text}" for line, text in sorted(wrong)))

    def unset(self) -> tuple[str, ...]:
        """The complaints of variables that are not set, which `may_be_unset` lets pass, as `file:line: text`."""
        return tuple(f"{self._filename}:{line}: {text}" for line, text in sorted(self._unset))

    def mapping(self, node: yaml.Node | None, what: str, known: Collection[str] | None = None) -> dict[str, yaml.Node]:
        """Name -> node; complains of a name that is doubled or not among the known ones. None and null are empty."""
        if node is None or _is_null(node):
            return {}
        if not isinstance(node, yaml.MappingNode):
            self.complain(node, f"{what} must be a mapping of names to values")
            return {}
        found: dict[str, yaml.Node] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self.complain(key, f"{what} has a name that is not text")
            elif key.value in found:
                self.complain(key, f"{what} has {key.value!r} twice; expected each name once")
            elif known is not None and key.value not in known:
                self.complain(key, f"{what} has an unknown key {key.value!r}; {suggestion(key.value, known)}")
            else:
                found[key.value] = value
                self._key_lines.setdefault(id(value), key.start_mark.line + 1)
        return found

    def items(self, node: yaml.Node | None, what: str, *, may_be_single: bool = False) -> list[yaml.Node]:
        """The nodes of a list; with `may_be_single` a lone value is a list of one."""
        if node is None:
            return []
        if isinstance(node, yaml.SequenceNode):
            return list(node.value)
        if may_be_single and isinstance(node, yaml.ScalarNode) and not _is_null(node):
            return [node]
        self.complain(node, f"{what} must be a list")
        return []

    def text(self, node: yaml.Node | None, what: str) -> str | None:
        """The text of a scalar, whatever YAML would make of it; complains of null, lists and mappings."""
        if node is None:
            return None
        if not isinstance(node, yaml.ScalarNode) or _is_null(node) or not node.tag.startswith(_TAG):
            self.complain(node, f"{what} must be text")
            return None
        return self._substituted(node)

    def texts(self, node: yaml.Node | None, what: str, *, may_be_single: bool = False) -> list[tuple[yaml.Node, str]]:
        """Every text of a list with its node."""
        pairs = ((item, self.text(item, f"each of {what}")) for item in self.items(node, what, may_be_single=may_be_single))
        return [(item, text) for item, text in pairs if text is not None]

    def time_zone(self, node: yaml.Node | None, what: str) -> str | None:
        """A name of the time zone database."""
        text = self.text(node, what)
        try:
            return ZoneInfo(text).key if text is not None else None
        except (ValueError, OSError, KeyError):
            if node is not None:
                self.complain(node, f"{what} is not in the time zone database; expected a name such as America/Sao_Paulo")
            return None

    def choice(self, node: yaml.Node | None, what: str, allowed: Collection[str]) -> str | None:
        """One of some texts."""
        text = self.text(node, what)
        if node is not None and text is not None and text not in allowed:
            self.complain(node, f"{what} has an unknown value; {suggestion(text, allowed)}")
            return None
        return text

    def flag(self, node: yaml.Node | None, what: str, *, default: bool) -> bool:
        if node is None:
            return default
        text = self.text(node, what)
        if text is not None and text.lower() not in ("true", "false"):
            self.complain(node, f"{what} must be true or false")
        return default if text is None else text.lower() == "true"

    def number(self, node: yaml.Node | None, what: str, *, above: float = 0.0) -> float | None:
        """A plain decimal number greater than `above`."""
        text = self.text(node, what)
        if node is None or text is None:
            return None
        if not _NUMBER.fullmatch(text) or float(text) <= above:
            self.complain(node, f"{what} must be a number above {above:g}")
            return None
        return float(text)

    def whole(self, node: yaml.Node | None, what: str, *, least: int | None = None) -> int | None:
        """A plain whole number, `least` or more."""
        text = self.text(node, what)
        if node is None or text is None:
            return None
        if not _WHOLE.fullmatch(text) or (least is not None and int(text) < least):
            self.complain(node, f"{what} must be a whole number" + ("" if least is None else f", {least} or more"))
            return None
        return int(text)

    def day(self, node: yaml.Node | None, what: str) -> date | None:
        """A day as YYYY-MM-DD."""
        text = self.text(node, what)
        if node is None or text is None:
            return None
        try:
            return datetime.strptime(text, "%Y-%m-%d").date()  # noqa: DTZ007 - a day has no zone
        except ValueError:
            self.complain(node, f"{what} must be a day as YYYY-MM-DD")
            return None

    def value(self, node: yaml.Node, what: str, expected: type) -> Any:
        """A value of the expected type: bool, int, float, list (of texts and whole numbers), dict (of texts) or text."""
        if expected is bool:
            return self.flag(node, what, default=False)
        if expected is int:
            return self.whole(node, what)
        if expected is float:
            return self.number(node, what, above=float("-inf"))
        if expected is list:
            return [value for item in self.items(node, what) if (value := self._item(item, what)) is not None]
        if expected is dict:
            return {name: text for name, item in self.mapping(node, what).items() if (text := self.text(item, f"{what} {name}")) is not None}
        return self.text(node, what)

    def _line(self, node: yaml.Node) -> int:
        """The line of the name of a named value, as a block of values begins one line later; else its own."""
        return self._key_lines.get(id(node), node.start_mark.line + 1)

    def _item(self, node: yaml.Node, what: str) -> str | int | None:
        text = self.text(node, f"each of {what}")
        return int(text) if text is not None and node.tag == _TAG + "int" and _WHOLE.fullmatch(text) else text

    def _substituted(self, node: yaml.ScalarNode) -> str:
        text: str = node.value
        for name in self._unset_in(text):
            self.complain(node, f"the environment variable {name} is not set; set it or write ${{{name}:-default}}")
            self._unset.add(self.complaints[-1])
        if "${" in VARIABLE.sub("", text):
            self.complain(node, "has ${ that does not begin a variable; expected ${NAME} or ${NAME:-default}")
        return VARIABLE.sub(lambda match: self._environment.get(match[1]) or match[3] or "", text)

    def _unset_in(self, text: str) -> Iterator[str]:
        return (match[1] for match in VARIABLE.finditer(text) if match[2] is None and match[1] not in self._environment)


def suggestion(name: str, known: Collection[str]) -> str:
    """What to tell somebody who wrote `name`: the known name that is near, or all of them."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"expected {', '.join(sorted(known)) or 'none'}"


def _is_null(node: yaml.Node) -> bool:
    return bool(node.tag == _TAG + "null")
