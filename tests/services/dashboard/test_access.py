"""Who reads the page: tokens, links that log a browser in, and pages of other ports."""

import asyncio
import base64
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from starlette.requests import Request

from infra.settings import Settings, SettingsError
from services.dashboard.app import Dashboard
from services.http.errors import HTTPError
from services.http.logins import CODE_SECONDS, SESSION_SECONDS, login_link
from tests.services.conftest import serving

ADMIN, READER = "admin-0123456789", "reader-0123456789"
THRESHOLD = {"group": "atlas", "name": "late", "value": 0.9, "by": "ada"}


def link(path: str, secret: str, port: int = 3100) -> str:
    """``path`` with a new code of the page's own."""
    query = login_link("", port, secret).partition("?")[2]
    return f"{path}{'&' if '?' in path else '?'}{query}"


def page(folder: Path, **values: Any) -> Dashboard:
    tokens = SecretStr(f"{ADMIN}:admin,{READER}:predict")
    return Dashboard(Settings(home=folder, _env_file=None, **{"tokens": tokens, **values}))


@pytest.fixture
def http(tmp_path: Path) -> Iterator[httpx.Client]:
    with serving(page(tmp_path)) as address, httpx.Client(base_url=address) as caller:
        yield caller


PATHS = ("/", "/task/x", "/metrics", "/api/tasks", "/api/events", "/reports/x.html", "/nothing")


def test_callers_on_this_machine_need_a_token_too(http: httpx.Client) -> None:
    for path in PATHS:
        answer = http.get(path)
        assert answer.status_code == 401, path
        assert "Basic" in answer.headers["www-authenticate"]
    assert http.get("/api/tasks", headers={"Authorization": f"Bearer {READER}"}).status_code == 200
    assert http.get("/api/tasks", auth=("me", READER)).status_code == 200


def test_a_page_without_any_token_answers_nobody(tmp_path: Path) -> None:
    with serving(page(tmp_path, tokens=SecretStr(""))) as address:
        assert {httpx.get(f"{address}{path}").status_code for path in PATHS} == {403}


def test_a_page_that_is_open_on_the_loopback_is_read_without_a_token(tmp_path: Path) -> None:
    dashboard = page(tmp_path, open_on_loopback=True)
    with serving(dashboard) as address:
        assert httpx.get(f"{address}/api/tasks").status_code == 200
        assert httpx.post(f"{address}/api/thresholds", json=THRESHOLD).status_code == 401
        # What a proxy of this machine passes on is not this machine's.
        for header in ("X-Forwarded-For", "Forwarded"):
            passed_on = httpx.get(f"{address}/api/tasks", headers={header: "127.0.0.1"})
            assert passed_on.status_code == 401, header
    transport = httpx.ASGITransport(dashboard.app(), client=("192.0.2.7", 4711))

    async def status_of_a_stranger() -> int:
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as stranger:
            return (await stranger.get("/api/tasks")).status_code

    assert asyncio.run(status_of_a_stranger()) == 401


def test_a_link_logs_in_and_its_cookie_is_no_token(http: httpx.Client) -> None:
    address = link("/tasks?state=stalled", READER)
    assert READER not in address
    answer = http.get(address)
    assert answer.status_code == 200
    assert 'url=/tasks?state=stalled"' in answer.text
    assert answer.headers["referrer-policy"] == "no-referrer"
    cookie = answer.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(cookie.split("; "))
    name = cookie.partition("=")[0]
    assert re.fullmatch(r"gridcast-\d+", name) and READER not in cookie
    assert http.get("/api/tasks").status_code == 200
    # It is the login of that token: it reads, and changes nothing.
    assert http.post("/api/thresholds", json=THRESHOLD).status_code == 403
    session = http.cookies[name]
    assert http.get("/api/tasks", headers={"Authorization": f"Bearer {session}"}).status_code == 401


def test_a_link_is_good_once_and_for_minutes_and_its_cookie_for_days(
    http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = link("/", READER), link("/", READER)
    assert first != second
    assert http.get(first).status_code == 200
    # In the browser that it logged in it leads to the page again, as from the history.
    again = http.get(first)
    assert again.status_code == 200 and "set-cookie" not in again.headers
    origin = str(http.base_url).rstrip("/")
    answer = httpx.get(f"{origin}{first}")
    assert answer.status_code == 401 and "gridcast login" in answer.json()["detail"]
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + CODE_SECONDS + 2)
    assert httpx.get(f"{origin}{second}").status_code == 401
    assert http.get("/api/tasks").status_code == 200
    monkeypatch.setattr(time, "time", lambda: now + SESSION_SECONDS + 2)
    assert http.get("/api/tasks", headers=dict(cookie(http))).status_code == 401


def cookie(http: httpx.Client) -> list[tuple[str, str]]:
    """The cookie as a header, whatever the jar thinks of its age."""
    return [("cookie", f"{name}={value}") for name, value in http.cookies.items()]


def test_a_code_opens_one_server_and_is_no_session_nor_token(http: httpx.Client) -> None:
    assert http.get(link("/", ADMIN, port=5000)).status_code == 401, "that of MLflow"
    code = link("/", ADMIN).partition("=")[2]
    assert http.get("/api/tasks", headers={"Cookie": f"gridcast-3100={code}"}).status_code == 401
    assert http.get("/api/tasks", headers={"Authorization": f"Bearer {code}"}).status_code == 401
    http.get(link("/", ADMIN))
    (session,) = http.cookies.values()
    http.cookies.clear()
    assert http.get("/", params={"login": session}).status_code == 401


