"""Slow loops that need no cleverness to trust."""
