"""Measurements of the parts, against people and against each other: `crs bench`."""
