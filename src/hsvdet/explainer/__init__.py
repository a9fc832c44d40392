"""What a detector looked at: attention of encoders and decoders, sampling points, selected tokens, answering cells,
and what each query slot looks for. docs/explain.md shows each."""

# pyright: strict

from .explanation import Explanation, explain

__all__ = ["Explanation", "explain"]
