"""MLflow is imported by one thread at a time."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
SECOND_THREAD = """
import sys, threading
from infra.settings import Settings
from models.releases import mlflow_client as module, registry
answers = []
look = threading.Thread(target=lambda: answers.append(registry.champion(Settings(home=sys.argv[1]))))
with module.IMPORTING:
    look.start()
    look.join(2)
    print(look.is_alive(), "mlflow.exceptions" in sys.modules)
look.join()
print(answers)
"""


def test_a_thread_waits_until_another_has_imported_mlflow(tmp_path: Path) -> None:
    """Two at once ended in a deadlock that Python breaks by an error in one of them."""
    command = [sys.executable, "-c", SECOND_THREAD, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["True False", "[None]"], done.stderr
