"""A bare aiohttp loop on uvloop: pop a hundred events, post each to three vendors, 64 posts under way, until the backlog is empty."""

import asyncio
import sys

import aiohttp
import redis
import uvloop

from benchmarks.bare.backlog import take
from benchmarks.invented import VENDORS, call
from benchmarks.peers.producer import REDIS_URL, STUB_URL

UNDER_WAY = 64


async def post(session, room, event, vendor):
    body, headers = call(event, vendor)
    try:
        async with session.post(f"{STUB_URL}/{vendor}", data=body, headers=headers) as answer:
            answer.raise_for_status()
            await answer.json()
    finally:
        room.release()


async def main():
    room = asyncio.Semaphore(UNDER_WAY)
    client = redis.Redis.from_url(REDIS_URL)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=UNDER_WAY)) as session, asyncio.TaskGroup() as group:
        print("ready", flush=True)
        sys.stdin.readline()
        while events := take(client):
            for event in events:
                for vendor in VENDORS:
                    await room.acquire()
                    group.create_task(post(session, room, event, vendor))


if __name__ == "__main__":
    uvloop.run(main())
