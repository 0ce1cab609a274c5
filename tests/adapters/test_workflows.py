"""Files of ``gridcast table --for``: Snakemake runs the profile, Groovy evaluates the configuration."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from infra.settings import environment_with
from services.local_table import WrittenTable, replace_files
from services.workflow_config import OPT_OUT, STALE_AFTER, nextflow, snakemake
from tests.adapters.test_nextflow import java_home
from tests.services.test_workflow_config import ACT, plan, row

SCRIPT = Path(__file__).with_name("run_snakemake.py")
SNAKEFILE = """import sys

rule align:
    output: "aligned"
    resources: mem_mb=4000, runtime=120
    shell:
        "echo {resources.mem_mb} {resources.runtime} >> attempts; "
        "ulimit -v $(({resources.mem_mb} * 1000)); "
        "{sys.executable} -c 'len(bytearray(600_000_000))'; touch {output}"
"""
"""The rule may use as much memory as it requests, and needs 600 MB."""
Run = Callable[..., "subprocess.CompletedProcess[str]"]


def written(file: Path, age: float = 0) -> WrittenTable:
    return WrittenTable(file, datetime.now(UTC) - timedelta(seconds=age), "gridcast/7", 1, 40)


@pytest.fixture(scope="module")
def run() -> Run:
    """Snakemake's command line, in an environment of its own that uv makes once."""
    if not (uv := shutil.which("uv")):
        pytest.skip("no uv, which makes Snakemake's environment")
    command = [uv, "run", "--quiet", "--locked", "--script", str(SCRIPT)]

    def run(*words: str, **options: object) -> subprocess.CompletedProcess[str]:
        environment = environment_with(options.pop("variables", {}))  # type: ignore[arg-type]
        return subprocess.run(
            [*command, *words], capture_output=True, text=True, env=environment, **options
        )  # type: ignore[call-overload, no-any-return]

    if (answer := run("--version")).returncode:
        pytest.skip(f"no Snakemake: {answer.stderr[-200:]}")
    return run


@pytest.mark.parametrize(
    ("age", "variables", "attempts"),
    [
        (0, {}, ["501 30", "901 120"]),  # out of memory at the first rung, enough at the second
        (STALE_AFTER + 1, {}, ["4000 120"]),
        (0, {OPT_OUT: "1"}, ["4000 120"]),
    ],
)
def test_snakemake_runs_a_rule_on_each_rung_until_its_memory_suffices(
    run: Run, tmp_path: Path, age: float, variables: dict[str, str], attempts: list[str]
) -> None:
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    rule = row("align", requested_memory=4000.0 * (1 << 20))
    profile = tmp_path / "profile" / "config.yaml"
    replace_files(snakemake(plan([rule], ACT), 0, written(profile, age)))
    own = tmp_path / "own" / "config.yaml"
    own.parent.mkdir()
    own.write_text("cores: 1\nretries: 0\n")
    profiles = ("--profile", "own", "--workflow-profile", "profile")
    answer = run(*profiles, cwd=tmp_path, variables=variables)
    assert answer.returncode == 0, answer.stderr
    assert (tmp_path / "attempts").read_text().splitlines() == attempts
    assert (tmp_path / "aligned").exists()
    assert ("MemoryError" in answer.stderr) is (len(attempts) > 1)
    assert "gridcast=requests memory 477, 859, 4000 MiB" in answer.stderr


ASK = """
Integer.metaClass.getMB = { -> delegate * (1L << 20) }
Integer.metaClass.getM = { -> delegate * 60000L }
args.each { path ->
    def included = null
    def shell = new GroovyShell(new Binding([includeConfig: { included = it }]))
    shell.evaluate(new File(path))
    println(included == '/dev/null' ? 'nothing' : 'requests')
    if (included != '/dev/null') {
        def config = new ConfigSlurper().parse(new File(included).text)
        config.process.each { selector, settings ->
            println([selector, settings.maxRetries, settings.ext.gridcast].join(' | '))
            for (attempt in 1..4) {
                def given = [task: [attempt: attempt, exitStatus: attempt == 4 ? 1 : 137]]
                println(['memory', 'time', 'errorStrategy'].collect { name ->
                    def closure = settings[name].rehydrate(given, given, given)
                    closure.resolveStrategy = Closure.DELEGATE_ONLY
                    closure()
                }.join(' '))
            }
        }
    }
}
"""


def evaluate(folder: Path, *files: Path, **variables: str) -> list[str]:
    """What Groovy prints of configurations."""
    if not shutil.which("groovy"):
        pytest.skip("there is no groovy here to evaluate the closures with (Debian: groovy)")
    (folder / "ask.groovy").write_text(ASK)
    command = ["groovy", str(folder / "ask.groovy"), *map(str, files)]
    environment = environment_with({"JAVA_HOME": java_home(), **variables})
    return subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=120, env=environment
    ).stdout.splitlines()


def test_nextflows_closures_give_each_attempt_its_rung_and_retry_only_what_was_killed(
    tmp_path: Path,
) -> None:
    fresh, stale = (tmp_path / name / "it's $a.config" for name in ("fresh", "stale"))
    rows = [row(name) for name in ("align", "NF:WF:INDEX")]
    processes = plan(rows, ACT)
    replace_files(nextflow(processes, 3, written(fresh)))
    replace_files(nextflow(processes, 3, written(stale, STALE_AFTER + 1)))
    reason = "requests memory 477, 859, 4096 MiB, time 30, 120 min after 40 jobs"
    attempts = [
        f"{memory << 20} {minutes * 60_000} {'retry' if attempt < 4 else 'finish'}"
        for attempt, (memory, minutes) in enumerate(
            ((477, 30), (859, 120), (4096, 120), (4096, 120)), 1
        )
    ]
    selectors = ("(.*:)?align", "NF:WF:INDEX")
    expected = [line for name in selectors for line in (f"{name} | 2 | {reason}", *attempts)]
    assert evaluate(tmp_path, fresh, stale) == ["requests", *expected, "nothing"]


def test_nextflow_requests_nothing_where_the_run_opted_out(tmp_path: Path) -> None:
    file = tmp_path / "gridcast.config"
    replace_files(nextflow(plan([row("align")], ACT), 0, written(file)))
    assert evaluate(tmp_path, file, **{OPT_OUT: "1"}) == ["nothing"]
