"""How many requests and tokens a simulation asks of servers, before it starts. A rule of thumb, not a measurement."""

from collections.abc import Mapping

from crslib.config import SimulationParameters, kind_of, resolve
from crslib.engines.server import usage

# Means of ReDial's test dialogues (DESIGN §7): a simulation with models that talk longer takes more.
HUMAN_TURNS = 11.7
HUMAN_WORDS = 11.4  # of a turn
TOKENS_PER_WORD = 1.4  # of English text with titles, by the tokenizers of today's models
SUMMARY_WORDS = 60  # of a summary with wishes, or of a list of candidates


def expected(parameters: SimulationParameters, n_profiles: int) -> dict[str, Mapping[str, float]]:
    """By role that a server speaks for: `requests`, `tokens_in` and `tokens_out`, if dialogues are as long as people's
    and every first draw fits, and their `price` where prices are given. Every further draw costs as much again.
    """
    dialogues = n_profiles * parameters.dialogues_per_profile
    turns = min(HUMAN_TURNS, parameters.max_turns) / 2  # of each role
    words = sum(HUMAN_WORDS * 2 * turn for turn in range(int(turns))) + (turns % 1) * HUMAN_WORDS * 2 * int(turns)
    costs: dict[str, Mapping[str, float]] = {}
    scripted = getattr(parameters, "baseline", "") == "scripted"
    for role in ("user",) if scripted else ("user", "recommender"):
        if kind_of(parameters.model(role)) != "openai":
            continue
        path = parameters.prompt(role)
        told = SUMMARY_WORDS + (len(resolve(path).read_text(encoding="utf-8").split()) if path else 0)
        asked = 1 if scripted else turns  # a script is one answer with the turns of both
        tokens_in = dialogues * TOKENS_PER_WORD * (asked * told + (0 if scripted else words))
        tokens_out = dialogues * TOKENS_PER_WORD * HUMAN_WORDS * (2 * turns if scripted else turns)
        used = usage(round(tokens_in), round(tokens_out), parameters.price_in, parameters.price_out)
        costs[role] = {"requests": round(dialogues * asked), **used}
    return costs
