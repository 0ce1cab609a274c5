"""Nextflow's closures, evaluated by Groovy; two small classes replace Nextflow's types."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

import adapters
from infra.settings import environment_with
from tests.adapters.test_gridcast_table import COLUMNS, write

CONFIG = Path(adapters.__path__[0]) / "nextflow.config"
GIB = 1 << 30
TYPE = """package nextflow.util
class {name} {{
    long value
    {name}(long value) {{ this.value = value }}
    {name}(String text) {{ def (number, unit) = text.split(' '); value = number.toLong() * [h: 3600000L, GB: 1L << 30][unit] }}
    {name} multiply(Number times) {{ new {name}((value * times) as long) }}
}}
"""
ASK = """
def types = [nextflow.util.Duration, nextflow.util.MemoryUnit]
Long.metaClass.asType = { Class type -> type in types ? type.newInstance(delegate) : delegate.longValue() }
String.metaClass.asType = { Class type -> type.newInstance(delegate) }
def config = new ConfigSlurper().parse(new File(args[0]).text)
args[2..-1].each { path ->
    for (attempt in [1, 2]) {
        def given = [params: config.params, task: [process: args[1], attempt: attempt]]
        given.params.gridcast_table = path
        println(['time', 'memory'].collect { name ->
            def closure = config.process[name].rehydrate(given, given, given)
            closure.resolveStrategy = Closure.DELEGATE_ONLY
            closure().value
        }.join(' '))
    }
}
"""


def java_home() -> str:
    """The folder of Java; Debian's own guess may not be there."""
    java = shutil.which("java")
    return str(Path(java).resolve().parents[1]) if java else ""


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[list[int]]]:
    """Milliseconds and bytes of a process at two attempts, by the state of the table."""
    if not (shutil.which("groovy") and java_home()):
        pytest.skip("there is no groovy here to evaluate the closures with (Debian: groovy)")
    folder = tmp_path_factory.mktemp("nextflow")
    (folder / "nextflow" / "util").mkdir(parents=True)
    for name in ("Duration", "MemoryUnit"):
        (folder / "nextflow" / "util" / f"{name}.groovy").write_text(TYPE.format(name=name))
    (folder / "ask.groovy").write_text(ASK)
    whole = write(folder / "fresh")
    write(folder / "stale", age=1000)
    (folder / "one line").write_text(whole.read_text().splitlines()[0])
    (folder / "by workflow").write_text(whole.read_text().replace("any|sim", "any|SIMULATE:sim"))
    (folder / "empty").write_text("")
    (folder / "no table").write_bytes(bytes(range(256)))
    (folder / "torn").write_text(
        whole.read_text().replace("1200", "12x0").replace("2000000000", "-")
    )
    (folder / "other columns").write_text(
        whole.read_text().replace("\t".join(COLUMNS), "\t".join(COLUMNS[:-2]))
    )
    states = [
        *sorted(
            path.name for path in folder.iterdir() if path.is_file() and path.suffix != ".groovy"
        ),
        "missing",
    ]
    command = [
        "groovy",
        "-cp",
        str(folder),
        str(folder / "ask.groovy"),
        str(CONFIG),
        "SIMULATE:sim",
        *(str(folder / one) for one in states),
    ]
    environment = environment_with({"JAVA_HOME": java_home()})
    lines = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=120, env=environment
    ).stdout.split("\n")
    numbers = [[int(word) for word in line.split()] for line in lines if line]
    return {state: numbers[2 * place : 2 * place + 2] for place, state in enumerate(states)}


def test_a_process_gets_what_one_of_its_tasks_in_a_hundred_exceeds_and_as_much_again_after_each_failure(
    asked: dict[str, list[list[int]]],
) -> None:
    assert asked["fresh"] == [[1500_000, 2_000_000_000], [3000_000, 4_000_000_000]]
    assert asked["by workflow"] == asked["fresh"]  # as traces name a process of a workflow


def test_a_table_that_is_old_torn_or_none_leaves_the_sites_defaults(
    asked: dict[str, list[list[int]]],
) -> None:
    assert set(asked) == {
        "fresh",
        "by workflow",
        "stale",
        "one line",
        "empty",
        "no table",
        "torn",
        "other columns",
        "missing",
    }
    for state in set(asked) - {"fresh", "by workflow"}:
        assert asked[state] == [[4 * 3600_000, 4 * GIB], [8 * 3600_000, 8 * GIB]], state
