"""A real ActiveMQ with STOMP in a folder of a test, started, killed and started again."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Queue
from typing import Any

import stomp

from infra.settings import environment_with
from tests.ports import free_port

JAR = Path("/usr/share/activemq/bin/activemq.jar")
PATIENCE = 120.0
USER, PASSWORD = "gridcast", "a test's"
CONFIGURATION = """<beans xmlns="http://www.springframework.org/schema/beans"
    xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:schemaLocation="
      http://www.springframework.org/schema/beans http://www.springframework.org/schema/beans/spring-beans.xsd
      http://activemq.apache.org/schema/core http://activemq.apache.org/schema/core/activemq-core.xsd">
  <broker xmlns="http://activemq.apache.org/schema/core" brokerName="test" useJmx="false"
      dataDirectory="{folder}/data" useShutdownHook="false" schedulerSupport="false">
    <plugins><simpleAuthenticationPlugin><users>
      <authenticationUser username="{user}" password="{password}" groups="users"/>
    </users></simpleAuthenticationPlugin></plugins>
    <sslContext>
      <sslContext keyStore="file:{folder}/keys.p12" keyStorePassword="changeit"/>
    </sslContext>
    <transportConnectors>
      <transportConnector uri="stomp://127.0.0.1:{port}"/>
      <transportConnector uri="stomp+ssl://127.0.0.1:{tls_port}"/>
    </transportConnectors>
  </broker>
</beans>
"""


def missing() -> str:
    """What is not there of a broker; empty where all is."""
    if not JAR.exists():
        return f"no broker: {JAR} is not there (Debian: activemq)"
    return "" if shutil.which("java") else "no broker: java is not on the path"


@dataclass
class Broker:
    """A broker that keeps its messages on disk, asks for a login, and offers TLS too."""

    folder: Path
    port: int = field(default_factory=free_port)
    tls_port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def certificate(self) -> Path:
        """The certificate of its TLS port, its own authority."""
        return self.folder / "certificate.pem"

    def configure(self) -> None:
        """Write its configuration, and make its certificate."""
        values = {"folder": self.folder, "port": self.port, "tls_port": self.tls_port}
        text = CONFIGURATION.format(**values, user=USER, password=PASSWORD)
        (self.folder / "activemq.xml").write_text(text)
        store = ["-keystore", str(self.folder / "keys.p12"), "-storepass", "changeit"]
        made = ["-genkeypair", "-keyalg", "EC", "-alias", "broker", "-dname", "CN=localhost"]
        made += ["-ext", "SAN=IP:127.0.0.1,DNS:localhost", "-storetype", "PKCS12"]
        export = ["-exportcert", "-rfc", "-alias", "broker", "-file", str(self.certificate)]
        for words in (made, export):
            subprocess.run(["keytool", *words, *store], check=True, capture_output=True)

    def start(self) -> None:
        """Start it and wait until it takes connections."""
        command = [
            "java",
            "-Xmx128m",
            "-XX:TieredStopAtLevel=1",
            "-XX:+UseSerialGC",
            "-Dactivemq.home=/usr/share/activemq",
            f"-Dactivemq.base={self.folder}",
            f"-Dactivemq.data={self.folder}",
            "-jar",
            str(JAR),
            "start",
            f"xbean:file:{self.folder / 'activemq.xml'}",
        ]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=self.folder, env=environment_with({}), stdout=log, stderr=log
            )
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and self.process.poll() is None:
            with suppress(stomp.exception.StompException, OSError), self.client():
                return
            time.sleep(0.05)
        raise AssertionError((self.folder / "log").read_text()[-2000:])

    def kill(self) -> None:
        """Kill it as a power failure would."""
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None

    @contextmanager
    def client(self) -> Iterator[stomp.Connection12]:
        """A connection as PanDA has one."""
        connection = stomp.Connection12(
            [("127.0.0.1", self.port)], auto_decode=False, reconnect_attempts_max=1
        )
        connection.connect(USER, PASSWORD, wait=True)
        try:
            yield connection
        finally:
            connection.disconnect()

    def send(self, destination: str, *bodies: bytes) -> None:
        """Send messages; all are on the broker's disk afterwards."""
        confirmed: Queue[Any] = Queue()

        class Listener(stomp.ConnectionListener):
            def on_receipt(self, frame: Any) -> None:
                confirmed.put(frame)

        with self.client() as connection:
            connection.set_listener("test", Listener())
            for number, body in enumerate(bodies):
                headers = {"persistent": "true", "receipt": str(number)}
                connection.send(destination, body, headers=headers)
                confirmed.get(timeout=PATIENCE)

    @contextmanager
    def messages(self, destination: str) -> Iterator[Queue[Any]]:
        """Frames of a queue as they come, each acknowledged."""
        frames: Queue[Any] = Queue()

        class Listener(stomp.ConnectionListener):
            def on_message(self, frame: Any) -> None:
                frames.put(frame)

        with self.client() as connection:
            connection.set_listener("test", Listener())
            connection.subscribe(destination, id="test", ack="auto")
            yield frames
