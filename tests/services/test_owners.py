"""Tokens bound to owners: every address of predictor and page, by whose token asks about whom.

The addresses come from the routers, so that one that is added later is in these tests by itself.
"""

import importlib
import re
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import pyarrow as pa
import pytest
from pydantic import SecretStr
from starlette.routing import Mount, Route

from infra.settings import Settings
from jobs.owners import Owners
from jobs.store import add_jobs, add_predictions, open_store, read_predictions, set_threshold
from jobs.workload import generate
from models.engine.forecaster import Forecaster
from models.engine.model_set import ModelSet
from services.dashboard import overview
from services.dashboard.app import OWNER_PATHS, Dashboard
from services.http.authentication import FOR_ALL, Guard
from services.http.bodies import read_body
from services.http.callers import Caller, settings_tokens
from services.http.contract import ARROW_TYPE
from services.http.endpoints import Endpoints
from services.http.examples import EXAMPLES
from services.http.metrics import Metrics
from services.http.options import read_options
from services.http.requests import read_jobs_to_predict
from services.http.routes import ENDPOINTS, SCOPE_OF_PATH, answers_owners
from services.http.tracing import Traces
from services.live.active_model import ActiveModel
from services.live.live_predictor import LivePredictor
from services.task_watch.service import TaskWatchService
from tests.ports import served_in_thread
from tests.services.conftest import publish, serving
from tests.trees import few_trees

NOW = pd.Timestamp("2025-01-09 14:00", tz="UTC").to_pydatetime()
ADMIN, ALICE, ATLAS = "admin-0123456789", "alice-0123456789", "atlas-0123456789"
BOUND = {"user": ALICE, "group": ATLAS}
MARK, FOREIGN, GUEST = "secret", "foreign", "guest"
"""In every name of the other owner, of alice's jobs for another group, of others' in her group."""
HIDDEN_FROM = {ALICE: (MARK, GUEST), ATLAS: (MARK, FOREIGN)}
"""In every name that a token must not see."""
NEWCOMER = f"{GUEST}-newcomer"
"""A job like those of others, in the group of alice."""
SHARED_TASK = "task-of-alice"
"""A task of alice in which are jobs of others, too."""
TIMES = ("submitted_at", "started_at", "ended_at")
HIDDEN = ("user", "group", "project", "job_name", "task_id", "job_id", "request_id", "labels")


def owned_jobs() -> pd.DataFrame:
    """Jobs of alice in atlas, and of others, whose names all begin with MARK."""
    jobs = generate(900, days=6, seed=3, users=6, sites=2).jobs.reset_index(drop=True)
    users = sorted(jobs["user"].unique())
    is_hidden = jobs["user"].isin(users[1::2])
    jobs["user"], jobs["group"] = "alice", "atlas"
    jobs["job_name"], jobs["project"] = "name", "project"
    # Others run the same programs at the same sites: their jobs are similar.
    jobs.loc[is_hidden, "user"] = "bob"
    jobs["request_id"] = jobs["task_id"].where(jobs["task_id"].str[-1] == "1")
    jobs["labels"] = '{"run":"plain"}'
    jobs.loc[is_hidden, "labels"] = '{"run":"secret"}'
    # Of this program most jobs are of others.
    jobs.loc[is_hidden & (jobs.index % 3 == 0), "program"] = "rare"
    # The latest have not ended.
    jobs = jobs[jobs["submitted_at"] <= NOW].reset_index(drop=True)
    is_hidden = jobs["user"] != "alice"
    for name in ("ended_at", "walltime", "cpu_time", "peak_memory"):
        jobs[name] = jobs[name].where(jobs["submitted_at"].rank(method="first") <= len(jobs) - 20)
    jobs["status"] = jobs["status"].where(jobs["ended_at"].notna(), "running")
    ended = jobs[~is_hidden & jobs["ended_at"].notna()].sort_values("ended_at")
    jobs.loc[ended.index[-3:], "program"] = "rare"
    for name in HIDDEN[:-1]:
        jobs.loc[is_hidden, name] = MARK + "-" + jobs.loc[is_hidden, name].astype(str)
    is_of_task = ~is_hidden & (jobs["task_id"] == jobs.loc[~is_hidden, "task_id"].iloc[-1])
    jobs.loc[is_of_task, "task_id"] = SHARED_TASK
    foreign = copies(jobs[~is_hidden], FOREIGN, user="alice", group=f"{FOREIGN}-cms")
    guests = copies(jobs[~is_hidden], GUEST, user=f"{GUEST}-carol", group="atlas")
    long_ago = {name: foreign[name] - pd.Timedelta(days=40) for name in TIMES}
    old = foreign.assign(user=f"{MARK}-old", group=f"{MARK}-old", job_id="old", **long_ago)
    # Nothing is known of its owner: it is predicted by its program, most of whose jobs are others'.
    newcomer = guests.tail(1).assign(user=f"{GUEST}-dora", job_id=NEWCOMER, program="rare")
    newcomer = newcomer[["source", "job_id", "user", "group", "program", "submitted_at", "status"]]
    return pd.concat([jobs, foreign, guests, old.head(1), newcomer], ignore_index=True)


