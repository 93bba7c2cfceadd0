"""`crs train`, `crs prefer`, `crs imitate`, `crs blend` and `crs discriminator`: adapters, and who tells them apart."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from crslib.cli.terminal import REPORTS_OF_RUNS, RUN, console, counting
from crslib.config import Parameters
from crslib.training.parameters import (
    DiscriminatorParameters,
    ImitationParameters,
    PreferenceParameters,
    TrainingParameters,
)


def _options(parameters: type[Parameters]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """An option for every field of `parameters` but the role."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        for name, field in reversed(parameters.model_fields.items()):
            if name != "role":
                flag, kind = f"--{name.replace('_', '-')}", type(field.default)
                command = click.option(
                    flag,
                    name,
                    type=kind,
                    is_flag=kind is bool,
                    default=field.default,
                    show_default=True,
                    help=field.description,
                )(command)
        return command

    return decorate


@click.command()
@click.argument("role", type=click.Choice(["user", "recommender", "scripted", "user-target"]))
@_options(TrainingParameters)
def train(role: str, **given: Any) -> None:
    """Trains the adapter of ROLE on ReDial (needs torch: `make train`). A killed training resumes.

    `scripted` writes both sides and `user-target` knows the target titles: these are the baselines. The folder TO gets
    the adapter ROLE.gguf, its card and its losses. --trainer trl trains any causal model of Hugging Face, by SFT or,
    with --pairs, by DPO (needs the extra `trl`; several GPUs: `accelerate launch -m crslib train …`).
    """
    from crslib.training import hub, run

    parameters = TrainingParameters.parse({"role": role, **_with_absolute_folder(given)}).located()
    trainer = {"own": run, "trl": hub}[parameters.trainer]
    with counting("tokens" if parameters.trainer == "own" else "steps") as progress:
        figures = trainer.train(parameters, progress)
    if os.environ.get("RANK", "0") != "0":
        return  # another process of `accelerate launch` prints it
    for kind, before in figures["before"].items():
        unit = "" if parameters.pairs else " nats per token"
        console.print(f"{kind:8} {before:.3f} → {figures['after'][kind]:.3f}{unit} in validation")
    console.print(f"{figures['tokens']:,} tokens, {figures['tokens_per_s']:,.0f} a second", soft_wrap=True)
    adapter = parameters.folder / f"{role}.gguf"
    console.print(str(adapter if adapter.is_file() else parameters.folder / "peft"), soft_wrap=True)


@click.command()
@click.argument("role", type=click.Choice(["user", "recommender"]))
@_options(PreferenceParameters)
def prefer(role: str, **given: Any) -> None:
    """Trains the adapter of ROLE by DPO after SFT (needs torch: `make train`). A killed training resumes.

    The adapter continues moments of ReDial's training dialogues several times; rules, and optionally a judge, decide
    which continuations are better. The folder TO gets adapter, card, candidates and pairs; with --told the pairs alone,
    for `crs train --trainer trl --pairs TO`.
    """
    from crslib.training import preferences, rewards, run

    parameters = PreferenceParameters.parse({"role": role, **_with_absolute_folder(given)}).located()
    with counting("contexts") as progress:
        pairs = run.make_pairs(parameters, progress)
    ((_, n, chosen, rejected, *decided),) = preferences.count(pairs).iter_rows()
    rules = ", ".join(f"{rule} {times}" for rule, times in zip(rewards.RULES, decided, strict=True) if times)
    console.print(f"{n} pairs of {chosen:.1f} and {rejected:.1f} tokens; decided by {rules}", soft_wrap=True)
    if parameters.told:
        console.print(str(parameters.folder / "pairs.jsonl"), soft_wrap=True)
        return
    with counting("tokens") as progress:
        figures = run.prefer(parameters, pairs, progress)
    for name, before in figures["before"].items():
        console.print(f"{name:8} {before:.3f} → {figures['after'][name]:.3f} in validation")
    console.print(str(parameters.folder / f"{role}.gguf"), soft_wrap=True)


