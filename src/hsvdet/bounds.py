"""How much a file, a server or an option may ask for. What is beyond is refused in one line, before the work;
docs/security.md has the table for people."""

# pyright: strict

from __future__ import annotations

# Whole numbers among the options of a model or a recipe.
LARGEST_OPTION = 1_000_000

# Networks, many times more than the largest that was published: parameter tensors, numbers in them.
MOST_TENSORS = 20_000
MOST_PARAMETERS = 2**32

# Module objects in a published file.
MOST_MODULES = 20_000

# Pixels of a side of a network's input: a square of them is 3 GiB in float32. No published detector has a tenth of it.
LARGEST_SIDE = 16_384
LARGEST_STRIDE = 1024

# Bytes of an artifact's own file, which protobuf cannot pass, and of the weights beside it.
LARGEST_GRAPH = 2**31
LARGEST_WEIGHTS = 4 * MOST_PARAMETERS

# Classes, and objects of one image: tables of all with all are made of them. LVIS has 1,203 classes.
MOST_CLASSES = 10_000
MOST_OBJECTS = 5_000

# Characters of the name of a class.
LONGEST_NAME = 1000

# Rows of an artifact's output.
MOST_DETECTIONS = 1_000_000

# Pixels of an image: Pillow's own bound. The environment variable HSVDET_MAX_PIXELS sets another.
MAX_PIXELS = 178_956_970

# Pixels of a side that an annotation gives an image; beyond, the image itself is asked.
LARGEST_IMAGE_SIDE = 1_000_000

# Bytes of an annotation file or a list: ten times COCO's annotations of all its images.
LARGEST_TEXT = 8 * 2**30

# Bytes of what is fetched from a URL, and seconds that it may take.
LARGEST_IMAGE_DOWNLOAD = 100 * 2**20
LARGEST_VIDEO_DOWNLOAD = 2 * 2**30
LONGEST_TRANSFER = 3600
