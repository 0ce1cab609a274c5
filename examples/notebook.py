# %% [markdown]
# # A log, its calibration, and predictions from Python
# Open this file in VS Code or JupyterLab (with Jupytext), or run it:
# `python examples/notebook.py YOUR.LOG`. Without a log it generates one.

# %%
"""Reads a log, plots how well its jobs are predicted, and predicts jobs that wait."""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from gridcast import Forecaster, backtest, read_log

log = Path(sys.argv[1] if len(sys.argv) > 1 else "generated.csv")
if not log.exists():
    from jobs.workload import generate
    from jobs.writers import write_jobs

    write_jobs(generate(jobs=8000, days=20, seed=1).jobs, log)

# %% [markdown]
# ## Read
# Any log that `gridcast ingest` reads: SWF, Slurm, HTCondor, PBS, PanDA, Nextflow, tables.

# %%
jobs = read_log(log)
ended = jobs[jobs["ended_at"].notna()]
print(f"{log.name}: {len(jobs):,} jobs, {len(ended):,} ended")
print(ended[["user", "program", "requested_walltime", "walltime"]].tail(3))

# %% [markdown]
# ## Backtest
# Each job is predicted at its submission by what had ended by then; the first tenth is only
# learned from.

# %%
result = backtest(jobs, predictors=["gridcast", "last-two", "request"])
for scores in result.rows:
    print(f"{scores['predictor']:10} mean absolute error {scores['mae']:,.0f} s")
inside = result.jobs["actual"].between(result.jobs["low"], result.jobs["high"]).mean()
print(f"90 % ranges contained {inside:.1%} of {len(result.jobs):,} outcomes")

# %% [markdown]
# ## Calibration
# Left, the reliability diagram: of the quantile of level p, a share p of the outcomes should lie
# at or below. Right, the probability integral transform before calibration: each tenth of the
# predicted distributions should hold a tenth of the outcomes.

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
levels = np.linspace(0.05, 0.95, 19)
left.plot([0, 1], [0, 1], color="grey", linewidth=1)
left.plot(levels, result.reliability, marker="o")
left.set(xlabel="level of the predicted quantile", ylabel="share of outcomes not above it")
left.set_title("Reliability")
right.bar(np.arange(0.05, 1, 0.1), result.deciles, width=0.09)
right.axhline(0.1, color="grey", linewidth=1)
right.set(xlabel="probability integral transform", ylabel="share of outcomes")
right.set_title("PIT")
figure.savefig("calibration.png", dpi=110)
print("calibration.png")

# %% [markdown]
# ## Predict
# The histories predict from the first outcome on; `Forecaster.train(jobs)` adds CatBoost models,
# and `Forecaster.champion("gridcast-data")` is what a running predictor answers with.

# %%
forecaster = Forecaster().learn(ended)
fields = ["user", "group", "project", "program", "queue", "requested_walltime", "requested_cores"]
waiting = ended.tail(3)[["job_id", "source", *fields]]  # as if they were submitted again now
predictions = forecaster.predict(waiting, quantiles=[0.25, 0.75])
for _, row in predictions.iterrows():
    hours = row.filter(like="walltime") / 3600
    print(
        f"job {row['job_id']}: {hours['walltime']:.1f} h, "
        f"half of such jobs {hours['walltime_q0.25']:.1f} to {hours['walltime_q0.75']:.1f} h, "
        f"nine of ten {hours['walltime_low']:.1f} to {hours['walltime_high']:.1f} h, "
        f"kill limit {hours['walltime_kill_limit']:.1f} h"
    )