def copies(own: pd.DataFrame, mark: str, **owner: str) -> pd.DataFrame:
    """Some ended and some open jobs of alice, as those of another owner, with a mark in each name.

    Args:
        own: Jobs of alice.
        mark: The mark.
        **owner: User and group.
    """
    latest = own.sort_values("submitted_at")
    is_open = latest["ended_at"].isna()
    copied = pd.concat([latest[~is_open].tail(60), latest[is_open].tail(4)])
    texts = ("project", "job_name", "task_id", "job_id", "request_id", "program")
    marked = {name: f"{mark}-" + copied[name].astype(str) for name in texts}
    copied = copied.assign(**marked, labels=f'{{"run":"{mark}"}}', **owner)
    copied.loc[copied.index[-2:], "task_id"] = SHARED_TASK
    return copied


@dataclass
class Site:
    """Page and predictor of a grid of two owners."""

    predictor: str
    page: str
    live: LivePredictor
    dashboard: Dashboard
    jobs: pd.DataFrame

    def get(self, path: str, token: str) -> httpx.Response:
        return httpx.get(path, headers={"Authorization": f"Bearer {token}"}, timeout=60)

    def post(self, path: str, token: str, body: Any, kind: str = "json") -> httpx.Response:
        headers = {"Authorization": f"Bearer {token}"}
        if kind == "json":
            return httpx.post(self.predictor + path, json=body, headers=headers, timeout=60)
        headers["Content-Type"] = ARROW_TYPE
        return httpx.post(self.predictor + path, content=body, headers=headers, timeout=60)


@pytest.fixture(scope="module")
def site(
    tmp_path_factory: pytest.TempPathFactory, model_set: ModelSet, metrics: Metrics
) -> Iterator[Site]:
    home = tmp_path_factory.mktemp("owners")
    tokens = f"{ADMIN}:admin,{ALICE}:predict+report+user=alice,{ATLAS}:predict+report+vo=atlas"
    settings = Settings(home=home, tokens=SecretStr(tokens), _env_file=None)
    jobs = owned_jobs()
    engine = open_store(settings.store_url)
    ended = jobs[jobs["ended_at"].between(NOW - pd.Timedelta(days=1), NOW)]
    logged = ended[["source", "job_id"]].assign(
        target="walltime", model_version="m1", point=60.0, median=60.0, low=1.0, high=900.0
    )
    moments = {"asked_at": pd.Timestamp(NOW) - pd.Timedelta(days=3), "known_revision": 0}
    logged = logged.assign(cluster="global", cold_start=False, shadow=False, **moments)
    waits = logged[logged["job_id"].str.startswith(MARK)].assign(target="wait")
    with engine.begin() as connection:
        add_jobs(connection, jobs)
        add_predictions(connection, pd.concat([logged, waits]))
        set_threshold(connection, "secret-group", "late", 0.8, "secret-operator", NOW)
        set_threshold(connection, "atlas", "late", 0.9, "secret-operator", NOW)
    engine.dispose()
    publish(model_set, home)
    watch = TaskWatchService(settings, clock=lambda: NOW)
    with few_trees():
        watch.update()
    watch.read_site()
    live = LivePredictor(settings, metrics)
    live.state.rebuild(ActiveModel(Forecaster(model_set)))
    endpoints = Endpoints()
    endpoints.attach(live, Traces(""))
    guard = Guard(
        endpoints.app(),
        settings_tokens(settings),
        frozenset(settings.host_names),
        SCOPE_OF_PATH,
        owner_paths=answers_owners,
    )
    with served_in_thread(guard) as predictor:
        own = settings.model_copy(update={"predictor_url": predictor})
        dashboard = Dashboard(own, clock=lambda: NOW)
        with serving(dashboard) as page:
            yield Site(predictor, page, live, dashboard, jobs)
    live.engine.dispose()


