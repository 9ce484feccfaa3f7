"""What one POST costs in CPU time, over each transport: `python benchmarks/exchange_cost.py [calls]`.

The other side is a raw asyncio server in a process of its own, so that only our side is counted.
"""

import asyncio
import contextlib
import multiprocessing
import os
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from pipeline.domain import Outcome, VendorResult
from pipeline.exchange import Exchange, Work
from pipeline.transports.base import Call
from pipeline.transports.curl import CurlTransport
from pipeline.transports.portable import PortableTransport
from pipeline.vendors.base import Adapter, VendorRequest

ANSWER = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 18\r\nServer: stub\r\n\r\n{"code":"SUCCESS"}'
BODY = b'{"' + b"x" * 180 + b'":1}'
HEADERS = (("Content-Type", "application/json"), ("Authorization", "Bearer x"))
APPLIED = [VendorResult(outcome=Outcome.APPLIED)]


class Stub(asyncio.Protocol):
    """Answers whenever the end of the body has come."""

    delay_seconds = 0.0

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        if not data.endswith(BODY[-4:]):
            return  # `requests` sends headers and body apart
        if self.delay_seconds:
            asyncio.get_running_loop().call_later(self.delay_seconds, self.transport.write, ANSWER)
        else:
            self.transport.write(ANSWER)


def serve(pipe, delay_seconds):
    Stub.delay_seconds = delay_seconds
    with contextlib.suppress(ImportError):
        import uvloop

        uvloop.install()

    async def main():
        server = await asyncio.get_running_loop().create_server(Stub, "127.0.0.1", 0, backlog=1024)
        pipe.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(main())


class Vendor(Adapter):
    title = "Stub"

    def tell(self, _instructions):
        response = yield VendorRequest(operation="tell", path="/x", headers=HEADERS, body=BODY)
        return APPLIED if response.status == 200 else []


class NoSessions:
    def get(self, _account):
        return None

    def put(self, account, token, ttl_seconds):
        pass

    def drop(self, account, token):
        pass


def measure(calls, in_flight, begin):
    """Keep `in_flight` going until `calls` have ended; microseconds of CPU and calls per second."""
    state, done = {"left": calls, "ended": 0}, threading.Event()

    def on_end(*_):
        state["ended"] += 1
        if state["left"] > 0:
            state["left"] -= 1
            begin(on_end)
        elif state["ended"] == calls:
            done.set()

    cpu, wall = time.process_time(), time.perf_counter()
    state["left"] -= in_flight
    for _ in range(in_flight):
        begin(on_end)
    done.wait()
    return (time.process_time() - cpu) / calls * 1e6, calls / (time.perf_counter() - wall)


def main():
    calls = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    print(f"{os.cpu_count()} cores, {calls} calls\n{'transport':10} {'level':10} {'vendor':>8} {'in flight':>9} {'CPU us':>8} {'calls/s':>8}")
    for delay_seconds in (0.0, 0.05):
        near, far = multiprocessing.Pipe()
        process = multiprocessing.Process(target=serve, args=(far, delay_seconds), daemon=True)
        process.start()
        url = f"http://127.0.0.1:{near.recv()}"
        for name, transport_class, share in (("curl", CurlTransport, 1), ("portable", PortableTransport, 20)):
            for in_flight in (16, 64, 256) if name == "curl" else (16,):
                count = max(in_flight, calls // share // (5 if delay_seconds else 1))
                transport = transport_class()
                call = Call(method="POST", url=url + "/x", headers=HEADERS, body=BODY, allow_private_network=True)
                raw = measure(count, in_flight, lambda on_end, call=call, transport=transport: transport.submit(call, on_end))
                exchange = Exchange(transport, NoSessions())
                adapter = Vendor(base_url=url)

                def begin(on_end, adapter=adapter, exchange=exchange):
                    exchange.start(
                        Work(adapter=adapter, dialogue=adapter.tell([None]), account="a", size=1, allow_private_network=True, deadline=float("inf")), on_end
                    )

                whole = measure(count, in_flight, begin)
                exchange.close()
                for level, (cpu, rate) in (("transport", raw), ("dialogue", whole)):
                    print(f"{name:10} {level:10} {delay_seconds * 1000:6.0f}ms {in_flight:9} {cpu:8.1f} {rate:8.0f}", flush=True)
        process.terminate()
        process.join()


if __name__ == "__main__":
    main()
