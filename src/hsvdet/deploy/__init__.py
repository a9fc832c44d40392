"""A trained network in the form it is used in: the same answers for fewer operations."""

from .fold import BlockFold, FoldReport, fold

__all__ = ["BlockFold", "FoldReport", "fold"]
