"""Published weights into checkpoints, running nothing in them."""
