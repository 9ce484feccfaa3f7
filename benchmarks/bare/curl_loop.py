"""A bare libcurl loop: pop a hundred events, post each to three vendors (or, with `batch`, a hundred in one call), 64 posts under way, until nothing is left."""

import json
import sys

import pycurl
import redis

from benchmarks.bare.backlog import take
from benchmarks.invented import VENDORS, batch_call, call
from benchmarks.peers.producer import REDIS_URL, STUB_URL

UNDER_WAY = 64


def calls(client, *, batch):
    """(vendor, body, headers) of the whole backlog, taken as it is needed."""
    while events := take(client):
        for vendor in VENDORS:
            for body, headers in [batch_call(events, vendor)] if batch else [call(event, vendor) for event in events]:
                yield vendor, body, headers


def handle():
    curl = pycurl.Curl()
    curl.setopt(pycurl.POST, 1)
    curl.answer = []
    curl.setopt(pycurl.WRITEFUNCTION, curl.answer.append)
    return curl


def begin(multi, curl, vendor, body, headers):
    curl.answer.clear()
    curl.setopt(pycurl.URL, f"{STUB_URL}/{vendor}")
    curl.setopt(pycurl.HTTPHEADER, [f"{name}: {value}" for name, value in headers.items()] + ["Expect:"])
    curl.setopt(pycurl.POSTFIELDS, body)
    multi.add_handle(curl)


def drain(*, batch):
    multi, pending = pycurl.CurlMulti(), calls(redis.Redis.from_url(REDIS_URL), batch=batch)
    multi.setopt(pycurl.M_MAXCONNECTS, UNDER_WAY)
    free, running = [handle() for _ in range(UNDER_WAY)], 0
    print("ready", flush=True)
    sys.stdin.readline()
    left = True
    while left or running:
        while free and left:
            following = next(pending, None)
            if following is None:
                left = False
                break
            begin(multi, free.pop(), *following)
            running += 1
        multi.perform()
        _, ended, failed = multi.info_read()
        if failed:
            raise SystemExit(f"a call failed: {failed[0][1:]}")
        for curl in ended:
            json.loads(b"".join(curl.answer))
            multi.remove_handle(curl)
            free.append(curl)
        running -= len(ended)
        if running and not ended:
            multi.select(1.0)


if __name__ == "__main__":
    drain(batch="batch" in sys.argv[1:])
