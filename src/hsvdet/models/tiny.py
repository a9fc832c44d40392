"""The small form of the DETR lineage, for tests, teaching and training on a CPU: about 0.6 million parameters.

Not of any paper. One choice for all, so that what differs between tiny models is what differs between papers.
"""

from typing import Any

TINY: dict[str, Any] = dict(
    backbone="resnet-tiny",
    pretrained=False,
    dim=64,
    heads=4,
    feed_forward=128,
    encoder_layers=2,
    decoder_layers=3,
    queries=50,
    dropout=0.0,
)
# Where there are several maps and so more small objects to be found.
TINY_PYRAMID: dict[str, Any] = TINY | dict(queries=100)