@click.command()
@click.argument("role", type=click.Choice(["user", "recommender"]))
@_options(ImitationParameters)
def imitate(role: str, **given: Any) -> None:
    """Trains the adapter of ROLE to prefer what people said to its own replies (needs torch: `make train`).

    Self-play fine-tuning in rounds: a discriminator, fitted anew, leaves the replies that it takes for the model's.
    Training stops when the words of other people get less likely. A killed training resumes. The folder TO gets adapter
    and card, and a folder for every round.
    """
    from crslib.training import rounds

    parameters = ImitationParameters.parse({"role": role, **_with_absolute_folder(given)}).located()
    with counting("contexts, then tokens") as progress:
        done = rounds.imitate(parameters, progress)
    for row in done.iter_rows(named=True):
        people = f"{row['people_before']:.3f} → {row['people_after']:.3f} nats per token"
        stopped = "; stopped by the guard" if row["stopped"] else ""
        console.print(
            f"round {row['round']}: {row['pairs']} pairs, discriminator {row['accuracy']:.2f} (log loss "
            f"{row['log_loss']:.3f}), people {people}{stopped}",
            soft_wrap=True,
        )
    console.print(str(parameters.folder / f"{role}.gguf"), soft_wrap=True)


@click.command()
@click.argument("first", type=click.Path(exists=True, path_type=Path))
@click.argument("second", type=click.Path(exists=True, path_type=Path))
@click.option("--share", type=float, default=0.5, show_default=True, help="Share of SECOND, 0 to 1.")
@click.option("--to", type=click.Path(path_type=Path), required=True, help="GGUF to write; its card goes beside it.")
@click.option("--model", default="smollm2", show_default=True, help="GGUF of the base; smollm2 is the built-in one.")
def blend(first: Path, second: Path, share: float, to: Path, model: str) -> None:
    """Mixes two adapters of one base: (1 − share) · FIRST + share · SECOND, e.g. SFT and DPO. Nothing is trained.

    FIRST and SECOND are GGUFs, or PEFT folders (which need torch: `make train`).
    """
    from crslib.training import blend as blending

    loss = blending.blend_files(first, second, share, to, model)
    console.print(f"{loss:.2%} of the mixture's norm is cut off", soft_wrap=True)
    console.print(str(to), soft_wrap=True)


@click.command()
@click.argument("role", type=click.Choice(["user", "recommender"]))
@_options(DiscriminatorParameters)
@REPORTS_OF_RUNS
def discriminator(role: str, **given: Any) -> None:
    """Fits a discriminator of people's turns and those of a run or of the adapter of ROLE, which can weigh a
    simulation's draws (-p discriminators=TO).

    The folder TO gets ROLE.json: weights of words and pairs of words. --run takes an id, a tag, `latest` or a folder.
    """
    from crslib.training import rounds

    if given["run"]:
        given["run"] = str(RUN.convert(given["run"], None, click.get_current_context()))
    parameters = DiscriminatorParameters.parse({"role": role, **_with_absolute_folder(given)}).located()
    with counting("contexts") as progress:
        fitted = rounds.fit_discriminator(parameters, progress)
    about = fitted.about
    console.print(
        f"{len(fitted.weights)} features of {about['human_turns']} human and {about['model_turns']} of the model, "
        f"on dialogues left out: accuracy {about['accuracy']:.3f}, log loss {about['log_loss']:.3f} (chance: 0.693)",
        soft_wrap=True,
    )
    console.print(str(parameters.folder / f"{role}.json"), soft_wrap=True)


def _with_absolute_folder(given: dict[str, Any]) -> dict[str, Any]:
    """`to` is relative to the working directory, also where it does not exist yet."""
    return given | {"to": str(Path(given["to"]).expanduser().resolve()) if given["to"] else ""}
