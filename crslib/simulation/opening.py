"""From the parameters of a simulation to its agents: what each role's name means, opened and closed.

The only place that knows every kind of agent.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from crslib.agents import callable as functions
from crslib.agents import dialoguekit
from crslib.agents.agenda import Agenda
from crslib.agents.base import Agent
from crslib.agents.format import Format, Told, Trained
from crslib.agents.http import HttpAgent
from crslib.agents.local import LocalAgent
from crslib.agents.server import open_server
from crslib.config import SimulationParameters, kind_of, resolve
from crslib.data.catalog import item_names
from crslib.dialogue.discriminator import Discriminator
from crslib.dialogue.domain import FIRST
from crslib.dialogue.prompts import Prompt
from crslib.dialogue.utterances import RECOMMENDER, USER
from crslib.dialogue.views import RecommenderView, UserKnowledge, UserView, View
from crslib.engines import llama, weights
from crslib.engines.base import Constraint, Engine
from crslib.engines.loading import open_engines, sampling, weights_form
from crslib.engines.server import Limits, check_url, parse
from crslib.errors import CrsError
from crslib.identity import file_sha256
from crslib.recommender.candidates import candidates
from crslib.recommender.grounding import CatalogTitles
from crslib.recommender.prior import heard
from crslib.simulation.population import Population

ROLES = (USER, RECOMMENDER)


@contextlib.contextmanager
def open_agents(
    parameters: SimulationParameters, population: Population, folder: Path | None = None, roles: Sequence[str] = ROLES
) -> Iterator[tuple[Agent, ...]]:
    """The agents of `roles`, closed at the end.

    `folder`: where the answers of servers are kept, which are not asked for them again; None: they are not kept. Raises
    `CrsError` when an agent cannot be opened: a file cannot be read or does not fit, a server does not answer, ….
    """
    with contextlib.ExitStack() as stack:
        local = [role for role in roles if parameters.is_local(role)]
        with ThreadPoolExecutor(1) as beside:
            if local:  # llama.cpp opens models without Python; what fails beside it fails again where it is used
                beside.submit(population.prepare, parameters, local)
            engines = dict(zip(local, stack.enter_context(open_engines(parameters, local)), strict=True))
        reader = engines.get(RECOMMENDER) or engines.get(USER)
        titles = population.catalog_titles(reader, parameters) if reader else None
        limits = limits_of(parameters)
        agents = []
        for role in roles:
            if role in engines:
                agent: Agent = local_agent(engines[role], role, population, parameters, titles)
            else:
                agent = remote_agent(role, population, parameters, limits, folder)
            agents.append(stack.enter_context(contextlib.closing(agent)))
        stack.callback(setattr, limits, "closed", True)  # before the first is closed: what it drops makes room
        yield tuple(agents)


def local_agent(
    engine: Engine,
    role: str,
    population: Population,
    parameters: SimulationParameters,
    titles: CatalogTitles | None = None,
) -> LocalAgent:
    """The agent that speaks for `role` by `engine`; what it may name is constrained as `parameters` say.

    `titles`: those of the catalogue as the recommender's engine reads them, which serve the user too; None: `engine`
    reads them itself. Raises `CrsError` for an engine that cannot be constrained so.
    """
    domain = population.domain
    empty = RecommenderView(domain) if role == RECOMMENDER else UserView(UserKnowledge(domain, "", ""))
    form = prompted(role, population, parameters)
    constraint = _constraint(engine, role, population, parameters, titles)
    agent = LocalAgent(engine, form, empty, parameters.resample, _log_weight(role, parameters), constraint)
    agent.untried = untried(role, population, parameters)
    return agent


def untried(role: str, population: Population, parameters: SimulationParameters) -> str:
    """What is to be said of a role's adapter that was trained on another domain; empty where there is none."""
    if (file := llama.adapter_path(parameters.adapter(role))) is None:
        return ""
    trained = weights.domain_of(file) or FIRST
    name = population.domain.name
    return "" if trained == name else f"untried on {name}: its adapter was trained on {trained}"


