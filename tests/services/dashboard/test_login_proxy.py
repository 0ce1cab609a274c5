"""The login of the page by a real proxy: Apache with mod_auth_openidc, and an issuer of our own."""

import os
import re
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from infra.settings import Settings
from jobs.store import read_audit
from services.dashboard.app import Dashboard
from tests.ports import free_port, served_in_thread
from tests.services.conftest import serving

MODULES = Path("/usr/lib/apache2/modules")
ADMIN, PROXY = "admin-0123456789", "proxy-0123456789"
BROWSER = "127.0.0.5"
"""Where the browser is; the proxy is at 127.0.0.1."""
HOW_TO = Path(__file__).parents[3] / "docs/how-to/tokens.md"

pytestmark = pytest.mark.skipif(
    not (shutil.which("apache2") and (MODULES / "mod_auth_openidc.so").exists()),
    reason="no Apache with mod_auth_openidc (apt-get install apache2 libapache2-mod-auth-openidc)",
)


class Issuer:
    """An OpenID provider that logs in, without asking, the user whose name ``user`` holds."""

    def __init__(self) -> None:
        self.key = generate_private_key(65537, 2048)
        self.user, self.groups = "ada", ["operators"]
        self.nonces: dict[str, str] = {}
        self.url = ""

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/.well-known/openid-configuration", self.describe),
                Route("/authorize", self.authorize),
                Route("/token", self.token, methods=["POST"]),
                Route("/keys", self.keys),
            ]
        )

    async def describe(self, _: Request) -> Response:
        paths = {"authorization": "authorize", "token": "token"}
        endpoints = {f"{name}_endpoint": f"{self.url}/{path}" for name, path in paths.items()}
        supported = {
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "token_endpoint_auth_methods_supported": ["client_secret_post"],
        }
        keys = {"issuer": self.url, "jwks_uri": f"{self.url}/keys"}
        return JSONResponse({**keys, **endpoints, **supported})

    async def authorize(self, request: Request) -> Response:
        query, code = request.query_params, secrets.token_hex(8)
        self.nonces[code] = query["nonce"]
        answer = urlencode({"code": code, "state": query["state"]})
        return RedirectResponse(f"{query['redirect_uri']}?{answer}", 302)

    async def token(self, request: Request) -> Response:
        form = dict(
            pair.split("=") for pair in (await request.body()).decode().split("&") if "=" in pair
        )
        now = int(time.time())
        claims = {
            **{"iss": self.url, "aud": "gridcast", "sub": f"id-of-{self.user}"},
            **{"nonce": self.nonces.pop(form["code"]), "iat": now, "exp": now + 600},
            **{"preferred_username": self.user, "groups": self.groups},
        }
        signed = jwt.encode(claims, self.key, "RS256", headers={"kid": "1"})
        token = {"access_token": "unused", "token_type": "Bearer", "expires_in": 600}
        return JSONResponse({**token, "id_token": signed})

    async def keys(self, _: Request) -> Response:
        public = jwt.algorithms.RSAAlgorithm.to_jwk(self.key.public_key(), as_dict=True)
        return JSONResponse({"keys": [{**public, "kid": "1", "alg": "RS256", "use": "sig"}]})


