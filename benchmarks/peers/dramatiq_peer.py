"""Dramatiq on Redis: an actor for each event, an actor for each delivery, its own retries with back-off, one kept `requests.Session` a thread."""

import threading

import dramatiq
import redis
import requests
from dramatiq.brokers.redis import RedisBroker

from benchmarks.invented import VENDORS, call
from benchmarks.peers.producer import REDIS_URL, STUB_URL, produce

dramatiq.set_broker(RedisBroker(client=redis.Redis(connection_pool=redis.ConnectionPool.from_url(REDIS_URL, max_connections=300))))
local = threading.local()


@dramatiq.actor(max_retries=5)
def fan_out(event):
    for vendor in VENDORS:
        deliver.send(event, vendor)


@dramatiq.actor(max_retries=5)
def deliver(event, vendor):
    if not hasattr(local, "session"):
        local.session = requests.Session()
        local.session.trust_env = False
    body, headers = call(event, vendor)
    answer = local.session.post(f"{STUB_URL}/{vendor}", data=body, headers=headers, timeout=20)
    answer.raise_for_status()
    answer.json()


if __name__ == "__main__":
    produce(fan_out.send)
