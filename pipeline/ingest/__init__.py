"""The HTTP way in: what producers post, what operators read, and the documents that describe both."""

from pipeline.ingest.application import build_application
from pipeline.ingest.ports import IngestLimits, Readiness

__all__ = ["IngestLimits", "Readiness", "build_application"]
