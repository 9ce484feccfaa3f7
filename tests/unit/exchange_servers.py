"""Small real servers for the exchange's tests, each on a free loopback port."""

import contextlib
import datetime as dt
import ipaddress
import selectors
import socket
import ssl
import struct
import threading
import time
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Answer: yes\r\n\r\nok"
RESET = object()
HANG = object()
END = object()


@dataclass
class Received:
    """What one server saw."""

    connections: int = 0
    requests: list[bytes] = field(default_factory=list)


class Server:
    """Answers each request with `answer(request) -> bytes | RESET | HANG | iterable of chunks`; a thread for each connection."""

    def __init__(self, answer=lambda _request: OK, *, tls=None, host="127.0.0.1"):
        self.received = Received()
        self._answer, self._tls = answer, tls
        self._listener = socket.create_server((host, 0), backlog=512)
        self.port = self._listener.getsockname()[1]
        self._open, self._threads = [], []
        self._closing = False
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()

    @property
    def url(self):
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._closing = True
        _shut(self._listener)
        self._acceptor.join()
        self._listener.close()
        for connection in self._open:
            _shut(connection)
        for thread in self._threads:
            thread.join()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.received.connections += 1
                # A duplicate to shut by: TLS takes the original away.
                self._open.append(connection.dup())
                self._threads.append(threading.Thread(target=self._serve, args=(connection,), daemon=True))
                self._threads[-1].start()

    def _serve(self, connection):
        try:
            if self._tls:
                connection = self._tls.wrap_socket(connection, server_side=True)
            while request := _read_request(connection):
                self.received.requests.append(request)
                self._reply(connection, self._answer(request))
        except (OSError, ValueError):
            pass
        finally:
            connection.close()
            _shut(self._open[self._threads.index(threading.current_thread())], close=True)

    def _reply(self, connection, answer):
        for chunk in [answer] if isinstance(answer, bytes) or answer in (RESET, HANG) else answer:
            if chunk is END:
                raise ConnectionAbortedError
            if chunk is RESET or self._closing:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                raise ConnectionResetError
            if chunk is not HANG:
                connection.sendall(chunk)


def _shut(connection, *, close=False):
    with contextlib.suppress(OSError):
        if not close:
            connection.shutdown(socket.SHUT_RDWR)
    if close:
        connection.close()


def _read_request(connection):
    data = b""
    while b"\r\n\r\n" not in data:
        more = connection.recv(65536)
        if not more:
            return b""
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n"):
        if line.lower().startswith(b"content-length:"):
            length = int(line.partition(b":")[2])
    while len(body) < length:
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


class SlowServer:
    """Answers every request after `delay_seconds`, any number at once, from a single thread."""

    def __init__(self, delay_seconds):
        self._delay_seconds = delay_seconds
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self._listener.setblocking(False)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.requests = 0
        self.most_at_once = 0
        self._stop = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._stop = True
        self._thread.join()

    def _run(self):
        selector, due = selectors.DefaultSelector(), []
        selector.register(self._listener, selectors.EVENT_READ)
        while not self._stop:
            for key, _ in selector.select(0.005):
                if key.fileobj is self._listener:
                    with contextlib.suppress(BlockingIOError):
                        while True:
                            connection, _ = self._listener.accept()
                            selector.register(connection, selectors.EVENT_READ)
                elif _received(key.fileobj):
                    self.requests += 1
                    due.append((time.monotonic() + self._delay_seconds, key.fileobj))
                    self.most_at_once = max(self.most_at_once, len(due))
                else:
                    selector.unregister(key.fileobj)
                    key.fileobj.close()
            while due and due[0][0] <= time.monotonic():
                with contextlib.suppress(OSError):  # a client that did not wait
                    due.pop(0)[1].sendall(OK)
        for key in list(selector.get_map().values()):
            key.fileobj.close()
        selector.close()


def _received(connection):
    try:
        return connection.recv(65536)
    except ConnectionResetError:
        return b""


def self_signed(folder):
    """A server's TLS context and the path of the certificate that a client would have to trust."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "certificate.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
    return context, str(folder / "certificate.pem")