def without(text: str, name: str) -> str:
    """An answer without the name that was asked for, which a refusal repeats."""
    return text.replace(name, "")


def named(value: Any, names: dict[str, str | None]) -> Any:
    """A copy of an example in which every job has these fields, and no other owner."""
    if isinstance(value, list):
        return [named(item, names) for item in value]
    if not isinstance(value, dict):
        return value
    if "source" not in value:
        return {name: named(item, names) for name, item in value.items()}
    is_column = isinstance(value["source"], list)
    rows = len(value["source"]) if is_column else 0
    job = {name: item for name, item in value.items() if name not in ("user", "group")}
    return job | {
        name: [text] * rows if is_column else text for name, text in names.items() if text
    }


BODIES = [
    (endpoint.path, name, example["value"])
    for endpoint in ENDPOINTS
    if endpoint.bodies
    for name, example in EXAMPLES["match" if endpoint.for_router else endpoint.name].items()
]
OF_ALICE = {"user": {"user": "alice"}, "group": {"group": "atlas"}}
OF_OTHERS: tuple[dict[str, str | None], ...] = (
    {"user": "secret-bob"},
    {"group": "secret-atlas"},
    {"user": "Alice", "group": "ATLAS"},
    {},
)


def test_every_endpoint_with_a_body_is_in_the_matrix(site: Site) -> None:
    routes = [route for route in Endpoints().app().routes if isinstance(route, Route)]
    posts = {route.path for route in routes if "POST" in (route.methods or ())}
    assert posts and posts == {path for path, _, _ in BODIES}
    assert {path for path, _, _ in BODIES if answers_owners(path)} >= {"/predict", "/outcomes"}


@pytest.mark.parametrize("bound", BOUND)
@pytest.mark.parametrize(("path", "name", "example"), BODIES)
def test_an_endpoint_answers_about_ones_own_jobs_only(
    site: Site, path: str, name: str, example: dict[str, Any], bound: str
) -> None:
    for names in OF_OTHERS:
        answer = site.post(path, BOUND[bound], named(deepcopy(example), names))
        assert answer.status_code == 403, (names, answer.text)
        if names:
            assert site.post(path, ADMIN, named(deepcopy(example), names)).status_code == 200
        # They are the token's own now: nothing may be left of them in the store.
    own = deepcopy(named(example, OF_ALICE[bound] | {"job_id": f"own-{name}-{bound}"}))
    answer = site.post(path, BOUND[bound], own)
    assert answer.status_code == (200 if answers_owners(path) else 403), answer.text
    assert MARK not in answer.text


def arrow(rows: list[dict[str, Any]]) -> bytes:
    sink = pa.BufferOutputStream()
    batch = pa.RecordBatch.from_pylist(rows)
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    return bytes(sink.getvalue())


