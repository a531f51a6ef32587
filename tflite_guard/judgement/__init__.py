"""Where numbers meet thresholds. No numpy: what is cached is judged again at once."""
