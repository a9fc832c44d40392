"""Training: `train`, and the recipes it follows."""

# pyright: strict

from .recipe import RECIPES, Recipe, find_recipe
from .start import TrainResult, resume, train

__all__ = ["RECIPES", "Recipe", "TrainResult", "find_recipe", "resume", "train"]
