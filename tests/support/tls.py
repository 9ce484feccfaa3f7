"""TLS before a server for tests: a certificate of an authority made for the occasion, and what speaks TLS outside and plainly to the server.

The server that comes along is built without TLS. Between themselves servers go on plainly; where they tell a client of each other's ports, it is told of ours.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import ssl
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DAY = timedelta(days=1)

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def make_certificates(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """The authority's certificate, in a file, and what a server on 127.0.0.1 needs to be believed by who trusts that."""
    authority, own = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issued = _certificate("authority", authority.public_key(), authority, [(x509.BasicConstraints(ca=True, path_length=0), True)])
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    server = _certificate("server", own.public_key(), authority, [(names, False)])
    paths = folder / "ca.pem", folder / "server.pem", folder / "server.key"
    paths[0].write_bytes(issued.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(server.public_bytes(serialization.Encoding.PEM))
    paths[2].write_bytes(own.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(paths[1], paths[2])
    return paths[0], context


def _certificate(
    subject: str, key: ec.EllipticCurvePublicKey, authority: ec.EllipticCurvePrivateKey, extensions: Sequence[tuple[x509.ExtensionType, bool]]
) -> x509.Certificate:
    now = datetime.now(UTC)
    built = x509.CertificateBuilder(
        subject_name=x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]),
        issuer_name=x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")]),
        public_key=key,
        serial_number=x509.random_serial_number(),
        not_valid_before=now - DAY,
        not_valid_after=now + DAY,
    )
    for extension, is_critical in extensions:
        built = built.add_extension(extension, critical=is_critical)
    return built.sign(authority, hashes.SHA256())


class Doors:
    """A TLS port before each of some plain ones; `trusted` counts the connections whose client believed the certificate."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.trusted = 0
        self.port_of: dict[int, int] = {}
        self._context = context
        self._listening: list[asyncio.Server] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tls", daemon=True)

    def open(self, ports: Sequence[int]) -> None:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(ports), self._loop).result(10)

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _listen(self, ports: Sequence[int]) -> None:
        for port in ports:
            serve = self._to(port)
            server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=self._context)
            self._listening.append(server)
            self.port_of[port] = server.sockets[0].getsockname()[1]

    async def _end(self) -> None:
        for server in self._listening:
            server.close()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def _to(self, port: int) -> Serve:
        async def serve(client: asyncio.StreamReader, answers: asyncio.StreamWriter) -> None:
            self.trusted += 1
            with contextlib.suppress(OSError, asyncio.CancelledError):
                server, commands = await asyncio.open_connection("127.0.0.1", port)
                await asyncio.gather(self._pass_on(client, commands), self._pass_on(server, answers, of_server=True), return_exceptions=True)

        return serve

    async def _pass_on(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, *, of_server: bool = False) -> None:
        try:
            while data := await source.read(65536):
                target.write(self._told(data) if of_server else data)
                await target.drain()
        finally:
            target.close()

    def _told(self, answer: bytes) -> bytes:
        """An answer with our ports in it, as Sentinels, INFO and CLUSTER NODES name them; all have five digits, so nothing else moves."""
        for plain, ours in self.port_of.items():
            for form in (b"$5\r\n%d\r\n", b"port=%d,", b"127.0.0.1:%d@"):
                answer = answer.replace(form % plain, form % ours)
        return answer


@contextlib.contextmanager
def behind_tls(context: ssl.SSLContext, ports: Sequence[int]) -> Iterator[Doors]:
    """Stand before these ports for a while."""
    doors = Doors(context)
    doors.open(ports)
    try:
        yield doors
    finally:
        doors.close()
