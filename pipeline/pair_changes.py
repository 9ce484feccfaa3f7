"""What must hold before a pair of Contacthub and Contactsend may be changed: the vendor's table, applied to two readings of the routing file.

Several changes at once need what each of them needs; so does the vendor's own table where it names two together.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from pipeline.routing import Pair, Routing
from pipeline.routing_pairs import Tie, tie


class Part(StrEnum):
    """What of a pair can change, in the vendor's words; those after `mapping` are not in its table, and nothing must hold for them."""

    NODE = "node"
    API_KEY = "apiKey"
    DATABASE = "userdb id"
    SUBSCRIPTION = "subscription"
    MAPPING = "mapping"
    USER_KEY = "userKey"
    TOKEN = "token"  # noqa: S105 - the word, not a token
    NAME = "name"
    DESCRIPTION = "description"
    ENABLED = "enabled"
    ADDED = "added"
    REMOVED = "removed"


class Condition(StrEnum):
    """What may have to hold. Only the first can be seen in the files; a person confirms the others."""

    SOURCE_DISABLED = "source-disabled"
    CURRENT_NODE_EMPTY = "current-node-empty"
    NEW_NODE_EMPTY = "new-node-empty"
    USERDB_EMPTY = "userdb-empty"

    @property
    def words(self) -> str:
        return self.value.replace("-", " ")


CONFIRMED_BY_A_PERSON: Final = {
    Condition.CURRENT_NODE_EMPTY: "no customer is left in the node that the pair had before the change",
    Condition.NEW_NODE_EMPTY: "no customer is in the node that the pair has after the change",
    Condition.USERDB_EMPTY: "no subscriber is in the user database that the pair has after the change; no change in the table asks for it",
}
"""Each condition that cannot be seen from here, and what whoever confirms it has looked at."""

