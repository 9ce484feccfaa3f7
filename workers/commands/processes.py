"""Commands that run processes: up, serve, worker, beat, flower, sandbox, demo."""

from __future__ import annotations

import logging
import os
import signal
import sys

import click

from workers.commands import common


@click.command(short_help="Run everything on this machine, under one supervisor.")
@click.option("--sandbox", is_flag=True, help="Run the vendor sandboxes as well.")
def up(sandbox: bool) -> None:
    """Run everything on this machine: server, ingest, workers, beat, Flower.

    Without CONSENT_REDIS_URL an embedded Valkey server is run, and secrets that are not in the environment are made once; all
    of it is kept in CONSENT_STATE_DIR (.consent). A process that dies is started again. Prints `ready <url>` when events can
    be sent. Ctrl-C stops all in order; SIGHUP takes a changed routing file.

    \b
    Examples:
      consent up --sandbox
      CONSENT_STATE_DIR=/tmp/second CONSENT_INGEST_PORT=0 CONSENT_FLOWER_PORT=0 consent up
    """  # noqa: D301 - click reads the backspace
    from workers.up import running, watch_until_stopped

    with running(common.environment(), sandbox=sandbox) as relay:
        if not relay.stopping:
            click.echo(f"ready {relay.ingest_url}")
            click.echo(f"Flower {relay.flower_url} (login in {relay.state.path / 'flower_login'}), logs in {relay.state.logs}", err=True)
        watch_until_stopped(relay)
        click.echo("stopping", err=True)


@click.command()
@click.option("--single", is_flag=True, help="Run one server in this very process, whatever ingest.processes says.")
def serve(single: bool) -> None:
    """Run the HTTP interface that takes events.

    Needs CONSENT_REDIS_URL, CONSENT_SUBJECT_PEPPER and CONSENT_VAULT_KEYS. With ingest.processes above 1 that many server
    processes share the port.
    """
    from workers.group import run_group
    from workers.serve import refuse_taken_port
    from workers.serve import serve as run

    built = common.parts("ingest")
    if not single:
        refuse_taken_port(built.settings)
    if single or built.settings.ingest.processes == 1:
        run(built)
    else:
        run_group(built, "ingest", ["serve", "--single"], built.settings.ingest.processes, built.settings.ingest.stop_seconds, rereads=True)


@click.command()
@click.option("--single", is_flag=True, help="Run one worker in this very process, whatever worker.processes says.")
@click.option("--name", default="worker", show_default=True, help="Name in Flower, with --single.")
def worker(single: bool, name: str) -> None:
    """Run the workers that tell the vendors.

    worker.processes of them, each with worker.threads threads; one that dies is started again. SIGTERM lets the work under way
    end first; SIGHUP takes a changed routing file. Needs CONSENT_REDIS_URL, CONSENT_SUBJECT_PEPPER and CONSENT_VAULT_KEYS.
    """
    if single:
        from workers import wiring
        from workers.celery_processes import run_worker

        built = wiring.current()
        common.set_up_logging(built.settings, name)
        sys.exit(run_worker(built, name))
    from workers.group import run_group

    built = common.parts("worker")
    section = built.settings.worker
    run_group(built, "worker", ["worker", "--single"], section.processes, section.stop_seconds)


@click.command(short_help="Run beat, which has the workers release what is due.")
def beat() -> None:
    """Run beat, which every second has the workers release what is due.

    Two of them do no harm. Needs CONSENT_REDIS_URL (or CONSENT_BROKER_URL) only.
    """
    from workers.celery_processes import run_beat

    found = common.settings()
    common.set_up_logging(found, "beat")
    run_beat(found)


@click.command()
def flower() -> None:
    """Run Flower, read-only, on 127.0.0.1:5555.

    Needs CONSENT_FLOWER_LOGIN=user:password. Shows destinations, lanes and ids; never a person.
    """
    from workers.flower import run_flower

    found = common.settings()
    common.set_up_logging(found, "flower")
    run_flower(found)


@click.command(short_help="Run the vendor sandboxes.")
@click.option("--ready-file", help="Is written once requests are taken.")
def sandbox(ready_file: str | None) -> None:
    """Run the vendor sandboxes on CONSENT_SANDBOX_PORT (8090), each under /<vendor>.

    They behave as the vendors' documentation says and keep what they are told in memory.
    """
    from workers.process import python, with_checkout

    command = python("tests.sandboxes", "--port", str(common.settings().sandbox.port), *(("--ready-file", ready_file) if ready_file else ()))
    os.execve(command[0], command, with_checkout(os.environ))  # noqa: S606 - our own module


@click.command(short_help="Run everything with sandboxes and sample events.")
@click.option("--stay", is_flag=True, help="Stay up after the table, until Ctrl-C.")
def demo(stay: bool) -> None:
    """Run everything with the sandboxes, send the sample events and show what came of them.

    Exits 0 once every destination was told about every sample, 1 if one was not in time.
    """
    from workers.demo import run_demo

    logging.captureWarnings(capture=True)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    sys.exit(run_demo(common.environment(), stay=stay))
