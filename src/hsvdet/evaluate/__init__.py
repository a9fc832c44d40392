"""How good detections are: average precision, occlusion, confusion, duplicates; a report with pictures."""

# pyright: strict

from .deduplicate import perfectly_deduplicated
from .duplicates import Duplicates, duplicates_per_object
from .evaluation import Evaluation
from .measure import evaluate_detections, merge_by_image
from .report import write_report

__all__ = [
    "Duplicates",
    "Evaluation",
    "duplicates_per_object",
    "evaluate_detections",
    "merge_by_image",
    "perfectly_deduplicated",
    "write_report",
]
