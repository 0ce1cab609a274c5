"""Real child processes: small web servers stand for the parts, so that each story takes a second or two."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from infra.components import Component, local_components
from infra.processes import ConflictError, down, status, up
from infra.settings import Settings
from infra.supervision import MAX_LOG_BYTES, is_responding
from tests.ports import free_port

SUPERVISOR = """
import sys
from dataclasses import replace
from pathlib import Path
from infra.components import Component
from infra.processes import up
from infra.settings import read_settings
import infra.processes
infra.processes.PATIENCE = float(sys.argv[2])
declared = eval(Path(sys.argv[1]).read_text())
up(read_settings(), declared, say=lambda text: print(text, flush=True), when_ready=lambda: print("READY", flush=True))
print("STOPPED", flush=True)
"""
STUBBORN = "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); subprocess.Popen(['sleep', '300']); "


def web(name: str, *, after: tuple[str, ...] = ()) -> Component:
    port = free_port()
    command = (sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1")
    return Component(
        name,
        command,
        address=f"http://127.0.0.1:{port}",
        port_setting=f"GRIDCAST_{name.upper()}_PORT",
        after=after,
    )


def wait_for(truth: Callable[[], object], description: str) -> None:
    deadline = time.monotonic() + 240
    while not truth():
        assert time.monotonic() < deadline, f"waited in vain for: {description}"
        time.sleep(0.05)


def ended(process: psutil.Process) -> bool:
    """Whether it runs no more; one whose parent is gone waits as a zombie until init collects it."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE or not process.is_running()
    except psutil.NoSuchProcess:
        return True


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", _env_file=None)


@pytest.fixture
def supervise(
    settings: Settings, tmp_path: Path
) -> Iterator[Callable[[list[Component]], tuple[subprocess.Popen[bytes], Path]]]:
    """Runs ``up`` as a user does, in a process of its own; gives that process and what it says."""
    started: list[subprocess.Popen[bytes]] = []

    def run(
        declared: list[Component], patience: float = 300
    ) -> tuple[subprocess.Popen[bytes], Path]:
        code = [
            f"replace({component!r}, files={component.files!r})" for component in declared
        ]  # which a part does not show by itself
        (tmp_path / "parts").write_text(f"[{', '.join(code)}]")
        output = tmp_path / "said"
        with output.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-c", SUPERVISOR, str(tmp_path / "parts"), str(patience)],
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, "GRIDCAST_HOME": str(settings.home)},
                cwd=Path(__file__).parents[2],
            )
        started.append(process)
        return process, output

    yield run
    for process in started:
        down(settings)
        process.wait(240)


def states(settings: Settings, declared: list[Component]) -> list[str]:
    return [row["state"] for row in status(settings, declared)]


def test_parts_start_in_order_answer_and_stop_on_ctrl_c_with_nothing_left_behind(
    settings, supervise
):
    first = web("first")
    declared = [first, web("second", after=("first",))]
    process, output = supervise(declared)
    wait_for(lambda: "READY" in output.read_text(), "both parts are ready")
    rows = status(settings, declared)
    assert [row["state"] for row in rows] == ["up", "up"]
    assert [row["address"] for row in rows] == [component.address for component in declared]
    assert output.read_text().index("first is ready") < output.read_text().index("second is ready")
    pids = [row["pid"] for row in rows]

    process.send_signal(signal.SIGINT)

    assert process.wait(240) == 0
    assert output.read_text().splitlines()[-3:] == ["stopping second", "stopping first", "STOPPED"]
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert states(settings, declared) == ["down", "down"]


def test_a_part_killed_is_said_and_started_again(settings, supervise):
    declared = [web("server")]
    _, output = supervise(declared)
    wait_for(lambda: "READY" in output.read_text(), "the part is ready")
    before = status(settings, declared)[0]["pid"]

    os.kill(before, signal.SIGKILL)

    wait_for(lambda: output.read_text().count("server is ready") == 2, "the part is ready again")
    assert "server was killed by SIGKILL; it starts again in 1 s" in output.read_text()
    row = status(settings, declared)[0]
    assert row["state"] == "up"
    assert row["pid"] != before
    assert row["note"].startswith("was killed by SIGKILL at ")