@pytest.mark.parametrize("path", ["/predict", "/rank"])
def test_one_job_of_others_among_many_refuses_a_stream(site: Site, path: str) -> None:
    rows = [{"job_id": str(n), "source": "grid", "user": "alice", "site": "A"} for n in range(50)]
    assert site.post(path, ALICE, arrow(rows), "arrow").status_code == 200
    for user in ("secret-bob", None):
        rows[31]["user"] = user
        answer = site.post(path, ALICE, arrow(rows), "arrow")
        assert answer.status_code == 403 and "job 31" in answer.json()["error"]


def similar_of(answer: httpx.Response) -> list[dict[str, Any]]:
    [explanation] = answer.json()["explanations"]
    return [job for target in explanation.values() for job in target["similar"]]


def test_similar_jobs_of_others_have_no_names(site: Site) -> None:
    job = {"job_id": "x", "source": site.jobs["source"].iloc[0], "program": "rare"}
    newcomer = {**job, "user": "newcomer", "group": "atlas"}
    body = {"jobs": [newcomer], "explain": True, "keep": False}
    everything = similar_of(site.post("/predict", ADMIN, body))
    hidden = [job for job in everything if MARK in job["job_id"]]
    assert hidden and len(hidden) < len(everything)
    answer = site.post("/predict", ATLAS, body)
    shown = similar_of(answer)
    assert MARK not in answer.text
    assert [job["value"] for job in shown] == [job["value"] for job in everything]
    for before, after in zip(everything, shown, strict=True):
        is_hidden = MARK in before["job_id"]
        assert (after["job_id"] is None) == (after["source"] is None) == is_hidden
        assert after["ended_at"].endswith("T00:00:00+00:00") if is_hidden else after == before


def test_a_stored_job_of_others_is_not_taken_over_by_a_report(site: Site) -> None:
    hidden = site.jobs[site.jobs["user"] != "alice"].iloc[0]
    report = {
        "job_id": hidden["job_id"],
        "source": hidden["source"],
        "user": "alice",
        "submitted_at": hidden["submitted_at"].isoformat(),
        "started_at": hidden["submitted_at"].isoformat(),
        "ended_at": NOW.isoformat(),
        "status": "completed",
    }
    own = {**report, "job_id": "own-report"}
    answer = site.post("/outcomes", ALICE, {"jobs": [own, report]})
    assert answer.status_code == 403 and "nothing was kept" in answer.text
    stored = site.get(f"{site.page}/api/jobs/own-report?source={hidden['source']}", ADMIN)
    assert stored.status_code == 404
    assert site.post("/outcomes", ALICE, {"jobs": [own]}).json()["added"] == 1


@pytest.mark.parametrize("scopes", [{"predict"}, {"predict", "report"}])
def test_a_bound_token_logs_no_prediction_under_a_name_of_others(
    site: Site, scopes: set[str]
) -> None:
    hidden = site.jobs[site.jobs["user"] != "alice"].iloc[0]
    own = f"logged-{len(scopes)}"
    rows = [
        {"job_id": job_id, "source": hidden["source"], "user": "alice"}
        for job_id in (hidden["job_id"], own)
    ]
    batch = read_body(ARROW_TYPE, arrow(rows))
    caller = Caller("alice", frozenset(scopes), Owners(frozenset(("alice",))))

    def logged() -> set[str]:
        rows = read_predictions(site.live.engine)
        return set(rows["job_id"][rows["asked_at"] > NOW + pd.Timedelta(days=1)])

    options = read_options({}, {}, next(e.options for e in ENDPOINTS if e.name == "predict"))
    site.live.predict(read_jobs_to_predict(batch), options, caller)  # type: ignore[arg-type]
    while site.live.log.waiting:
        site.live.log._write_next()
    assert hidden["job_id"] not in logged()
    assert (own in logged()) == ("report" in scopes)


