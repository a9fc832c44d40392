"""What is wrong with the detections of one image, by kind, after TIDE (Bolya et al. 2020, arXiv 2008.08115)."""

# pyright: strict

from __future__ import annotations

import numpy as np

from ..data.overlap import overlaps
from ..evaluate.pairing import MATCHING_IOU, UNMATCHED, Pair

KINDS = ("class", "place", "both", "duplicate", "background", "missed")
TOUCHING = 0.1


def mistakes(pair: Pair, matches: np.ndarray, over: float) -> np.ndarray:
    """[6]: how many of each of KINDS, of detections that score over `over`. matches: as of `match_within_class`.

    A detection that found no object, and that no crowd region of its class explains, is the first of these that fits:

    duplicate: IoU of 0.5 or more with an object of its class, which a stronger detection has found;
    class: IoU of 0.5 or more with an object of another class;
    place: IoU of 0.1 to 0.5 with an object of its class;
    both: IoU of 0.1 to 0.5 with an object of another class;
    background: all others.

    An object is missed if none of these detections found it and none of the kinds class and place lies on it.
    """
    passing = pair.scores > over
    taken, labels = matches[passing], pair.labels[passing]
    wrong = taken == UNMATCHED
    real = ~pair.crowd
    overlap = overlaps(pair.boxes[passing], pair.truth[real])[wrong]
    own = labels[wrong][:, None] == pair.truth_labels[real]

    def largest(of: np.ndarray) -> np.ndarray:
        return (overlap * of).max(1, initial=0)

    same, other = largest(own), largest(~own)
    kind = np.select(
        [same >= MATCHING_IOU, other >= MATCHING_IOU, same >= TOUCHING, other >= TOUCHING],
        [KINDS.index(name) for name in ("duplicate", "class", "place", "both")],
        KINDS.index("background"),
    )
    covered = np.zeros(len(pair.crowd), dtype=bool)
    covered[taken[taken >= 0]] = True
    near = (overlap >= MATCHING_IOU) & ~own & (kind == KINDS.index("class"))[:, None]
    near |= (overlap >= TOUCHING) & own & (kind == KINDS.index("place"))[:, None]
    missed = int((~covered[real] & ~near.any(0)).sum())
    return np.append(np.bincount(kind, minlength=len(KINDS) - 1), missed)
