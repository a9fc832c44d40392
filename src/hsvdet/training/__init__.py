"""Training: `train`, and the recipes it follows."""

from .loop import TrainResult, train
from .recipe import RECIPES, Recipe, find_recipe

__all__ = ["RECIPES", "Recipe", "TrainResult", "find_recipe", "train"]
