"""`crs train` and `crs prefer`: training of adapters."""

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
    """Trains the adapter of ROLE on ReDial (needs `pip install 'crslib[train]'`). A killed training resumes.

    `scripted` writes both sides and `user-target` knows the target titles: these are the baselines. The folder TO gets
    the adapter ROLE.gguf, its card and its losses.
    """
    from crslib.training import run

    parameters = TrainingParameters.parse({"role": role, **_with_absolute_folder(given)}).located()
    with counting("tokens") as progress:
        figures = run.train(parameters, progress)
    for kind, before in figures["before"].items():
        console.print(f"{kind:8} {before:.3f} → {figures['after'][kind]:.3f} nats per token in validation")
    console.print(f"{figures['tokens']:,} tokens, {figures['tokens_per_s']:,.0f} a second", soft_wrap=True)
    console.print(str(parameters.folder / f"{role}.gguf"), soft_wrap=True)


@click.command()
@click.argument("role", type=click.Choice(["user", "recommender"]))
@_options(PreferenceParameters)
def prefer(role: str, **given: Any) -> None:
    """Trains the adapter of ROLE by DPO after SFT (needs `pip install 'crslib[train]'`). A killed training resumes.

    The adapter continues moments of ReDial's training dialogues several times; rules, and optionally a judge, decide
    which continuations are better. The folder TO gets adapter, card, candidates and pairs.
    """
    from crslib.training import preferences, rewards, run

    parameters = PreferenceParameters.parse({"role": role, **_with_absolute_folder(given)}).located()
    with counting("contexts") as progress:
        pairs = run.make_pairs(parameters, progress)
    ((_, n, chosen, rejected, *decided),) = preferences.count(pairs).iter_rows()
    rules = ", ".join(f"{rule} {times}" for rule, times in zip(rewards.RULES, decided, strict=True) if times)
    console.print(f"{n} pairs of {chosen:.1f} and {rejected:.1f} tokens; decided by {rules}", soft_wrap=True)
    with counting("tokens") as progress:
        figures = run.prefer(parameters, pairs, progress)
    for name, before in figures["before"].items():
        console.print(f"{name:8} {before:.3f} → {figures['after'][name]:.3f} in validation")
    console.print(str(parameters.folder / f"{role}.gguf"), soft_wrap=True)


def _with_absolute_folder(given: dict[str, Any]) -> dict[str, Any]:
    """`to` is relative to the working directory, also where it does not exist yet."""
    return given | {"to": str(Path(given["to"]).expanduser().resolve()) if given["to"] else ""}
