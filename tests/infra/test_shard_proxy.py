"""The real HAProxy forwards calls of one user to the shard that Python computes, all others to the router."""

import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from infra.component import component_named
from infra.components import Component
from infra.errors import InputError
from infra.setting_values import split_shard_addresses
from infra.settings import Settings, SettingsError
from infra.shards import shard_of_slots, slot_of
from infra.site import USER_HEADER, proxy_text, replica_ports, site_components, slots_text
from services.client import USER_HEADER as CLIENTS_HEADER
from services.client import Gridcast, UnavailableError
from tests.ports import free_port, served_in_thread
from tests.services.conftest import wait_for

HAPROXY = shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin")
COUNT = 3


def named(name: str) -> Starlette:
    """A server that answers its name at every address."""

    async def answer(_: Request) -> PlainTextResponse:
        return PlainTextResponse(name)

    return Starlette(routes=[Route("/{path:path}", answer, methods=["GET", "POST"])])


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    if HAPROXY is None:
        pytest.skip("not installed: haproxy")
    folder, port = tmp_path_factory.mktemp("proxy"), free_port()
    with ExitStack() as stack:
        names = ["router", *(f"shard-{number}" for number in range(1, COUNT + 1))]
        addresses = {
            name: stack.enter_context(served_in_thread(named(name))).partition("//")[2]
            for name in names
        }
        text = proxy_text(
            f"127.0.0.1:{port}",
            {"router": addresses["router"]},
            {},
            shards=[{name: addresses[name]} for name in names[1:]],
            slots=str(folder / "slots.map"),
        )
        (folder / "slots.map").write_text(slots_text(COUNT))
        (folder / "haproxy.cfg").write_text(text)
        process = subprocess.Popen([HAPROXY, "-db", "-f", str(folder / "haproxy.cfg")])
        address = f"http://127.0.0.1:{port}"
        with httpx.Client(base_url=address, trust_env=False, timeout=120) as client:
            try:
                wait_for(lambda: process.poll() or answers(client), "the proxy to listen")
                assert process.poll() is None
                yield client
            finally:
                process.terminate()
                process.wait(120)


def answers(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz").text == "router"
    except httpx.HTTPError:
        return False


def test_the_proxy_and_python_give_a_user_the_same_shard(proxy: httpx.Client) -> None:
    rng = random.Random(23)
    letters = "aZ09 éüß中🎉,;+%?&=/\\'\"\t.-_@:"
    users = ["", " ", " ann ", "Zoë", "ann, bob", "a+b", "100%", "50%25", "?a=b+c", "/CN=Jo Ü"]
    users += ["".join(rng.choices(letters, k=rng.randint(1, 60))) for _ in range(200)]
    for user in users:
        response = proxy.post("/predict", headers={USER_HEADER: quote(user, safe="")})
        number = shard_of_slots(COUNT)[slot_of(user)]
        assert response.text == f"shard-{number}", user


def test_the_clients_calls_of_one_user_reach_the_shard(proxy: httpx.Client) -> None:
    with Gridcast(str(proxy.base_url), timeout=60) as grid:
        for users in (["Zoë"], ["ann, bob"] * 2, [None], ["ann", "bob"]):
            with pytest.raises(UnavailableError) as caught:
                grid.explain([{"user": user} for user in users])
            shard = f"shard-{shard_of_slots(COUNT)[slot_of(users[0] or '')]}"
            server = "router" if len(set(users)) > 1 else shard
            assert f"none of a predictor's: b'{server}'" in str(caught.value)


def test_other_calls_go_to_the_router(proxy: httpx.Client) -> None:
    assert USER_HEADER == CLIENTS_HEADER
    header = {USER_HEADER: "ann"}
    assert proxy.post("/predict").text == "router"
    assert proxy.post("/outcomes", headers=header).text == "router"
    assert proxy.get("/model", headers=header).text == "router"
    assert proxy.post("/match", headers=header).text.startswith("shard-")


def by_name(settings: Settings) -> dict[str, Component]:
    return {component.name: component for component in site_components(settings)}


def test_a_site_with_shards_starts_them_a_router_and_the_proxy(tmp_path: Path) -> None:
    if HAPROXY is None or shutil.which("prometheus") is None:
        pytest.skip("not installed: haproxy or prometheus")
    urls = dict.fromkeys(("database_url", "mlflow_url", "prefect_database_url"), "postgresql://d/j")
    urls["mlflow_url"] = "http://127.0.0.1:5000"
    settings = Settings(home=tmp_path, shards=2, replica_ports="3001,3002,3003,3004", **urls)  # type: ignore[arg-type]
    components = by_name(settings)
    shards = [components[f"predictor-{n}"].environment["GRIDCAST_SHARD"] for n in range(1, 5)]
    assert shards == ["1/2", "2/2", "1/2", "2/2"]
    homes = {components[f"predictor-{n}"].environment["GRIDCAST_HOME"] for n in range(1, 5)}
    assert len(homes) == 4
    ring = split_shard_addresses(components["router"].environment["GRIDCAST_SHARD_ADDRESSES"])
    assert ring[1] == ("http://127.0.0.1:3002", "http://127.0.0.1:3004")
    assert components["proxy"].after == ("router",)
    text = "".join(components["prometheus"].files.values())
    assert 'targets: ["127.0.0.1:3200"]' in text
    assert "router" not in by_name(settings.model_copy(update={"shards": 1}))
    assert replica_ports(Settings(shards=5)) == [3001, 3002, 3003, 3004, 3005]
    assert replica_ports(Settings()) == [3001, 3002]
    with pytest.raises(SettingsError, match="must be 3 ports, one for each of GRIDCAST_SHARDS"):
        replica_ports(settings.model_copy(update={"shards": 3}))


def test_the_router_is_a_component_of_a_unit_or_container_where_it_is_told_the_shards(
    tmp_path: Path,
) -> None:
    settings = Settings(home=tmp_path, shard_addresses="1/1=http://127.0.0.1:1", router_port=3999)
    component = component_named("router", settings)
    assert component.address == "http://127.0.0.1:3999"
    assert "services.router_server:create_app" in component.command
    with pytest.raises(InputError, match="there is no component router with these settings"):
        component_named("router", Settings(home=tmp_path))
