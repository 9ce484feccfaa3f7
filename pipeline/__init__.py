"""What the system does, from an incoming consent event to every vendor's answer; knows no Celery and no environment."""

from typing import Final

VERSION: Final = "0.1.0"
"""As in pyproject.toml, which an image need not contain."""
