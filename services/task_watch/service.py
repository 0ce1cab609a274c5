"""The task watch service: a thread that updates the tasks and passes their ends on."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from infra.background import BackgroundThread
from infra.settings import Settings
from jobs.store import open_store
from monitoring.canary import follow_canary
from monitoring.site_status import read_site_status
from monitoring.tasks.latest_tasks import LatestTasks, order_by_severity
from monitoring.tasks.waits import WaitWatch
from monitoring.tasks.watch import TaskWatch
from services.task_watch.task_updates import send_task_updates


class TaskWatchService:
    """Updates all tasks every ``dashboard_seconds`` and keeps the result for its readers.

    Args:
        settings: The store, the data folder, and where updates are sent.
        clock: Gives the present (UTC).
    """

    def __init__(
        self, settings: Settings, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self.settings, self.clock = settings, clock
        self.engine = open_store(settings.store_url)
        self.watch, self.waits = TaskWatch(self.engine, settings), WaitWatch(self.engine)
        self.latest = LatestTasks(settings.folder("tasks"))
        self.threads = (
            self._thread("task watch", self.update),
            self._thread("wait predictions", self.predict_waits),
            self._thread("task updates", self.send),
            self._thread("site status", self.read_site),
            *((self._thread("canary", self.follow_canary),) if settings.canary else ()),
        )

    def start(self) -> None:
        """Start the threads."""
        self._write_status("")
        for thread in self.threads:
            thread.start()

    def stop(self) -> None:
        """End the threads after the step that is under way."""
        for thread in self.threads:
            thread.stop()

    def update(self) -> float:
        """Update the tasks and write them for their readers; seconds until the next update."""
        now = self.clock()
        tasks = order_by_severity(self.watch.update(now))
        self.latest.write_activity(self.watch.activity)
        self.latest.write(tasks, now)
        return self.settings.dashboard_seconds

    def predict_waits(self) -> float:
        """Predict and log the waits of new jobs; seconds until the next attempt."""
        self.waits.update(self.clock())
        return self.settings.dashboard_seconds

    def send(self) -> float:
        """Send the production system the new predictions; seconds until the next attempt."""
        send_task_updates(self.engine, self.settings, self.clock())
        return self.settings.dashboard_seconds

    def read_site(self) -> float:
        """Write accuracy, drift, promotions and collectors; seconds until the next time."""
        self.latest.write_site_status(read_site_status(self.engine, self.settings, self.clock()))
        return self.settings.dashboard_seconds

    def follow_canary(self) -> float:
        """Promote or withdraw the canary where its outcomes decide; seconds until the next look."""
        follow_canary(self.engine, self.settings, self.clock())
        return self.settings.dashboard_seconds

    def _thread(self, name: str, step: Callable[[], float]) -> BackgroundThread:
        pause, changed = self.settings.dashboard_seconds, self._write_status
        return BackgroundThread(name, step, changed, pause, 10 * pause, on_recovery=changed)

    def _write_status(self, _: str) -> None:
        self.latest.write_status([thread.status for thread in self.threads])
