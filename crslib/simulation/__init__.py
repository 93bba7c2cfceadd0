"""Two independent models talk: the population, the loop, its baselines, a person in one of the places, and replays."""

from crslib.simulation.baselines import InformedPopulation
from crslib.simulation.dialogues import Dialogues
from crslib.simulation.loop import simulate
from crslib.simulation.opening import open_agents
from crslib.simulation.population import Population

__all__ = ["Dialogues", "InformedPopulation", "Population", "open_agents", "simulate"]
