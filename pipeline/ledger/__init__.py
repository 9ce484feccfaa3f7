"""The ledger in Redis or Valkey: one Lua file for each atomic step, each within one cluster slot."""

from pipeline.ledger.ledger import Ledger, LedgerOptions

__all__ = ["Ledger", "LedgerOptions"]
