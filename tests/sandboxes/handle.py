"""Running sandboxes as tests see them: which there are, how to start them on one port, and a handle to look at them and to meddle."""

from __future__ import annotations

import asyncio
import contextlib
import pkgutil
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Self, TypeVar

from tests.sandboxes.server import Connection, SandboxServer

T = TypeVar("T")
NOT_VENDORS = frozenset({"base", "connector", "handle", "index_page", "server", "__main__"})


def sandbox_names() -> list[str]:
    """The vendors that have a sandbox; dropping a file into the folder is enough."""
    import tests.sandboxes as package

    return sorted(module.name for module in pkgutil.iter_modules(package.__path__) if module.name not in NOT_VENDORS)


class SandboxHandle:
    """Running sandboxes seen from a test; every call goes through the server's own thread, so it sees whole states."""

    def __init__(self, names: Iterable[str], host: str, port: int) -> None:
        self.host = host
        self.loop = _new_loop()
        self.server = SandboxServer(names, self.loop)
        self.listener = self.loop.run_until_complete(self.loop.create_server(lambda: Connection(self.server), host, port, backlog=1024))
        self.port: int = self.listener.sockets[0].getsockname()[1]
        self.thread = threading.Thread(target=self.loop.run_forever, name="sandboxes", daemon=True)
        self.thread.start()

    def url(self, vendor: str) -> str:
        """The base_url to configure for this vendor, with its version path."""
        return f"http://{self.host}:{self.port}/{vendor}{self.server.sandboxes[vendor].version_path}"

    def state(self, vendor: str) -> dict[str, Any]:
        return self._within(self.server.sandboxes[vendor].snapshot)

    def states(self, vendor: str) -> dict[str, str]:
        """Contact -> given or withdrawn, as the vendor holds it now."""
        return {key: contact["state"] for key, contact in self.state(vendor)["contacts"].items()}

    def faults(self, vendor: str, *faults: Mapping[str, Any]) -> None:
        """Replace all faults of a vendor; none given clears them."""
        self._within(lambda: self.server.sandboxes[vendor].order(list(faults)))

    def settings(self, vendor: str, **settings: Any) -> None:
        self._within(lambda: self.server.sandboxes[vendor].change(settings))

    def place(self, vendor: str, **contact: Any) -> None:
        self._within(lambda: self.server.sandboxes[vendor].place(contact))

    def forget(self, vendor: str, email: str) -> None:
        self._within(lambda: self.server.sandboxes[vendor].forget({"email": email}))

    def act(self, vendor: str, what: str, body: bytes = b"{}") -> dict[str, Any]:
        return self._within(lambda: self.server.sandboxes[vendor].act(what, body))

    def reset(self, vendor: str) -> None:
        self._within(self.server.sandboxes[vendor].reset)

    def close(self) -> None:
        if self.loop.is_closed():
            return
        self._within(self._shut)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(timeout=5)
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _shut(self) -> None:
        self.listener.close()
        for connection in list(self.server.connections):
            connection.transport.abort()

    def _within(self, act: Callable[[], T]) -> T:
        async def run() -> T:
            return act()

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(timeout=30)


def start_sandboxes(vendors: Iterable[str] | None = None, *, host: str = "127.0.0.1", port: int = 0) -> SandboxHandle:
    """Start sandboxes (all by default) on one port and return the handle; `close` it, or use it in a `with`."""
    return SandboxHandle(vendors or sandbox_names(), host, port)


def _new_loop() -> asyncio.AbstractEventLoop:
    with contextlib.suppress(ImportError):
        import uvloop

        return uvloop.new_event_loop()
    return asyncio.new_event_loop()
