"""A run: planned, done by children, remembered."""
