"""Vendor sandboxes: small servers that behave as the vendors' documentation says, for tests and for trying the relay out.

They are written from the documentation and never import an adapter. One file for each vendor; `python -m tests.sandboxes` runs them.
"""

from tests.sandboxes.handle import SandboxHandle, sandbox_names, start_sandboxes

__all__ = ["SandboxHandle", "sandbox_names", "start_sandboxes"]
