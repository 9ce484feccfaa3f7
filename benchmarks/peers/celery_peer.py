"""Plain Celery: a fan-out task for each event, a delivery task for each vendor, late acks, retries with back-off, one kept `requests.Session` a process.

The worker runs as Celery's own default for this machine does, one prefork process a core, with events on, since Flower needs them.
"""

import requests
from celery import Celery

from benchmarks.invented import VENDORS, call
from benchmarks.peers.producer import REDIS_URL, STUB_URL, produce

app = Celery("peer", broker=REDIS_URL)
app.conf.update(
    task_acks_late=True,
    task_ignore_result=True,
    worker_send_task_events=True,
    broker_transport_options={"max_connections": 300},
    broker_connection_retry_on_startup=True,
)
sessions = []


def session():
    """One for each process, made after the fork."""
    if not sessions:
        sessions.append(requests.Session())
        sessions[0].trust_env = False
    return sessions[0]


@app.task(name="fan_out")
def fan_out(event):
    for vendor in VENDORS:
        deliver.delay(event, vendor)


@app.task(name="deliver", autoretry_for=(requests.RequestException,), retry_backoff=True, max_retries=5)
def deliver(event, vendor):
    body, headers = call(event, vendor)
    answer = session().post(f"{STUB_URL}/{vendor}", data=body, headers=headers, timeout=20)
    answer.raise_for_status()
    answer.json()


if __name__ == "__main__":
    produce(fan_out.delay)
