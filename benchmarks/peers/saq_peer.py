"""SAQ: a job for each event, a job for each delivery, its own retries, one aiohttp session a process, a hundred jobs at once."""

import asyncio

import aiohttp
import uvloop
from saq import Queue

from benchmarks.invented import VENDORS, call
from benchmarks.peers.producer import REDIS_URL, STUB_URL, produce_async

uvloop.install()
queue = Queue.from_url(REDIS_URL, max_concurrent_ops=100)


async def open_session(context):
    context["session"] = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20))


async def close_session(context):
    await context["session"].close()


async def fan_out(_context, *, event):
    for vendor in VENDORS:
        await queue.enqueue("deliver", event=event, vendor=vendor, retries=5, retry_backoff=True, timeout=60)


async def deliver(context, *, event, vendor):
    body, headers = call(event, vendor)
    async with context["session"].post(f"{STUB_URL}/{vendor}", data=body, headers=headers) as answer:
        answer.raise_for_status()
        await answer.json()


settings = {"queue": queue, "functions": [fan_out, deliver], "concurrency": 100, "startup": open_session, "shutdown": close_session}


async def main():
    await queue.connect()
    await produce_async(lambda event: queue.enqueue("fan_out", event=event, retries=5, retry_backoff=True, timeout=60))
    await queue.disconnect()


if __name__ == "__main__":
    asyncio.run(main())
