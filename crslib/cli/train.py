"""`crs train` and `crs prefer`: adapters of one's own."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from crslib.cli.terminal import console, counting
from crslib.config import Parameters, PreferenceParameters, TrainingParameters


def _options(parameters: type[Parameters]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """An option for every field of `parameters` but the role."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        for name, field in reversed(parameters.model_fields.items()):
            if name != "role":
                flag, kind = f"--{name.replace('_', '-')}", type(field.default)
                command = click.option(
                    flag, name, type=kind, default=field.default, show_default=True, help=field.description
                )(command)
        return command

    return decorate


@click.command()
@click.argument("role", type=click.Choice(["user", "recommender", "scripted", "user-target"]))
@_options(TrainingParameters)
def train(role: str, **given: Any) -> None:
    """Trains the adapter of ROLE on ReDial (needs `pip install 'crslib[train]'`). A killed training goes on.

    `scripted` writes both sides, `user-target` knows the target titles: what the paper argues against. The adapter lies
    in TO/ROLE.gguf, its card and losses beside it.
    """
    from crslib.training import commands

    given["to"] = str(Path(given["to"]).expanduser().resolve()) if given["to"] else ""
    parameters = TrainingParameters.parse({"role": role, **given}).located()
    with counting("tokens") as progress:
        figures = commands.train(parameters, progress)
    for kind, before in figures["before"].items():
        console.print(f"{kind:8} {before:.3f} → {figures['after'][kind]:.3f} nats per token on people not trained on")
    console.print(f"{figures['tokens']:,} tokens, {figures['tokens_per_s']:,.0f} a second", soft_wrap=True)
    console.print(str(parameters.folder / f"{role}.gguf"), soft_wrap=True)


@click.command()
@click.argument("role", type=click.Choice(["user", "recommender"]))
@_options(PreferenceParameters)
def prefer(role: str, **given: Any) -> None:
    """Teaches the adapter of ROLE to prefer its better words: DPO after SFT (needs `pip install 'crslib[train]'`).

    The adapter continues moments of ReDial's training dialogues a few times; rules, and a judge if there is one, say
    which continuation is better. Killed, it goes on. Adapter, card, candidates and pairs lie in TO.
    """
    from crslib.training import commands, preferences

    given["to"] = str(Path(given["to"]).expanduser().resolve()) if given["to"] else ""
    parameters = PreferenceParameters.parse({"role": role, **given}).located()
    with counting("contexts") as progress:
        pairs = commands.pairs(parameters, progress)
    ((_, n, chosen, rejected, *decided),) = preferences.count(pairs).iter_rows()
    why = ", ".join(f"{rule} {times}" for rule, times in zip(preferences.RULES, decided, strict=True) if times)
    console.print(f"{n} pairs of {chosen:.1f} and {rejected:.1f} tokens; decided by {why}", soft_wrap=True)
    with counting("tokens") as progress:
        figures = commands.prefer(parameters, pairs, progress)
    for name, before in figures["before"].items():
        console.print(f"{name:8} {before:.3f} → {figures['after'][name]:.3f} on pairs of dialogues not trained on")
    console.print(str(parameters.folder / f"{role}.gguf"), soft_wrap=True)
