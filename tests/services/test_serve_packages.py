"""The predictor needs the packages of the extra `serve` only: every other one is refused to it here.

The environment of `serve` alone is the one of the predictor's image, which `just image` builds and starts.
What its recipe removes of these packages (`infra/image/trim`) is refused, too.
"""

import runpy
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
WORK = """
import sys

class Refusal:
    def find_spec(self, name, path=None, target=None):
        if REFUSED & {name.partition(".")[0], ".".join(name.split(".")[:2])}:
            raise ModuleNotFoundError(f"{name} is not a package of serve", name=name)

sys.meta_path.insert(0, Refusal())
from pathlib import Path
from infra.settings import Settings
import services.predictor
import services.router_server
from models.releases import registry
from models.engine.forecaster import Forecaster
from models.engine.model_set import ModelSet
settings = Settings(home=Path(sys.argv[1]))
version = registry.champion(settings)
model = ModelSet.load(registry.fetch(version, settings=settings))
print(type(Forecaster(model)).__name__, version.version)
"""


def packages_of_serve() -> set[str]:
    """What uv.lock installs for `serve`, with what these packages need themselves."""
    packages = {
        package["name"]: package
        for package in tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))["package"]
    }
    project = packages["gridcast"]
    waiting = [*project["dependencies"], *project["optional-dependencies"]["serve"]]
    names = set()
    while waiting:
        needed = waiting.pop()
        package = packages[needed["name"]]
        extras = package.get("optional-dependencies", {})
        more = [entry for extra in needed.get("extra", ()) for entry in extras.get(extra, ())]
        waiting += more
        if needed["name"] not in names:
            names.add(needed["name"])
            waiting += package.get("dependencies", ())
    return names


def test_the_predictor_loads_its_champion_without_the_packages_of_training(home: Path) -> None:
    serve = packages_of_serve()
    sources = packages_distributions()
    refused = {
        module
        for module, names in sources.items()
        if {canonicalize_name(name) for name in names}.isdisjoint(serve | {"gridcast"})
    }
    assert {"prefect", "evidently", "sklearn", "river", "distributed"} <= refused
    # CatBoost needs these two to be installed for its plots; the image leaves them out.
    refused |= {"plotly", "matplotlib"}
    removed = runpy.run_path(str(ROOT / "infra/image/trim"))["PREDICTOR_UNUSED"]
    refused |= {path.replace("/", ".") for path in removed if "*" not in path}
    assert {"scipy.stats", "databricks.sdk"} <= refused
    work = f"REFUSED = {refused!r}\n{WORK}"
    run = subprocess.run(
        [sys.executable, "-c", work, str(home)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert run.stdout.splitlines()[-1] == "Forecaster 1"
