"""The learning rate over a run."""

from __future__ import annotations

import math

from .recipe import Recipe


def warmup_length(recipe: Recipe, steps: int, steps_per_epoch: int) -> int:
    """Steps of the warm-up, at least one."""
    longest = min(recipe.warmup_epochs * steps_per_epoch, recipe.warmup_steps, recipe.warmup_share * steps)
    return max(1, round(longest))


def rate_factor(step: int, steps: int, warmup: int, recipe: Recipe) -> float:
    """Of the highest learning rate, for step 0..steps-1: a line up to 1 at the end of the warm-up; half a
    cosine down to `final_rate` at `cosine_until`, constant after; or, with a `drop`, 1 until there."""
    if step < warmup:
        return (step + 1) / warmup
    if recipe.drop:
        return 1.0 if step < round(recipe.drop * steps) else recipe.final_rate
    end = max(warmup + 1, round(recipe.cosine_until * steps))
    progress = min(1.0, (step - warmup) / (end - warmup))
    return recipe.final_rate + (1 - recipe.final_rate) * 0.5 * (1 + math.cos(math.pi * progress))
