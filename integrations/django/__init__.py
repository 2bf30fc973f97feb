"""A validator for Django's `ImageField` and `FileField`."""

from __future__ import annotations

from .validators import QualityValidator

__all__ = ["QualityValidator"]
