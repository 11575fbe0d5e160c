"""Measurements of the generator itself: `make bench`."""
