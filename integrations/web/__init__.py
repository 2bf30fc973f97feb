"""Scores over HTTP: a FastAPI application, and a dependency for other people's applications."""

from __future__ import annotations

from .app import create_app
from .dependency import Accepted, ImageGate
from .service import Service
from .settings import Settings

__all__ = ["Accepted", "ImageGate", "Service", "Settings", "create_app"]