def remote_agent(
    role: str, population: Population, parameters: SimulationParameters, limits: Limits, folder: Path | None
) -> Agent:
    """The agent of `role` that is no model of this machine. Raises `CrsError` when it cannot be opened."""
    name, catalog = parameters.model(role), population.catalog
    match kind_of(name):
        case "openai":
            choices = _candidates(population, parameters) if role == RECOMMENDER else None
            form = prompted(role, population, parameters, choices)
            return open_server(name, parameters, limits, form=form, answers=folder and folder / f"{role}.answers.jsonl")
        case "python":
            return functions.open_function(name, role, catalog, catalog.bracketed)
        case "dialoguekit":
            return dialoguekit.open_agent(name, role, catalog, catalog.bracketed)
        case "http":
            concurrency, timeout = parameters.max_concurrency, parameters.timeout
            return HttpAgent(name, role, catalog, catalog.bracketed, max_concurrency=concurrency, timeout=timeout)
        case _ if role == USER:
            return Agenda(population.domain)
    raise CrsError(f"{name!r} is a user; name another recommender_model")


def planned(
    role: str, parameters: SimulationParameters, report: Callable[[str], None] = lambda what: None
) -> dict[str, Any]:
    """What decides, with the parameters, what the agent of `role` says, as far as it is known without opening it.

    The form of a model's weights may be measured, which `report` is told. Raises `CrsError` for a file that is missing
    or of the wrong kind, and for a name that cannot be an agent's.
    """
    name, adapter = parameters.model(role), parameters.adapter(role)
    path = parameters.prompt(role)
    told = {"prompt_sha256": Prompt.read(resolve(path)).identity} if path else {}
    match kind_of(name):
        case "gguf":
            files = llama.model_path(name), llama.adapter_path(adapter)
            source = llama.source(*files, weights_form(parameters, *files, report))
            sizes = parameters.context, parameters.width, parameters.n_gpu_layers
            return {**llama.identity(source, sampling(parameters), *sizes), **told}
        case "openai":
            model, url = parse(name)
            return {"model": model, "url": url, **told}
        case "python" | "dialoguekit":
            place, _, function = name.partition(":")[2].rpartition(":")
            file = functions.find_file(place)
            return {"function": function, "file_sha256": file_sha256(file)} if file else {"function": name}
        case "http":
            return {"url": check_url(name)}
        case _ if role == USER:
            return {"agent": name}
    raise CrsError(f"{name!r} is a user; name another recommender_model")


def prompted(
    role: str,
    population: Population,
    parameters: SimulationParameters,
    choices: Callable[[View], Sequence[str]] | None = None,
) -> Format:
    """How a model without adapter is spoken to: by its role's instructions, or as one that was trained where there are
    none. Raises `CrsError` for instructions that cannot be read or used."""
    path = parameters.prompt(role)
    return Told(Prompt.read(resolve(path)), role, population.catalog.bracketed, choices) if path else Trained()


def limits_of(parameters: SimulationParameters) -> Limits:
    """What may be asked of servers by all roles together."""
    return Limits(parameters.max_concurrency, parameters.requests_per_minute, parameters.tokens_per_minute)


def _log_weight(role: str, parameters: SimulationParameters) -> Callable[[str], float] | None:
    """How much more likely than the model people are to say what it said; None where nothing weighs the draws."""
    if not parameters.discriminators:
        return None
    return Discriminator.read(resolve(parameters.discriminators) / f"{role}.json").log_odds


def _constraint(
    engine: Engine, role: str, population: Population, parameters: SimulationParameters, titles: CatalogTitles | None
) -> Callable[[Any], Constraint] | None:
    """What `role` may name, by its view; None where all is free."""
    if role == USER:
        return population.of_user(engine, parameters, titles)
    of_turns = population.of_recommender(engine, parameters, titles)
    return None if of_turns is None else lambda view: of_turns(view.turns)


def _candidates(population: Population, parameters: SimulationParameters) -> Callable[[View], Sequence[str]] | None:
    """The names that a recommender whose decoding cannot be constrained may choose from; None: it is told none."""
    prior = population.ranking(parameters)
    names: Mapping[str, Any] = item_names(population.items)
    return None if prior is None else lambda view: candidates(prior, names, heard(view.turns))
