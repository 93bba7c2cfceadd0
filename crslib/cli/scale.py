"""`crs bench scale`, `evaluate` and `startup`: what large runs and short ones cost beside the models."""

from collections.abc import Sequence
from pathlib import Path

import click

from crslib.cli.parameters import read_assignments
from crslib.cli.terminal import JSON, PARAMETERS, REPORTS_OF_RUNS, RUN, console, counting, write_json
from crslib.config import EvaluationParameters, SimulationParameters
from crslib.store import Run


@click.command("scale")
@click.option("--dialogues", default=32, show_default=True, type=click.IntRange(1), help="Dialogues, made twice.")
@click.option("--nodes", default=2, show_default=True, type=click.IntRange(1), help="Nodes of one core each.")
@PARAMETERS
@JSON
def bench_scale(dialogues: int, nodes: int, assignments: Sequence[str], file: Path | None) -> None:
    """Dialogues of Ray nodes of one core each, against one process of one core (needs the extra `scale`).

    The nodes are simulated on this machine, which needs as many free cores.
    """
    from crslib.experiments.benchmarks import scale

    parameters = SimulationParameters.parse(read_assignments(assignments))
    with counting("dialogues") as progress:
        figures = scale.measure(parameters, dialogues, nodes, progress)
    console.print("\n".join(scale.lines(figures)), markup=False, soft_wrap=True)
    write_json(figures, file)


@click.command("evaluate")
@click.argument("run", type=RUN)
@click.argument("counts", nargs=-1, required=True, type=click.IntRange(1))
@PARAMETERS
@JSON
@REPORTS_OF_RUNS
def bench_evaluate(run: Path, counts: Sequence[int], assignments: Sequence[str], file: Path | None) -> None:
    """Time and memory of evaluation and report for COUNTS dialogues: copies of those of RUN (an id,
    a tag, latest or a folder), with some other words."""
    from crslib.experiments.benchmarks import evaluation

    parameters = EvaluationParameters.parse(read_assignments(assignments)).located()
    with counting("evaluations") as progress:
        costs = evaluation.measure(Run(run.resolve()), counts, parameters, progress)
    console.print("\n".join(evaluation.lines(costs)), soft_wrap=True)
    write_json(costs.to_dicts(), file)


@click.command("startup")
@click.option("--times", default=5, show_default=True, type=click.IntRange(1), help="Calls of each; the least counts.")
@JSON
def bench_startup(times: int, file: Path | None) -> None:
    """Seconds of what every command and run needs first: the command, all checks, a notebook's kernel and imports; and
    of a run of four people until it can talk."""
    from crslib.experiments.benchmarks import startup

    with counting("calls") as progress:
        figures = startup.measure(times, progress)
    console.print("\n".join(startup.lines(figures)), markup=False, soft_wrap=True)
    write_json(figures, file)
