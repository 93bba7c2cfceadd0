"""How long an import of many ratings takes and how much memory it needs, beside two things that DuckDB does with the
same file: a plain GROUP BY, and sorting its rows by user and item into a Parquet file, which is what an import has to
do besides checking and counting.

The file is made up by DuckDB in MovieLens' form (`ratings.csv`, `movies.csv`) and order (by user, then by item):
popular items have more ratings, as x³ of a uniform draw has them. Each part runs in a process of its own, so that its
peak memory is its own.
"""

import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import duckdb

from crslib.errors import CrsError

N_ITEMS, PER_USER = 87_000, 160  # of ml-32m: 87,585 films, 32,000,204 ratings of 200,948 users
_MOST_MEMORY = 10 << 30  # bytes for building profiles, so that the machine stays usable
_BYTES_PER_RATING = 120  # on disk at most: the file, the database, what is spilled


def measure(n: int, profiles: bool = False, letter: str = "") -> dict[str, Any]:
    """Figures by name: seconds (`*_s`; of all cores: `*_cpu_s`) and peak memory in MiB (`*_mb`) of the `plain` GROUP
    BY, of DuckDB's `sorted` Parquet file and of the `import`, `ratio` of the import and the plain one, `rows_per_s`,
    the size of the file; with `profiles` also of building 64 profiles from what was written (`profiles_error` where it
    does not get to its end). `letter`: see `make`.

    Raises `CrsError` where the disk has too little space for `n` ratings.
    """
    with tempfile.TemporaryDirectory(prefix="crs-bench-") as name:
        folder = Path(name)
        _check_space(folder, n)
        make(folder, n, letter)
        figures: dict[str, Any] = {"ratings": n, "file_mb": round((folder / "ratings.csv").stat().st_size / 2**20)}
        for part in ("plain", "sorted", "import", *(["profiles"] if profiles else [])):
            figures |= {f"{part}_{key}": value for key, value in _apart(part, folder).items()}
    figures["ratio"] = round(figures["import_s"] / figures["plain_s"], 2)
    figures["cpu_ratio"] = round(figures["import_cpu_s"] / figures["plain_cpu_s"], 2)
    figures["rows_per_s"] = round(n / figures["import_s"])
    return figures


def lines(figures: dict[str, Any]) -> list[str]:
    """The figures in words."""
    shown = [
        f"{figures['ratings']:,} ratings, {figures['file_mb']:,} MiB",
        f"plain GROUP BY: {figures['plain_s']:.1f} s, {figures['plain_cpu_s']:.1f} s of CPU, "
        f"peak {figures['plain_mb']:,} MiB",
        f"sorted into Parquet by DuckDB: {figures['sorted_s']:.1f} s ({figures['sorted_s'] / figures['plain_s']:.2f} "
        f"times), {figures['sorted_cpu_s']:.1f} s of CPU, peak {figures['sorted_mb']:,} MiB",
        f"import: {figures['import_s']:.1f} s ({figures['ratio']:.2f} times), {figures['import_cpu_s']:.1f} s of CPU "
        f"({figures['cpu_ratio']:.2f} times), {figures['rows_per_s']:,} rows a second, "
        f"peak {figures['import_mb']:,} MiB",
    ]
    if "profiles_s" in figures:
        shown.append(f"64 profiles of it: {figures['profiles_s']:.1f} s, peak {figures['profiles_mb']:,} MiB")
    if "profiles_error" in figures:
        shown.append(f"64 profiles of it: {figures['profiles_error']}")
    return shown


def make(folder: Path, n: int, letter: str = "") -> None:
    """Writes `ratings.csv` of some `n` ratings and `movies.csv` into `folder`, the same every time. `letter`: stands
    before each id, which is then read as text."""
    n_users = max(n // PER_USER, 1)
    with duckdb.connect() as con:
        con.sql("SET memory_limit = '1GB'")
        con.sql(
            f"""
            COPY (SELECT '{letter}' || i AS movieId, 'Film ' || i || ' (' || 1930 + i % 90 || ')' AS title,
                         ['Drama', 'Comedy', 'Horror', 'Western', 'Crime'][1 + i % 5] AS genres
                  FROM range(1, {N_ITEMS + 1}) AS t(i)) TO '{folder}/movies.csv' (HEADER)
            """
        )
        # Within a user the draws step through the items, so that none is drawn twice.
        place = f"pow((k + (hash(u, k) % 1000) / 1000) / {PER_USER}, 3)"
        con.sql(
            f"""
            COPY (SELECT '{letter}' || u AS userId,
                         '{letter}' || (1 + floor({N_ITEMS - PER_USER} * {place})::INTEGER + k) AS movieId,
                         0.5 * (1 + hash(u, k, 1) % 10) AS rating, 800000000 + hash(u, k, 2) % 800000000 AS timestamp
                  FROM (SELECT 1 + n // {PER_USER} AS u, n % {PER_USER} AS k
                        FROM range({n_users * PER_USER}) AS t(n)))
            TO '{folder}/ratings.csv' (HEADER)
            """
        )


def _check_space(folder: Path, n: int) -> None:
    needed, free = n * _BYTES_PER_RATING, shutil.disk_usage(folder).free
    if free < needed:
        raise CrsError(f"{n:,} ratings need {needed >> 20:,} MiB in {folder.parent}, which has {free >> 20:,} free")


def _apart(part: str, folder: Path) -> dict[str, Any]:
    """Seconds and peak MiB of a part, in a process of its own; `error` where it ended early."""
    command = [sys.executable, "-m", "crslib.experiments.benchmarks.imports", part, str(folder)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        last = (ended.stderr.strip() or f"ended by signal {-ended.returncode}").split("\n")[-1]
        if part == "profiles":
            return {"error": last}
        raise CrsError(f"the benchmark's part {part} failed: {last}")
    return dict(json.loads(ended.stdout.strip().split("\n")[-1]))


def _main(part: str, folder: Path) -> None:
    started = time.monotonic()
    if part == "plain":
        with duckdb.connect() as con:
            query = "SELECT userId, count(*), avg(rating) FROM read_csv(?) GROUP BY userId"
            con.execute(query, [str(folder / "ratings.csv")]).fetchall()
    elif part == "sorted":
        with duckdb.connect() as con:
            rows = "SELECT userId::VARCHAR AS u, movieId::VARCHAR AS i, rating, timestamp FROM read_csv(?)"
            query = f"COPY (FROM ({rows}) ORDER BY u, i) TO '{folder}/sorted.parquet' (COMPRESSION zstd)"
            con.execute(query, [str(folder / "ratings.csv")])
    elif part == "import":
        from crslib.data import imports

        imports.import_ratings(folder / "ratings.csv", folder / "movies.csv", folder / "to")
    else:
        from crslib.config import ProfileParameters
        from crslib.users.profiles import of_data

        resource.setrlimit(resource.RLIMIT_DATA, (_MOST_MEMORY, _MOST_MEMORY))
        of_data(ProfileParameters(n_profiles=64, data=str(folder / "to")))
    used = resource.getrusage(resource.RUSAGE_SELF)
    peak_mb = round(used.ru_maxrss / 2**20 if sys.platform == "darwin" else used.ru_maxrss / 1024)
    seconds, cpu = time.monotonic() - started, used.ru_utime + used.ru_stime
    print(json.dumps({"s": round(seconds, 2), "cpu_s": round(cpu, 2), "mb": peak_mb}))


if __name__ == "__main__":
    _main(sys.argv[1], Path(sys.argv[2]))
