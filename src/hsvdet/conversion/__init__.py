"""Published weights into checkpoints, and checkpoints into the start of a training."""