def page_paths(site: Site) -> list[tuple[str, str]]:
    """Every address of the page that reads, and the name that it asks for."""
    frame = site.dashboard.latest.read()[0]
    tasks = [name for _, rows in frame.groupby(["kind", "owner"]) for name in rows["task"].iloc[:4]]
    users = ["alice", *sorted({*site.jobs["user"]} - {"alice"})]
    open_jobs = site.jobs[site.jobs["ended_at"].isna()]["job_id"]
    ids = [*site.jobs["job_id"].iloc[::150], *open_jobs.iloc[::9], NEWCOMER]
    sites = site.jobs["site"].dropna().unique()
    names_of = {"/api/sites/": sites, "/api/users/": users, "/api/advice/": users}
    names_of |= {"/api/jobs/": ids, "/api/tasks/": [*tasks, SHARED_TASK]}
    paths = []
    for route in site.dashboard.app().routes:
        if isinstance(route, Mount) or "GET" not in (route.methods or ()):  # type: ignore[attr-defined]
            continue
        path: str = route.path  # type: ignore[attr-defined]
        if path == "/api/events":  # tells of no job, and has no end
            continue
        if "{" not in path:
            kinds = ("task", "chain", "request") if path == "/api/tasks" else ("",)
            paths += [(f"{path}?kind={kind}" if kind else path, "-") for kind in kinds]
            continue
        address = path.partition("{")[0]
        for name in names_of.get(address, tasks[:2]):
            query = f"?source={site.jobs['source'].iloc[0]}" if address == "/api/jobs/" else ""
            kinds = ("", "?kind=chain", "?kind=request") if address == "/api/tasks/" else ("",)
            paths += [(f"{address}{name}{query}{kind}", name) for kind in kinds]
    return paths


def address_of(path: str, name: str) -> str:
    """The address without the name that it asks for, and without a query."""
    return path.partition("?")[0].removesuffix(name)


NAMELESS = "there-is-none"


def is_leak(site: Site, answer: httpx.Response, path: str, name: str, token: str) -> bool:
    """Whether the answer to a bound token shows something of others.

    That is one of their names, the waits of their jobs, of which alone there are predictions, or,
    where it asks for a name of theirs, another answer than about a name that nobody has.
    """
    text = without(answer.text, name)
    if any(mark in text for mark in HIDDEN_FROM[token]):
        return True
    if path.startswith("/api/sites/"):
        return bool(answer.json()["waits"])
    if path.startswith("/api/") and name.startswith(HIDDEN_FROM[token]):
        unknown = site.get(site.page + path.replace(name, NAMELESS), token)
        return text != without(unknown.text, NAMELESS)
    return False


def test_nothing_of_others_is_shown_by_any_address_of_the_page(site: Site) -> None:
    paths = page_paths(site)
    assert len(paths) > 40
    shown_to_all, own_found = set[str](), set[str]()
    for path, name in paths:
        address = address_of(path, name)
        everything = site.get(site.page + path, ADMIN)
        if any(mark in without(everything.text, name) for mark in (MARK, FOREIGN, GUEST)):
            shown_to_all.add(address)
        for token in BOUND.values():
            answer = site.get(site.page + path, token)
            assert not is_leak(site, answer, path, name, token), (path, token)
            if MARK in name and path.startswith("/api/"):
                assert answer.status_code in (403, 404) or not answer.json().get("jobs"), path
            if answer.status_code == 200 and "alice" in answer.text:
                own_found.add(address)
    # What is hidden is there to be seen, and one's own is shown.
    addresses = {"/api/tasks", "/api/tasks/", "/api/jobs/", "/api/users/", "/api/advice/"}
    assert shown_to_all >= {"/api/overview", "/api/thresholds", *addresses}
    assert own_found >= addresses


def select_everything(frame: Any, *_: Any) -> Any:
    """Select all rows, as where a filter was forgotten."""
    return frame


def select_at_first_only(select: Any) -> Any:
    """A filter that selects all rows at each second call."""
    calls: list[Any] = []

    def select_once(*arguments: Any) -> Any:
        calls.append(arguments)
        return select(*arguments) if len(calls) % 2 else arguments[0]

    return select_once


