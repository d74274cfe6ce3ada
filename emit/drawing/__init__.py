"""Pictures of a graph: an outline of its contents, and its renderings. No I/O here."""

from emit.drawing.outline import Outline, outline

__all__ = ["Outline", "outline"]
