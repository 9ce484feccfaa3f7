"""Scripts that the server has forgotten: they come back all at once, and what was to be read after a step is read after it."""

from __future__ import annotations

import redis

from pipeline.domain import State
from pipeline.ledger.accounts import Asking
from pipeline.ledger.standings import Merge
from tests.support.parts import open_ledger, traffic, word

KEY = "e" + "a" * 24


def test_what_is_read_after_a_claim_is_read_after_it_although_its_script_was_forgotten(client: redis.Redis):
    """The server knows the script that reads, but not the one that claims: a word that comes in between is seen."""
    ledger = open_ledger(client)
    client.script_flush()
    client.script_load(ledger.store.source("read"))
    prepare = ledger.store._prepare

    def meanwhile(errors):
        prepare(errors)
        ledger.standings.merge([Merge(identifier_key=KEY, purpose="news", word=word(7, "withdrawn").encode())])

    ledger.store._prepare = meanwhile
    asking = Asking(first_permit=0, contacts=[[KEY]])
    turn = ledger.turns.take(traffic(), "given", "w1", leaving=None, checks=[], asking=asking, named=[KEY])
    assert turn.admission is not None
    assert turn.admission.verdicts == (1,)
    assert turn.read[KEY].words["news"].state is State.WITHDRAWN


def test_forgotten_scripts_come_back_in_one_step(client: redis.Redis):
    """Nobody finds some of them and others not."""
    ledger = open_ledger(client)
    before = client.info("commandstats").get("cmdstat_exec", {"calls": 0})["calls"]
    client.script_flush()
    ledger.events.counts()
    assert client.info("commandstats")["cmdstat_exec"]["calls"] == before + 1
    assert all(client.script_exists(*(script.sha for script in ledger.store._scripts.values())))


def test_whether_deliveries_wait_for_a_link_is_asked_after_the_records_are_read_although_the_scripts_were_forgotten(client: redis.Redis):
    """One that begins to wait in between was not seen among the records, so it is seen afterwards."""
    ledger = open_ledger(client)
    client.script_flush()
    prepare = ledger.store._prepare

    def meanwhile(errors):
        prepare(errors)
        ledger.standings.note_missing([KEY], "d1")

    ledger.store._prepare = meanwhile
    _, is_any_missed = ledger.standings.look([KEY])
    assert is_any_missed
