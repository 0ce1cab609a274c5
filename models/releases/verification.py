"""Verification of a version's files: checksums, and a trial in a process of its own.

A file that crashes CatBoost, or makes it hang, must not stop the caller.
"""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
from pathlib import Path

from infra.settings import Settings, environment_with
from models.engine.model_set import ModelError, ModelSet, check_manifest
from models.releases import registry
from models.releases.versions import Version

TRIAL_CPU_SECONDS = 120
"""The CPU time in which a model set must load and answer, however busy the machine is."""
TRIAL_SECONDS = 900.0
"""The same by the clock: one that waits uses no CPU time."""


def fetch(version: Version, settings: Settings) -> Path:
    """Return the local folder of ``version``, its checksums checked.

    A copy in the data folder that was altered is downloaded again.

    Raises:
        ModelError: The version itself does not match its checksums.
        RegistryError: It cannot be downloaded.
    """
    folder = registry.fetch(version, settings=settings)
    try:
        check_manifest(folder)
    except ModelError:
        folder = registry.fetch(version, fresh=True, settings=settings)
        check_manifest(folder)
    return folder


def load_model_set(version: Version, settings: Settings) -> ModelSet:
    """Return the model set of ``version``, its checksums checked; raises as ``fetch``."""
    return ModelSet.load(fetch(version, settings))


def verify(version: Version, settings: Settings) -> None:
    """Raise ModelError unless ``version`` loads and answers, tried in a process of its own."""
    verify_in_subprocess(fetch(version, settings))


def verify_in_subprocess(folder: Path) -> None:
    """Let a child process load the model set in ``folder`` and predict; ModelError if it fails."""
    command = [sys.executable, "-m", "models.releases.verification", str(folder.absolute())]
    command.append(str(TRIAL_CPU_SECONDS))
    try:
        child = subprocess.run(  # noqa: S603
            command, env=environment_with({}), capture_output=True, text=True, timeout=TRIAL_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise ModelError(
            f"the model in {folder} did not answer within {TRIAL_SECONDS:.0f} s"
        ) from None
    if child.returncode == -signal.SIGXCPU:
        raise ModelError(
            f"the model in {folder} did not answer within {TRIAL_CPU_SECONDS} s of CPU time"
        )
    if child.returncode < 0:
        raise ModelError(
            f"the model in {folder} ended the process that loaded it "
            f"({signal.Signals(-child.returncode).name})"
        )
    if child.returncode:
        raise ModelError(
            (child.stderr.strip().splitlines() or [f"the model in {folder} cannot be used"])[-1]
        )


def main(folder: Path, cpu_seconds: int) -> None:
    """Load the model set, let it learn and predict one job; exits with the reason if it fails.

    Args:
        folder: Of the model set.
        cpu_seconds: After so much CPU time the process is killed.
    """
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 5))
    import numpy as np
    import pandas as pd

    from jobs.schema import conform
    from models.engine.forecaster import Forecaster
    from models.quantities.targets import TARGETS

    try:
        forecaster = Forecaster(ModelSet.load(folder))
    except ModelError as error:
        sys.exit(str(error))
    now = pd.Timestamp.now("UTC")
    ended = {
        "started_at": now - pd.Timedelta("2h"),
        "ended_at": now - pd.Timedelta("1h"),
        "walltime": 3600.0,
    }
    job = {"job_id": "1", "source": "trial", "submitted_at": now - pd.Timedelta("3h")}
    forecaster.learn(conform(pd.DataFrame([job | ended])))
    answer = forecaster.predict(conform(pd.DataFrame([job | {"job_id": "2", "submitted_at": now}])))
    for name in forecaster.names:
        row = answer[[name, f"{name}_low", f"{name}_high"]].to_numpy(dtype=float)[0]
        if not np.isfinite(row).all() or name not in TARGETS or not 0 <= row[1] <= row[2]:
            sys.exit(f"the model in {folder} answers {row.tolist()} for {name}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
