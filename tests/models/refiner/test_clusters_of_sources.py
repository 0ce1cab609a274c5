"""Clusters of several sources: the same group in two logs is two clusters."""

from __future__ import annotations

import json

import pandas as pd

from jobs.coded_jobs import encode_jobs
from jobs.workload import generate
from models.engine.training import train
from models.refiner.clusters import GLOBAL, Clusters, default_cluster_by


def test_the_same_group_in_two_sources_is_two_clusters() -> None:
    jobs = generate(600, 5, 3).jobs
    other = jobs.assign(source="other", job_id="o" + jobs["job_id"])
    mixed = pd.concat([jobs, other], ignore_index=True)
    clusters = train(mixed, cluster_by="group").clusters
    assert clusters.per_source
    again = Clusters.from_json(json.loads(json.dumps(clusters.to_json())))
    labels = again.assign(mixed)
    expected = mixed["source"] + ": group " + mixed["group"]
    assert labels.tolist() == expected.where(mixed["group"].notna(), GLOBAL).tolist()
    coded = encode_jobs(mixed, ["source", "group"])
    assert again.assign(coded).tolist() == labels.tolist()
    assert not train(jobs, cluster_by="group").clusters.per_source
    assert Clusters.from_json({"by": "group", "kinds": {}}).assign(jobs)[0].startswith("group ")


def test_clusters_are_told_apart_by_what_the_jobs_name() -> None:
    jobs = generate(200, 3, 3, sites=3).jobs
    assert default_cluster_by(jobs) == "group"
    assert default_cluster_by(jobs.assign(group="one")) == "site"
    assert default_cluster_by(jobs.assign(group=None, site=None)) == "kmeans"
