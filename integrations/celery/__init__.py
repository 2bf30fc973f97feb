"""A Celery task that gates pictures in the background."""

from __future__ import annotations

from .tasks import gate_picture

__all__ = ["gate_picture"]