def test_a_log_that_grows_long_begins_anew_and_the_one_before_is_kept(settings, supervise):
    long = "import time; print('began', flush=True); [print(line, 'x' * 2**20, flush=True) for line in range(50)]\n"
    later = "while True:\n    print('later', flush=True); time.sleep(0.1)"
    component = Component("talker", (sys.executable, "-c", long + later), ready_log_text="later")
    log = settings.folder("logs") / "talker.log"
    _, output = supervise([component])
    wait_for(lambda: "READY" in output.read_text(), "the part is ready")

    earlier = log.with_suffix(".log.1")
    wait_for(
        lambda: earlier.exists() and 0 < log.stat().st_size < 2**20 < earlier.stat().st_size,
        "a new log",
    )

    assert earlier.read_bytes().startswith(b"began\n0 x")
    assert earlier.stat().st_size > MAX_LOG_BYTES
    assert {*log.read_bytes().splitlines()} == {b"later"}


def test_a_worker_in_a_session_of_its_own_does_not_outlive_its_part(settings, supervise):
    begin = "import subprocess, time; subprocess.Popen(['sleep', '302'], start_new_session=True); print('began', flush=True); time.sleep(300)"
    declared = [
        Component(name, (sys.executable, "-c", begin), ready_log_text="began")
        for name in ("first", "second")
    ]
    _, output = supervise(declared)
    wait_for(lambda: "READY" in output.read_text(), "both are ready")
    leaders = {row["part"]: psutil.Process(row["pid"]) for row in status(settings, declared)}
    workers = {name: leader.children()[0] for name, leader in leaders.items()}

    leaders["first"].kill()

    wait_for(lambda: output.read_text().count("first is ready") == 2, "the part is ready again")
    assert ended(workers["first"])
    assert not ended(workers["second"])


def test_a_full_disk_ends_nothing_that_watches_and_a_part_that_ended_meanwhile_starts_when_there_is_space(
    settings, supervise
):
    config = settings.folder("site") / "server.cfg"
    declared = [replace(web("server"), files={str(config): "port = 1"})]
    process, output = supervise(declared)
    wait_for(lambda: "READY" in output.read_text(), "the part is ready")
    before = status(settings, declared)[0]["pid"]
    config.unlink()
    supervisor = psutil.Process(process.pid)
    supervisor.rlimit(
        psutil.RLIMIT_FSIZE, (0, psutil.RLIM_INFINITY)
    )  # nothing can be written: file, record, or what it says

    os.kill(before, signal.SIGKILL)

    wait_for(lambda: config.exists(), "the start is tried")
    assert (process.poll(), config.read_text()) == (None, "")
    supervisor.rlimit(psutil.RLIMIT_FSIZE, (psutil.RLIM_INFINITY, psutil.RLIM_INFINITY))
    wait_for(lambda: status(settings, declared)[0]["state"] == "up", "the part is up again")
    assert status(settings, declared)[0]["pid"] != before
    assert config.read_text() == "port = 1"
    assert down(settings) == ["server"]
    assert list(settings.folder("run").iterdir()) == []


def test_down_from_another_shell_stops_everything_and_may_be_repeated(settings, supervise):
    declared = [web("server")]
    process, output = supervise(declared)
    wait_for(lambda: "READY" in output.read_text(), "the part is ready")

    assert down(settings) == ["server"]

    assert process.wait(240) == 0
    assert states(settings, declared) == ["down"]
    assert list(settings.folder("run").iterdir()) == []
    assert down(settings) == []
    assert list(settings.folder("run").iterdir()) == []


def test_a_part_that_ignores_sigterm_is_killed_with_the_children_it_started(settings, supervise):
    port = free_port()
    serve = f"from http.server import *; HTTPServer(('127.0.0.1', {port}), SimpleHTTPRequestHandler).serve_forever()"
    stubborn = Component(
        "stubborn",
        (sys.executable, "-c", STUBBORN + serve),
        address=f"http://127.0.0.1:{port}",
        stop_seconds=0.5,
    )
    process, output = supervise([stubborn])
    wait_for(lambda: "READY" in output.read_text(), "the part is ready")
    leader = psutil.Process(status(settings, [stubborn])[0]["pid"])
    family = [leader, *leader.children()]
    assert len(family) == 2

    process.terminate()

    assert process.wait(240) == 0
    assert all(ended(process_or_row) for process_or_row in family)


def test_what_a_killed_supervisor_left_behind_is_stopped_by_the_next_up(settings, supervise):
    declared = [web("server")]
    process, output = supervise(declared)
    wait_for(lambda: "READY" in output.read_text(), "the part is ready")
    orphan = psutil.Process(status(settings, declared)[0]["pid"])
    process.kill()
    process.wait(240)
    assert orphan.is_running()

    _, output = supervise(declared)

    wait_for(lambda: "READY" in output.read_text(), "the part is ready again")
    assert output.read_text().startswith("server was left behind by an earlier run and is stopped")
    assert ended(orphan)


