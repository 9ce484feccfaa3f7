"""Taskiq on Redis streams, acknowledged after the work, retries by its middleware, one aiohttp session a process."""

import asyncio

import aiohttp
from taskiq import SimpleRetryMiddleware, TaskiqEvents
from taskiq_redis import RedisStreamBroker

from benchmarks.invented import VENDORS, call
from benchmarks.peers.producer import REDIS_URL, STUB_URL, produce_async

broker = RedisStreamBroker(REDIS_URL, max_connection_pool_size=100, maxlen=1_000_000).with_middlewares(SimpleRetryMiddleware(default_retry_count=5))


@broker.on_event(TaskiqEvents.WORKER_STARTUP)
async def open_session(state):
    state.session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20))


@broker.on_event(TaskiqEvents.WORKER_SHUTDOWN)
async def close_session(state):
    await state.session.close()


@broker.task(task_name="fan_out", retry_on_error=True)
async def fan_out(event):
    for vendor in VENDORS:
        await deliver.kiq(event, vendor)


@broker.task(task_name="deliver", retry_on_error=True)
async def deliver(event, vendor):
    body, headers = call(event, vendor)
    async with broker.state.session.post(f"{STUB_URL}/{vendor}", data=body, headers=headers) as answer:
        answer.raise_for_status()
        await answer.json()


async def main():
    await broker.startup()
    await produce_async(fan_out.kiq)
    await broker.shutdown()


if __name__ == "__main__":
    asyncio.run(main())
