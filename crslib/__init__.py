"""Reference-free conversational-recommendation simulation (arXiv 2603.18573) on a laptop."""

import polars as pl

# Polars 2 collects lazily with the streaming engine, whose row order and last bits change from run to run.
pl.Config.set_engine_affinity("in-memory")

__version__ = "0.1.0"
