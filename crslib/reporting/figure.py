"""A chart with the words beside it, on a page and in a notebook."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import altair as alt  # takes longer to import than the simulation, whose notebook draws nothing


@dataclass(frozen=True)
class Figure:
    """A chart with its title and a sentence on how to read it. `needs`: as of `Metric`; a run's report leaves the chart
    out where the run lacks that."""

    title: str
    reading: str
    chart: "alt.TopLevelMixin"
    needs: str = ""
