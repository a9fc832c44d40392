"""torchvision's Faster R-CNN R50-FPN v2, random weights. pip install -r benchmarks/peers/torchvision.txt

    hsvdet benchmark hsv-det-l --peer 'PYTHON benchmarks/peers/torchvision_forward.py fasterrcnn_resnet50_fpn_v2'

Its own resizing is set to keep the size. With random weights few boxes survive its suppression, which is part of
its forward, so it is a little faster here than in use.
"""

from forward import race


def network(name: str, height: int, width: int):
    from torchvision.models import get_model

    sides = dict(min_size=min(height, width), max_size=max(height, width))
    return get_model(name, weights=None, weights_backbone=None, num_classes=81, **sides)


if __name__ == "__main__":
    race(__doc__, network)
