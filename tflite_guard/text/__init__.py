"""Text and numbers for people. Standard library only."""
