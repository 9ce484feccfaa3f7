"""The ledger in Redis or Valkey: one Lua file for each atomic step, each within one cluster slot."""

from pipeline.ledger.ledger import Ledger
from pipeline.ledger.options import LedgerOptions

__all__ = ["Ledger", "LedgerOptions"]
