"""The jobs, by letter; each knows who is measured, what the goals are, and how a run of it goes."""

from __future__ import annotations

from benchmarks.jobs import fan_out, growth, ingest, latency, memory, slow, workers
from benchmarks.jobs.base import Job

JOBS: dict[str, Job] = {job.letter: job for job in (*fan_out.JOBS, *ingest.JOBS, *latency.JOBS, *slow.JOBS, *growth.JOBS, *memory.JOBS, *workers.JOBS)}
