"""Notebooks as experiments: one run (`pipeline`), a grid of runs in parallel (`sweep`), and what conditions differ in
(`comparison`). `benchmarks` measure the installation and its models.
"""

__all__ = ["comparison", "pipeline", "sweep"]
