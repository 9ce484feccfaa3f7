"""Run inside a network and mount namespace of its own (`unshare`): a small internet with a name server that changes its mind, and both transports in it.

Public addresses are real ones on this namespace's loopback; nothing leaves the machine. Prints one JSON object.
"""

from __future__ import annotations

import json
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from pipeline.transports.base import Call
from pipeline.transports.curl import CurlTransport
from pipeline.transports.portable import PortableTransport

PUBLIC = "1.1.1.1"
INSIDE = {
    "metadata": "169.254.169.254",
    "loopback": "127.0.0.1",
    "private": "10.0.0.7",
    "shared": "100.64.0.7",
    "unspecified": "0.0.0.0",
    "mapped": "::ffff:10.0.0.7",
    "loopback of six": "::1",
    "unique local": "fd00::7",
    "link-local": "fe80::7",
    "NAT64": "64:ff9b::a9fe:a9fe",
    "NAT64 of one's own": "64:ff9b:1::a9fe:a9fe",
    "6to4": "2002:7f00:1::1",
    "Teredo": "2001:0:7f00:1::1",
    "compatible": "::10.0.0.7",
}
SPELT = {
    "decimal": "2852039166",
    "octal": "0251.0376.0251.0376",
    "hexadecimal": "0xa9fea9fe",
    "mixed": "0xa9.254.0251.254",
    "short": "127.1",
    "zero": "0",
    "bracketed": "[::ffff:169.254.169.254]",
    "of six": "[::1]",
}


class Names:
    """Answers A and AAAA questions by the first label of the name: `<hex of text>.test`, each time the next of the addresses that are set for it."""

    def __init__(self) -> None:
        self.answers: dict[str, list[str]] = {}
        self.asked: dict[str, int] = {}
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.53", 53))
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            question, asker = self.socket.recvfrom(512)
            labels, place = [], 12
            while question[place]:
                labels.append(question[place + 1 : place + 1 + question[place]].decode())
                place += 1 + question[place]
            kind = struct.unpack("!H", question[place + 1 : place + 3])[0]
            family, length = (socket.AF_INET, 4) if kind == 1 else (socket.AF_INET6, 16)
            name = ".".join(labels)
            addresses = self.answers.get(name, [])
            turn = self.asked.get(f"{name} {kind}", 0)
            self.asked[f"{name} {kind}"] = turn + 1
            chosen = addresses[min(turn, len(addresses) - 1)] if addresses else ""
            fits = bool(chosen) and (":" in chosen) == (kind == 28)
            head = question[:2] + struct.pack("!HHHHH", 0x8580, 1, int(fits), 0, 0) + question[12 : place + 5]
            record = b"\xc0\x0c" + struct.pack("!HHIH", kind, 1, 0, length) + socket.inet_pton(family, chosen) if fits else b""
            self.socket.sendto(head + record, asker)


class Place:
    """One HTTP server on every address of the namespace; `heard` are the local addresses that were connected to."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.location = ""
        self.listener = socket.create_server(("::", 8000), family=socket.AF_INET6, dualstack_ipv6=True, backlog=64)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            client, _ = self.listener.accept()
            self.heard.append(client.getsockname()[0].removeprefix("::ffff:"))
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client:
            while client.recv(65_536):
                moved = f"HTTP/1.1 302 Found\r\nLocation: {self.location}\r\n" if self.location else "HTTP/1.1 200 OK\r\n"
                client.sendall(f"{moved}Content-Length: 0\r\nConnection: close\r\n\r\n".encode())
                return


def set_up() -> None:
    """Loopback up, the addresses on it, and the name server as the only one."""
    commands = [["ip", "link", "set", "lo", "up"]]
    four = (PUBLIC, "169.254.169.254", "10.0.0.7", "100.64.0.7", "127.0.0.53")
    six = ("fd00::7", "fe80::7", "64:ff9b::a9fe:a9fe", "64:ff9b:1::a9fe:a9fe", "2002:7f00:1::1", "2001:0:7f00:1::1", "2606:4700:4700::1111")
    commands += [["ip", "address", "add", f"{address}/32", "dev", "lo"] for address in four]
    commands += [["ip", "-6", "address", "add", f"{address}/128", "dev", "lo", "nodad"] for address in six]
    folder = Path(tempfile.mkdtemp(prefix="consent-names-"))
    for name, text in {"resolv.conf": "nameserver 127.0.0.53\noptions timeout:1 attempts:1\n", "nsswitch.conf": "hosts: dns\n"}.items():
        (folder / name).write_text(text)
        if Path("/etc", name).exists():
            commands.append(["mount", "--bind", str(folder / name), f"/etc/{name}"])
    for command in commands:
        subprocess.run(command, check=True, capture_output=True)


def main(kind: str) -> dict[str, Any]:
    """What came of each try: the status or failure, and which addresses inside were connected to."""
    set_up()
    names, place = Names(), Place()
    transport = {"curl": CurlTransport, "requests": PortableTransport}[kind]()
    found: dict[str, Any] = {}

    def call(url: str) -> str:
        ended = threading.Event()
        answers: list[Any] = []
        transport.submit(
            Call(method="GET", url=url, total_timeout_seconds=3.0, connect_timeout_seconds=2.0), lambda answer: (answers.append(answer), ended.set())
        )
        assert ended.wait(10)
        return str(answers[0].response.status if answers[0].response else answers[0].failure.value)

    def tried(what: str, url: str) -> None:
        before = len(place.heard)
        found[what] = [call(url), place.heard[before:]]

    names.answers["public.test"] = [PUBLIC]
    tried("public", "http://public.test:8000/")
    names.answers["public6.test"] = ["2606:4700:4700::1111"]
    tried("public of six", "http://public6.test:8000/")
    for number, (what, address) in enumerate(INSIDE.items()):
        names.answers[f"inside{number}.test"] = [address]
        tried(f"name of {what}", f"http://inside{number}.test:8000/")
        names.answers[f"changes{number}.test"] = [PUBLIC, address]
        tried(f"first look-up of {what}", f"http://changes{number}.test:8000/")
        for _ in range(3):
            tried(f"rebound to {what}", f"http://changes{number}.test:8000/")
            transport.close()
            transport = {"curl": CurlTransport, "requests": PortableTransport}[kind]()  # a new one has no cache of names and no open connection
        place.location = f"http://{f'[{address}]' if ':' in address else address}:8000/"
        tried(f"redirect to {what}", "http://public.test:8000/")
        place.location = ""
    for what, host in SPELT.items():
        tried(f"spelt {what}", f"http://{host}:8000/")
    found["looked up"] = sum(names.asked.values())
    transport.close()
    return found


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))
