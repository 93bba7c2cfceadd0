"""What is installed, whole and usable on this machine, for `crs doctor`. Reads, and mends nothing.

`checks` runs all: of what is `installed`, of `models` and their weights, of `places` (caches, disk, folders, data and
runs).
"""

__all__ = ["base", "checks", "installed", "models", "places"]
