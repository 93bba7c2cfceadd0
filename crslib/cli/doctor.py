"""`crs doctor`: what is installed, whole and usable here."""

import sys
from dataclasses import asdict
from pathlib import Path

import click

from crslib.cli.terminal import JSON, REPORTS, console, visible, write_json


@click.command()
@JSON
@REPORTS
def doctor(file: Path | None, reports: Path) -> None:
    """Says what is installed, missing or broken, and whether `crs run` can work: then the exit status is 0, else 1.

    Looks at packages, weights, caches, disk, memory, data and the runs below REPORTS. Mends nothing.
    """
    from crslib.experiments.doctor.base import works
    from crslib.experiments.doctor.checks import examine

    findings = []
    for one in examine(reports.resolve()):
        findings.append(one)
        mark = one.state.upper() if one.needed and one.state != "ok" else one.state
        console.print(visible(f"{mark:<8} {one.area:<10} {one.name}: {one.detail}"), soft_wrap=True)
        if one.remedy:
            console.print(visible(f"{'':<19} → {one.remedy}"), soft_wrap=True)
    able = works(findings)
    console.print("`crs run` can work" if able else "`crs run` cannot work: see what is MISSING or BROKEN above")
    write_json({"works": able, "findings": [asdict(one) for one in findings]}, file)
    sys.exit(0 if able else 1)