def test_down_goes_by_the_records_and_the_mark_when_supervisor_and_part_were_killed(
    settings, supervise
):
    # The part has a child in a session of its own, as a worker's runs are: of a dead part only its mark tells.
    begin = "import subprocess, sys, time; subprocess.Popen(['sleep', '301'], start_new_session=True); print('began', flush=True); "
    worker = Component(
        "worker", (sys.executable, "-c", begin + "time.sleep(300)"), ready_log_text="began"
    )
    server = web("server")
    process, output = supervise([worker, server])
    wait_for(lambda: "READY" in output.read_text(), "both are ready")
    rows = {row["part"]: psutil.Process(row["pid"]) for row in status(settings, [])}
    (stray,) = rows["worker"].children()
    process.kill()
    process.wait(240)
    rows["worker"].kill()
    wait_for(lambda: ended(rows["worker"]), "the worker's end")

    assert down(settings) == ["server"]

    assert all(ended(process_or_row) for process_or_row in (*rows.values(), stray))
    assert list(settings.folder("run").iterdir()) == []


def test_a_door_that_wants_a_token_is_asked_with_it(tmp_path):
    settings = Settings(
        home=tmp_path, tokens="0123456789abcdef:predict,fedcba9876543210:admin", _env_file=None
    )
    (predictor,) = [
        component for component in local_components(settings) if component.name == "predictor"
    ]
    port = free_port()
    serve = (
        "from http.server import *\n"
        "class Door(BaseHTTPRequestHandler):\n"
        "    def do_GET(self): self.send_error(200 if self.headers['Authorization'] == 'Bearer 0123456789abcdef' else 401)\n"
        f"HTTPServer(('127.0.0.1', {port}), Door).serve_forever()"
    )
    door = subprocess.Popen([sys.executable, "-c", serve], stderr=subprocess.DEVNULL)
    try:
        there = replace(predictor, address=f"http://127.0.0.1:{port}")
        wait_for(lambda: is_responding(there), "the door to open")
        assert not is_responding(replace(there, token=""))
        assert "0123456789abcdef" not in repr(there)
    finally:
        door.kill()
        door.wait()


def test_a_taken_port_is_one_sentence_before_anything_starts(settings):
    component = web("server")
    with socket.socket() as taker:
        taker.bind(("127.0.0.1", int(component.address.rpartition(":")[2])))
        taker.listen()
        with pytest.raises(
            ConflictError,
            match=r"^server cannot listen on 127.0.0.1 port \d+: .* in use; set GRIDCAST_SERVER_PORT to a free one$",
        ):
            up(settings, [component])
    assert status(settings, [component])[0]["pid"] is None


def test_what_systemd_or_a_container_runs_is_up_where_its_address_answers(settings):
    server, worker = web("server"), Component("worker", (sys.executable,))
    assert states(settings, [server, worker]) == ["down", "down"]
    process = subprocess.Popen(server.command, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: is_responding(server), "the server")
        rows = status(settings, [server, worker])
        assert [(row["state"], row["pid"]) for row in rows] == [("up", None), ("unknown", None)]
        assert rows[0]["note"].startswith("answers; not started by `gridcast up`")
    finally:
        process.kill()
        process.wait()


def test_a_second_up_on_the_same_data_folder_is_refused(settings, supervise):
    declared = [web("server")]
    process, output = supervise(declared)
    wait_for(lambda: "READY" in output.read_text(), "the part is ready")
    with pytest.raises(
        ConflictError, match=rf"already up on .* \(pid {process.pid}\); `gridcast down` stops it"
    ):
        up(settings, declared)
    assert states(settings, declared) == ["up"]


def test_a_part_that_never_becomes_ready_fails_up_with_its_last_words_and_stops_the_rest(
    settings, supervise
):
    broken = replace(
        web("broken"), command=(sys.executable, "-c", "raise SystemExit('no such model')")
    )
    declared = [web("server"), broken]
    process, output = supervise(declared)
    assert process.wait(240) == 1
    assert "ProcessError: broken ended 3 times: no such model (its log is " in output.read_text()
    assert states(settings, declared) == ["down", "down"]


UNREADY = """
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
class Answers(BaseHTTPRequestHandler):
    count = 0
    def do_GET(self):
        Answers.count += STEP
        self.send_response(503 if Answers.count < 15 else 200)
        self.end_headers()
        self.wfile.write(b'{"detail": "it has learned %d of 15 outcomes"}' % Answers.count)
HTTPServer(("127.0.0.1", int(sys.argv[1])), Answers).serve_forever()
"""


