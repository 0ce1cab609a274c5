"""What reaches the engine by HTTP is what training reads from a DataFrame, row by row."""

from dataclasses import asdict

import numpy as np
import orjson
import pandas as pd
import pyarrow as pa
import pytest

from jobs.labels import write_labels
from jobs.schema import OUTCOMES, conform
from jobs.workload import generate
from models.histories.features import Levels, choose_levels, encode
from services.http.bodies import read_body
from services.http.columns import to_coded_jobs
from services.http.contract import ARROW_TYPE, JSON_TYPE
from services.http.requests import read_jobs_to_predict


@pytest.fixture(scope="module")
def jobs() -> pd.DataFrame:
    jobs = generate(jobs=600, days=5, seed=2).jobs
    hidden = np.random.default_rng(0).random(jobs.shape) < 0.1
    for column, name in enumerate(jobs.columns):
        if name not in ("job_id", "source", "submitted_at", *OUTCOMES):
            jobs[name] = jobs[name].mask(hidden[:, column])
    return conform(jobs.drop(columns=list(OUTCOMES)).reset_index(drop=True))


def arrow(jobs: pd.DataFrame) -> bytes:
    sink = pa.BufferOutputStream()
    table = pa.Table.from_pandas(jobs.drop(columns=list(OUTCOMES)), preserve_index=False)
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table, max_chunksize=250)
    return sink.getvalue().to_pybytes()


def json(jobs: pd.DataFrame) -> bytes:
    texts = jobs.drop(columns=list(OUTCOMES)).assign(
        submitted_at=jobs["submitted_at"].map(pd.Timestamp.isoformat)
    )
    return orjson.dumps(
        {"jobs": texts.astype(object).where(texts.notna(), None).to_dict("records")}
    )


@pytest.mark.parametrize(
    ("write", "kind"), [(arrow, ARROW_TYPE), (json, JSON_TYPE)], ids=["arrow", "json"]
)
def test_both_doors_give_the_engine_what_training_reads(
    jobs: pd.DataFrame, write, kind: str
) -> None:
    levels = choose_levels(jobs)
    assert len(Levels.from_json(asdict(levels)).fields) > 8
    expected = encode(jobs, levels)
    encoded = encode(to_coded_jobs(read_jobs_to_predict(read_body(kind, write(jobs))).jobs), levels)
    # A job's id tells it from others when it ends; no answer depends on it, and it is not read.
    for name, values in {
        name: values for name, values in vars(expected).items() if name != "ids"
    }.items():
        np.testing.assert_array_equal(getattr(encoded, name), values, err_msg=name)


def test_labels_reach_the_engine_as_in_training(jobs: pd.DataFrame) -> None:
    draw = np.random.default_rng(1)
    labels = pd.DataFrame(
        {
            "biome": draw.choice(["soil", "host", None], len(jobs)),
            "reads": draw.choice([np.nan, 1e3, 2e5, 7e6], len(jobs)),
        }
    )
    labelled = jobs.assign(labels=write_labels(labels)[0])
    levels = choose_levels(labelled, optional=("label:biome", "label:reads"))
    expected = encode(labelled, levels)
    assert len(np.unique(expected.numbers[:, -1])) == 3
    bodies = orjson.loads(json(labelled))
    for job in bodies["jobs"]:
        job["labels"] = orjson.loads(job["labels"]) if job["labels"] else None
    for kind, body in ((ARROW_TYPE, arrow(labelled)), (JSON_TYPE, orjson.dumps(bodies))):
        encoded = encode(to_coded_jobs(read_jobs_to_predict(read_body(kind, body)).jobs), levels)
        np.testing.assert_array_equal(encoded.keys, expected.keys)
        np.testing.assert_array_equal(encoded.numbers, expected.numbers)