def documented(names: dict[str, str]) -> str:
    """The configuration of Apache in the how-to page, for the servers of this test."""
    [text] = re.findall(r"```apache\n(.*?)```", HOW_TO.read_text(), re.DOTALL)
    for name, value in names.items():
        assert name in text, name
        text = text.replace(name, value)
    return text


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Dashboard, Issuer, str]]:
    folder = tmp_path_factory.mktemp("proxy")
    issuer, port = Issuer(), free_port()
    settings = Settings(
        home=folder / "home",
        tokens=SecretStr(f"{ADMIN}:admin,{PROXY}:login"),
        login_proxies="127.0.0.1",
        login_rights="operators:admin,shifters:predict",
        tls_in_front=True,
        _env_file=None,
    )
    dashboard = Dashboard(settings)
    with served_in_thread(issuer.app()) as issuer.url, serving(dashboard) as page:
        own = documented(
            {
                "https://iam.example.org/.well-known": f"{issuer.url}/.well-known",
                "https://gridcast.example.org/oidc": f"http://127.0.0.1:{port}/oidc",
                "http://127.0.0.1:3100": page,
                "CLIENT_SECRET": "a-secret-of-the-client",
                "PASSPHRASE": secrets.token_hex(16),
                "TOKEN": PROXY,
            }
        )
        modules = ("mpm_event", "authn_core", "authz_core", "authz_user", "headers", "proxy")
        loaded = "\n".join(
            f"LoadModule {name}_module {MODULES}/mod_{name}.so"
            for name in (*modules, "proxy_http", "auth_openidc")
        )
        account = "User www-data\nGroup www-data\n" if os.geteuid() == 0 else ""
        (folder / "apache.conf").write_text(
            f"ServerRoot {folder}\nServerName 127.0.0.1\nListen 127.0.0.1:{port}\n"
            f"PidFile {folder}/pid\nErrorLog /dev/stderr\n{account}{loaded}\n{own}"
        )
        with (folder / "apache.log").open("wb") as log:
            command = ["apache2", "-f", str(folder / "apache.conf"), "-DFOREGROUND"]
            apache = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            address = f"http://127.0.0.1:{port}"
            wait_for_answer(address, folder / "apache.log")
            yield dashboard, issuer, address
        finally:
            apache.terminate()
            apache.wait(60)
    dashboard.engine.dispose()


def wait_for_answer(address: str, log: Path) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        try:
            httpx.get(address, timeout=60)
            return
        except httpx.HTTPError:
            time.sleep(0.1)
    pytest.fail(f"Apache does not answer:\n{log.read_text()[-2000:]}")


def browser(**headers: str) -> httpx.Client:
    transport = httpx.HTTPTransport(local_address=BROWSER)
    return httpx.Client(transport=transport, follow_redirects=True, timeout=60, headers=headers)


THRESHOLD = {"group": "atlas", "name": "late", "value": 0.9, "by": "ada"}


def test_whom_the_issuer_knows_is_logged_in_with_the_rights_of_the_group_and_recorded(
    site: tuple[Dashboard, Issuer, str],
) -> None:
    dashboard, issuer, address = site
    issuer.user, issuer.groups = "ada", ["operators", "others"]
    with browser() as ada:
        assert ada.get(f"{address}/api/models").status_code == 200
        assert ada.post(f"{address}/api/thresholds", json=THRESHOLD).status_code == 200
    row = read_audit(dashboard.engine, action="threshold").iloc[0]
    assert (row["who"], row["address"], row["result"]) == ("ada", BROWSER, "done")

    issuer.user, issuer.groups = "eve", ["shifters"]
    with browser() as eve:
        assert eve.get(f"{address}/api/models").status_code == 200
        assert eve.post(f"{address}/api/thresholds", json=THRESHOLD).status_code == 403
    row = read_audit(dashboard.engine, actor="eve").iloc[0]
    assert (row["action"], row["address"], row["result"]) == ("threshold", BROWSER, "refused")


def test_headers_of_the_browser_name_nobody(site: tuple[Dashboard, Issuer, str]) -> None:
    dashboard, issuer, address = site
    issuer.user, issuer.groups = "mallory", []
    forged = {
        "X-Forwarded-User": "ada",
        "X-Forwarded-Groups": "operators",
        "OIDC_CLAIM_groups": "operators",
        "X-Forwarded-For": "192.0.2.9",
        "Authorization": f"Bearer {ADMIN}-guessed",
    }
    with browser(**forged) as mallory:
        assert mallory.get(f"{address}/api/tasks").status_code == 200
        assert mallory.get(f"{address}/api/models").status_code == 403
        assert mallory.post(f"{address}/api/thresholds", json=THRESHOLD).status_code == 403
    row = read_audit(dashboard.engine, actor="mallory").iloc[0]
    assert (row["address"], row["result"]) == (BROWSER, "refused")


def test_without_a_login_the_browser_is_led_to_the_issuer(
    site: tuple[Dashboard, Issuer, str],
) -> None:
    _, issuer, address = site
    answer = httpx.get(f"{address}/api/tasks", timeout=60)
    assert answer.status_code == 302 and answer.headers["location"].startswith(issuer.url)
    assert PROXY not in str(answer.headers)