@pytest.mark.parametrize("step", [0, 1])
def test_a_part_that_goes_on_is_waited_for_and_one_that_does_not_says_what_it_waits_for(
    settings, supervise, step
):
    port = free_port()
    command = (sys.executable, "-c", UNREADY.replace("STEP", str(step)), str(port))
    slow = Component("slow", command, address=f"http://127.0.0.1:{port}", ready_path="/readyz")
    process, output = supervise([slow], patience=2)
    if step:  # fifteen looks take longer than the patience
        wait_for(lambda: "READY" in output.read_text(), "the part to be ready")
        return
    assert process.wait(240) == 1
    reason = "slow: /readyz answers 503: it has learned 0 of 15 outcomes"
    assert f"ProcessError: not ready, and no step on for 2 s: {reason} (" in output.read_text()


def test_a_part_without_a_door_is_ready_when_its_log_says_so(settings, supervise):
    worker = Component(
        "worker",
        (sys.executable, "-uc", "import time; print('worker started!'); time.sleep(300)"),
        ready_log_text="started!",
    )
    _, output = supervise([worker])
    wait_for(lambda: "READY" in output.read_text(), "the worker is ready")
    assert states(settings, [worker]) == ["up"]


def test_a_pid_that_now_belongs_to_another_process_is_not_taken_for_the_part(settings):
    component = web("server")
    record = settings.folder("run") / "server.json"
    record.write_text(
        f'{{"pid": {os.getpid()}, "began": 1.0, "state": "up", "since": "2026-01-01T00:00:00+00:00", "note": ""}}'
    )
    assert states(settings, [component]) == ["down"]
    assert down(settings) == []


def test_everything_binds_to_the_host_of_the_settings_and_no_password_is_an_argument(tmp_path):
    settings = Settings(
        home=tmp_path, mlflow_url="postgresql://someone:hunter2@db/mlflow", _env_file=None
    )
    declared = local_components(settings)
    assert [component.name for component in declared] == [
        "mlflow",
        "prefect",
        "predictor",
        "dashboard",
        "schedules",
    ]
    assert not any("hunter2" in word for component in declared for word in component.command)
    for component in declared[:4]:
        assert component.address.startswith("http://127.0.0.1:")
        assert component.command[component.command.index("--host") + 1] == "127.0.0.1"


def test_a_remote_mlflow_is_used_and_not_started(tmp_path):
    declared = local_components(
        Settings(home=tmp_path, mlflow_url="http://mlflow.example:5000", _env_file=None)
    )
    assert [component.name for component in declared] == [
        "prefect",
        "predictor",
        "dashboard",
        "schedules",
    ]
    assert {component.environment["GRIDCAST_MLFLOW_URL"] for component in declared} == {
        "http://mlflow.example:5000"
    }


READER_GONE = """
import sys
from pathlib import Path
from commands.tables import print_note, show_rows
from infra.components import Component
from infra.processes import up
from infra.settings import read_settings
declared = eval(Path(sys.argv[1]).read_text())
sys.stdin.readline()
up(
    read_settings(), declared, say=print_note,
    when_ready=lambda: show_rows([{"part": "server"}], False, "Up", meaning="Ctrl-C stops all."),
)
"""


def test_a_reader_of_its_output_that_is_gone_neither_stops_it_nor_leaves_anything_behind(
    settings, tmp_path
):
    """As ``gridcast up 2>&1 | tee log`` whose ``tee`` was killed."""
    server = web("server")
    (tmp_path / "parts").write_text(repr([server]))
    process = subprocess.Popen(
        [sys.executable, "-c", READER_GONE, str(tmp_path / "parts")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "GRIDCAST_HOME": str(settings.home)},
        cwd=Path(__file__).parents[2],
    )
    process.stdout.close()
    process.stdin.write(b"\n")
    process.stdin.close()
    try:
        wait_for(lambda: states(settings, [server]) == ["up"], "the part is up")
        first = psutil.Process(status(settings, [server])[0]["pid"])
        first.kill()
        wait_for(
            lambda: (
                states(settings, [server]) == ["up"]
                and status(settings, [server])[0]["pid"] != first.pid
            ),
            "the part is up again",
        )
        second = psutil.Process(status(settings, [server])[0]["pid"])
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        process.wait(240)
        assert ended(second)
        assert list(settings.folder("run").iterdir()) == []
    finally:
        down(settings)
        process.wait(240)