FILTERS: tuple[tuple[str, Any, tuple[str, ...]], ...] = (
    ("services.dashboard.jobs.select_owned", None, ("/api/users/", "/api/jobs/")),
    ("services.dashboard.jobs.hide_others", None, ("/api/jobs/",)),
    ("services.dashboard.tasks.owned_tasks", None, ("/api/tasks", "/api/tasks/")),
    ("services.dashboard.tasks.select_owned", None, ("/api/tasks/",)),
    ("services.dashboard.overview.select_owned", None, ("/api/overview", "/api/sites/")),
    ("services.dashboard.sites.select_owned", None, ("/api/sites/",)),
    ("monitoring.advising.select_owned", None, ("/api/advice/",)),
    ("monitoring.advising.select_owned", select_at_first_only, ("/api/advice/",)),
    ("services.dashboard.app._owners", lambda _: None, ("/api/thresholds", "/api/overview")),
)
"""The filters of the page, what they are replaced by, and the addresses that then show others'."""


@pytest.mark.parametrize(("function", "replaced_by", "addresses"), FILTERS)
def test_a_filter_that_is_removed_is_noticed(
    site: Site,
    function: str,
    replaced_by: Any,
    addresses: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module, _, name = function.rpartition(".")
    if replaced_by is select_at_first_only:
        replaced_by = select_at_first_only(getattr(importlib.import_module(module), name))
    monkeypatch.setattr(function, replaced_by or select_everything)
    paths = page_paths(site)
    for address in addresses:
        assert any(
            is_leak(site, site.get(site.page + path, token), path, name, token)
            for path, name in paths
            if address_of(path, name) == address
            for token in BOUND.values()
        ), f"{address} shows nothing of others without {function}"


def test_a_check_of_the_predictor_that_is_removed_is_noticed(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.live.live_predictor.refuse_others", lambda *_: None)
    checked = {}
    for path, _, example in BODIES:
        answer = site.post(path, ALICE, named(deepcopy(example), {"user": "secret-bob"}))
        checked[path] = answer.status_code
    # Reports are checked in the store's transaction, which knows the stored jobs too.
    assert checked.pop("/outcomes") == 403
    assert {*checked.values()} == {200}


def test_every_filter_of_the_page_is_removed_once() -> None:
    used = {
        f"services.dashboard.{file.stem}.{name}"
        for file in Path(overview.__file__).parent.glob("*.py")
        for name in ("select_owned", "owned_tasks", "hide_others")
        if re.search(rf"(?<!def )\b{name}\(", file.read_text())
    }
    # The app selects tasks by the function of their module.
    used -= {"services.dashboard.app.owned_tasks"}
    assert used and used <= {function for function, _, _ in FILTERS}
    addresses = {address for _, _, of_filter in FILTERS for address in of_filter}
    by_name = {path.partition("{")[0] for path in OWNER_PATHS}
    assert by_name - addresses == {"/api/events", "/api/sites"}  # which are about no job


def test_what_is_about_everybody_is_refused(site: Site) -> None:
    for path in ("/api/models", "/api/problems", "/metrics", "/reports/x.html"):
        answer = site.get(site.page + path, ALICE)
        assert answer.status_code == 403 and FOR_ALL in answer.text
    assert site.get(f"{site.predictor}/metrics", ALICE).status_code == 403
    model = site.get(f"{site.predictor}/model", ALICE).json()
    assert model["card"] == {} == model["threads"] and model["model_version"]
    assert site.get(f"{site.predictor}/model", ADMIN).json()["threads"]
    changes = {"/api/thresholds", "/api/promote", "/api/pin", "/api/unpin", "/api/retrain"}
    posts = [r for r in site.dashboard.app().routes if "POST" in (getattr(r, "methods", 0) or ())]
    assert {route.path for route in posts} >= changes  # type: ignore[attr-defined]
    for route in posts:
        headers = {"Authorization": f"Bearer {ALICE}"}
        url = site.page + route.path  # type: ignore[attr-defined]
        assert httpx.post(url, json={}, headers=headers).status_code == 403


def test_an_address_that_declares_nothing_refuses_bound_tokens() -> None:
    assert not answers_owners("/added-later") and not answers_owners("/metrics")