_DISABLED, _CURRENT, _NEW = Condition.SOURCE_DISABLED, Condition.CURRENT_NODE_EMPTY, Condition.NEW_NODE_EMPTY
TABLE: Final[tuple[tuple[frozenset[Part], frozenset[Condition]], ...]] = (
    (frozenset({Part.NODE}), frozenset({_DISABLED, _CURRENT})),
    (frozenset({Part.API_KEY}), frozenset({_DISABLED, _CURRENT})),
    (frozenset({Part.NODE, Part.API_KEY}), frozenset({_DISABLED, _CURRENT})),
    (frozenset({Part.DATABASE}), frozenset({_DISABLED, _CURRENT, _NEW})),
    (frozenset({Part.NODE, Part.DATABASE}), frozenset({_DISABLED, _CURRENT, _NEW})),
    (frozenset({Part.SUBSCRIPTION}), frozenset({_DISABLED})),
    (frozenset({Part.MAPPING}), frozenset({_DISABLED})),
)
"""The vendor's rows as printed: what changes, and what must hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairChange:
    """How one pair differs between two readings. `missing` is what must hold and does not; `unread` are destinations of which nothing is known."""

    pair: str
    parts: frozenset[Part]
    purposes: tuple[str, ...] = ()
    needed: tuple[Condition, ...] = ()
    missing: tuple[Condition, ...] = ()
    unread: tuple[str, ...] = ()

    def label(self) -> str:
        """What changed, in the rows of the table."""
        rows = [parts for parts, _ in _rows(self.parts)]
        longest = [parts for parts in rows if not any(parts < other for other in rows)]
        labels = [" and ".join(part for part in Part if part in parts) for parts in longest]
        labels = [f"{text} ({', '.join(self.purposes)})" if text == Part.SUBSCRIPTION and self.purposes else text for text in labels]
        return ", ".join([*labels, *(part for part in Part if part in self.parts and not any(part in parts for parts in rows))])

    def lines(self) -> Iterator[str]:
        """The change for a person: what changed, and for each condition whether it holds."""
        yield f"pair {self.pair}: {self.label()}{'' if self.parts & {Part.ADDED, Part.REMOVED} else ' changed'}"
        yield from (f"  nothing is known of {name} in the previous file, so all of it counts as changed" for name in self.unread)
        yield from (f"  {condition.words}: {self._verdict(condition)}" for condition in self.needed)
        if not self.needed:
            yield "  not in the table: nothing must hold"

    def _verdict(self, condition: Condition) -> str:
        if condition not in self.missing:
            return "holds"
        return "not confirmed" if condition in CONFIRMED_BY_A_PERSON else "does not hold"

    def refusals(self) -> Iterator[str]:
        """For each condition that does not hold what is to be done."""
        for condition in self.missing:
            if condition is Condition.SOURCE_DISABLED:
                what = "the pair must be `enabled: false` in both files: disable it by a change of its own, then change it, and enable it again last"
            else:
                what = f"make sure that {CONFIRMED_BY_A_PERSON[condition].partition(';')[0]}, then say --holds {condition}"
            yield f"pair {self.pair}: {self.label()} needs {condition.words}: {what}"


def pair_changes(previous: Routing, fresh: Routing, confirmed: Collection[Condition]) -> list[PairChange]:
    """Every pair that differs; `previous` may have been read without some of its variables, `confirmed` is what a person has looked at."""
    before = {name: (pair, _tie(pair, previous)) for name, pair in previous.pairs.items()}
    after = {name: (pair, _tie(pair, fresh)) for name, pair in fresh.pairs.items()}
    old_names = _matched(before, after)
    changes = [
        _change(before[old_names[name]], after[name], previous, confirmed) if name in old_names else PairChange(pair=name, parts=frozenset({Part.ADDED}))
        for name in after
    ]
    gone = [name for name in before if name not in old_names.values()]
    changes += [PairChange(pair=name, parts=frozenset({Part.REMOVED})) for name in gone]
    return [change for change in changes if change.parts]


_Sides = tuple[Pair, Tie]
_KEYS: Final[tuple[Callable[[_Sides], tuple[Hashable, ...]], ...]] = (
    lambda sides: (sides[1].nodes, sides[1].databases, sides[1].api_key),
    lambda sides: (sides[0].name,),
    lambda sides: (sides[1].nodes,),
    lambda sides: (sides[1].databases, sides[1].api_key),
    lambda sides: (sides[1].databases,),
    lambda sides: (sides[0].contacthub,),
    lambda sides: (sides[0].contactsend,),
)
"""By what a pair is found again, the surest first: a pair that ties the same node and user database is the same, whatever it is called now."""


def _matched(before: dict[str, _Sides], after: dict[str, _Sides]) -> dict[str, str]:
    """New name -> old name."""
    found: dict[str, str] = {}
    for key in _KEYS:
        free = {key(sides): name for name, sides in before.items() if name not in found.values() and None not in key(sides)}
        for name, sides in after.items():
            if name not in found and key(sides) in free:
                found[name] = free.pop(key(sides))
    return found


def _change(before: _Sides, after: _Sides, previous: Routing, confirmed: Collection[Condition]) -> PairChange:
    (old_pair, old), (new_pair, new) = before, after
    differences = {
        Part.NODE: _differs(old.nodes, new.nodes),
        Part.API_KEY: _differs(old.api_key, new.api_key),
        Part.DATABASE: _differs(old.databases, new.databases),
        Part.SUBSCRIPTION: _differs(old.subscriptions, new.subscriptions),
        Part.MAPPING: _differs(old.mappings, new.mappings),
        Part.USER_KEY: _differs(old.user_key, new.user_key),
        Part.TOKEN: _differs(old.token, new.token),
        Part.NAME: old_pair.name != new_pair.name,
        Part.DESCRIPTION: old_pair.description != new_pair.description,
        Part.ENABLED: old_pair.enabled is not new_pair.enabled,
    }
    parts = frozenset(part for part, differs in differences.items() if differs)
    needed = needs(parts)
    held = {condition for condition in confirmed if condition in CONFIRMED_BY_A_PERSON}
    held |= {Condition.SOURCE_DISABLED} if not (old_pair.enabled or new_pair.enabled) else set()
    return PairChange(
        pair=new_pair.name,
        parts=parts,
        purposes=_changed_purposes(old, new),
        needed=needed,
        missing=tuple(condition for condition in needed if condition not in held),
        unread=tuple(name for name in (old_pair.contacthub, old_pair.contactsend) if name not in previous.destinations),
    )


def needs(parts: frozenset[Part]) -> tuple[Condition, ...]:
    """What must hold before these parts change together: all that any row within them asks for."""
    asked = frozenset(condition for _, conditions in _rows(parts) for condition in conditions)
    return tuple(condition for condition in Condition if condition in asked)


def _rows(parts: frozenset[Part]) -> list[tuple[frozenset[Part], frozenset[Condition]]]:
    return [row for row in TABLE if row[0] <= parts]


def _differs(old: object, new: object) -> bool:
    """What is not known counts as changed."""
    return old is None or old != new


def _changed_purposes(old: Tie, new: Tie) -> tuple[str, ...]:
    if old.subscriptions is None or new.subscriptions is None:
        return ()
    names = sorted({*old.subscriptions, *new.subscriptions})
    return tuple(name for name in names if old.subscriptions.get(name) != new.subscriptions.get(name))


def _tie(pair: Pair, routing: Routing) -> Tie:
    return tie(pair, routing.destinations, {name: routing.purposes_of(name) for name in (pair.contacthub, pair.contactsend)})