@pytest.mark.parametrize(
    "code",
    ["", ADMIN, f"{ADMIN}:admin", "9999999999.0.0", link("", "wrong-0123456789")[7:], "ä.ö", "٣.x"],
)
def test_a_link_with_another_code_logs_nobody_in(http: httpx.Client, code: str) -> None:
    assert http.get("/", params={"token": ADMIN}).status_code == 401, "a token stays in the history"
    answer = http.get("/", params={"login": code})
    assert answer.status_code == 401 and "set-cookie" not in answer.headers
    assert http.get("/api/tasks").status_code == 401


@pytest.mark.parametrize("path", ["//evil.example/", "/\\evil.example", "/task/<script>"])
def test_a_link_leads_to_no_other_server(http: httpx.Client, path: str) -> None:
    answer = http.get(link(path, ADMIN))
    assert "<script>" not in answer.text and "evil" not in answer.text


def test_changes_by_a_login_come_from_the_page_itself(http: httpx.Client) -> None:
    http.get(link("/", ADMIN))

    def status(**headers: str) -> int:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return http.post("/api/thresholds", json=THRESHOLD, headers=sent).status_code

    # The same host is the same site: the cookie goes along from a page of any port.
    assert status(sec_fetch_site="same-site", origin="http://127.0.0.1:9999") == 403
    assert status(sec_fetch_site="cross-site") == 403
    assert status(sec_fetch_site="same-origin", origin="http://127.0.0.1:3100") == 200


def test_a_browser_opens_one_link_and_may_change_a_threshold(tmp_path: Path, browser: Any) -> None:
    with serving(page(tmp_path)) as address:
        context = browser.new_context()
        shown = context.new_page()
        shown.set_default_timeout(120_000)
        shown.goto(f"{address}{link('/thresholds', ADMIN)}")
        shown.get_by_label("Value").fill("2.5")
        assert "login" not in shown.url
        shown.get_by_label("Your name").fill("grace")
        shown.get_by_role("button", name="Set").click()
        shown.wait_for_selector("td:has-text('grace')")
        assert httpx.get(f"{address}/api/thresholds").status_code == 401
        context.close()


PROXY = "proxy-0123456789"


def test_a_login_proxy_names_whom_it_has_logged_in(tmp_path: Path) -> None:
    tokens = SecretStr(f"{ADMIN}:admin,{PROXY}:login")
    rights = "operators:admin,shifters:predict,cms:predict+vo=cms"
    values = {"tokens": tokens, "login_proxies": "127.0.0.0/8,192.0.2.7", "login_rights": rights}
    access = page(tmp_path, **values).access
    without_proxies = page(tmp_path, tokens=tokens).access

    def caller(
        token: str = PROXY, client: str = "127.0.0.1", checked: Any = access, **headers: str
    ) -> Any:
        sent = {
            "host": "localhost",
            # oauth2-proxy sends its secret as the password of the user.
            "authorization": "Basic " + base64.b64encode(f"x:{token}".encode()).decode(),
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        pairs = [(name.encode(), value.encode()) for name, value in sent.items()]
        scope = {"type": "http", "path": "/", "query_string": b"", "headers": pairs}
        request = Request(scope | {"client": (client, 1)})
        try:
            # In a thread, since a browser of another test keeps this one's event loop running.
            with ThreadPoolExecutor(1) as thread:
                checking = thread.submit(
                    lambda: asyncio.run(checked.check(request, for_owners=True))
                )
                return checking.result()
        except HTTPError as error:
            return error.status

    alice = caller(x_forwarded_user="alice")
    assert (alice.name, str(alice.owners), alice.scopes) == ("alice", "user alice", {"predict"})
    operator = caller(x_forwarded_user="ada", x_forwarded_groups="cms, operators")
    assert operator.scopes == {"admin"} and operator.owners is None and operator.name == "ada"
    of_cms = caller(x_forwarded_user="bob", x_forwarded_groups="cms", client="192.0.2.7")
    assert str(of_cms.owners) == "group cms"
    # The address without the token, the token without the address, or neither names nobody.
    reader = caller(ADMIN, x_forwarded_user="alice")
    assert reader.owners is None and reader.name != "alice"
    assert caller("wrong-0123456789", x_forwarded_user="alice") == 401
    assert caller(client="192.0.2.8", x_forwarded_user="alice") == 403
    assert caller(checked=without_proxies, x_forwarded_user="alice") == 403
    assert caller() == caller(x_forwarded_user=" ") == 403


def test_a_proxys_token_logs_no_browser_in(tmp_path: Path) -> None:
    dashboard = page(tmp_path, tokens=SecretStr(f"{PROXY}:login"), login_proxies="127.0.0.1")
    with serving(dashboard) as address:
        assert httpx.get(f"{address}{link('/', PROXY)}").status_code == 401
        assert httpx.get(f"{address}/api/tasks", auth=("me", PROXY)).status_code == 403


@pytest.mark.parametrize(
    "values",
    [
        {"login_proxies": "proxy.example.org"},
        {"login_rights": "operators"},
        {"login_rights": "cms:admin+vo=cms"},
        {"tokens": SecretStr(f"{PROXY}:login+predict")},
        {"tokens": SecretStr(f"{PROXY}:predict+usr=alice")},
        {"tokens": SecretStr(f"{PROXY}:predict+user=")},
        {"tokens": SecretStr(f"{PROXY}:user=alice")},
    ],
)
def test_wrong_rights_are_refused_without_showing_a_token(
    tmp_path: Path, values: dict[str, Any]
) -> None:
    with pytest.raises(
        SettingsError, match=r"GRIDCAST_(TOKENS|LOGIN_PROXIES|LOGIN_RIGHTS)"
    ) as error:
        page(tmp_path, **values)
    assert PROXY not in str(error.value)
