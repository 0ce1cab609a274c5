"""Independent pieces of work, done side by side by Dask's workers or one after another here."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack
from typing import Any, TypeVar
from urllib.parse import urlsplit

from infra.aliases import Progress
from infra.errors import InputError
from infra.setting_values import is_loopback
from infra.settings import THREADS

LOCAL, OFF = "local", "off"
CONNECT_SECONDS = 10
NO_PAGES: dict[str, Any] = {
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
}
"""Dask's settings without pages of its scheduler and workers."""
Item = TypeVar("Item")
Result = TypeVar("Result")


class DaskError(InputError):
    """Dask's scheduler or workers cannot be used; the message names GRIDCAST_DASK."""


class Workers(ExitStack):
    """Dask's workers, as GRIDCAST_DASK says; local ones start when first needed, and end with it.

    Args:
        setting: ``local``, ``local:2`` (so many), ``off``, or the address of a scheduler.

    Raises:
        DaskError: The setting is none of these, or an address over which jobs would go unencrypted.
    """

    def __init__(self, setting: str) -> None:
        super().__init__()
        self._setting, self._client = setting, None
        self.local = _local_workers(setting)
        """The number of local workers, 1 for this process alone; None for a scheduler's."""

    def connect(self) -> Any:
        """Return the client of the scheduler, connected; raises DaskError where none answers."""
        if self._client is None:
            self._client = self._connect()
        return self._client

    def map(
        self,
        function: Callable[[Item], Result],
        items: Sequence[Item],
        sizes: Sequence[float] = (),
        progress: Progress | None = None,
    ) -> list[Result]:
        """Call a function with each item and return the results, in the order of the items.

        A single item is computed in this process. What a lost worker computed is computed again by
        another one; the first error of the function ends all.

        Args:
            function: Of a module; the workers import it.
            items: Small ones, such as where to read data.
            sizes: How long each item takes, in any unit; the longest begin first.
            progress: Called with a text and the share that is done.

        Raises:
            DaskError: The scheduler was lost, or several workers died of the same item.
        """
        count = len(items)

        def report(done: int) -> None:
            if progress:
                progress(f"{done} of {count} done", done / count)

        if count < 2 or self.local == 1:
            results = list[Result]()
            for item in items:
                results.append(function(item))
                report(len(results))
            return results
        import distributed

        dask: Any = distributed
        client = self.connect()
        order = sorted(range(count), key=lambda row: -sizes[row] if sizes else 0.0)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sending large graph")
            futures = {client.submit(function, items[row], pure=False): row for row in order}
        by_row: dict[int, Result] = {}
        try:
            for future, result in dask.as_completed(futures, with_results=True):
                by_row[futures[future]] = result
                report(len(by_row))
        except dask.KilledWorker as error:
            raise DaskError(
                f"several Dask workers (GRIDCAST_DASK) died of the same work, as for lack of "
                f"memory: {error}"
            ) from error
        except (CancelledError, dask.comm.CommClosedError) as error:
            raise DaskError(
                f"the Dask scheduler (GRIDCAST_DASK={self._setting}) was lost: {error}"
            ) from error
        finally:
            client.cancel([future for future in futures if not future.done()])
        return [by_row[row] for row in range(count)]

    def _connect(self) -> Any:
        import distributed

        dask: Any = distributed
        logging.getLogger("distributed").setLevel(logging.WARNING)  # it logs every connection
        try:
            if self.local is None:
                client = self.enter_context(dask.Client(self._setting, timeout=CONNECT_SECONDS))
                client.wait_for_workers(1, timeout=CONNECT_SECONDS)
                return client
            # Over TCP without certificates any local account could run code in the workers. Dask
            # opens ports for its pages always, here without any page.
            environment = "distributed.nanny.pre-spawn-environ"
            threads = max((os.cpu_count() or 1) // self.local, 1)
            self.enter_context(
                dask.dask.config.set(
                    {
                        **NO_PAGES,
                        f"{environment}.OMP_NUM_THREADS": threads,
                        # An error of the work is the caller's; Dask would log its traceback.
                        "logging": {"distributed": "error", "distributed.worker": "critical"},
                    }
                )
            )
            cluster = dask.LocalCluster(
                n_workers=self.local,
                threads_per_worker=1,
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",
                worker_dashboard_address="127.0.0.1:0",
                scheduler_kwargs={"dashboard": False},
                security=True,
                silence_logs=logging.ERROR,
            )
            return self.enter_context(dask.Client(self.enter_context(cluster)))
        except TypeError as error:
            raise DaskError(
                f"GRIDCAST_DASK={self._setting} needs certificates: Dask reads them from "
                "DASK_DISTRIBUTED__COMM__TLS__CA_FILE and …__TLS__CLIENT__CERT and __KEY"
            ) from error
        except (OSError, ValueError, ImportError) as error:
            raise DaskError(
                f"no Dask scheduler with a worker answers at {self._setting} (GRIDCAST_DASK): "
                f"{error}"
            ) from error


def _local_workers(setting: str) -> int | None:
    """Return how many local workers a setting wants; None where it is a scheduler's address."""
    name, _, number = setting.partition(":")
    if setting == OFF:
        return 1
    if setting == LOCAL:
        return max((os.cpu_count() or 1) // THREADS, 1)
    if name == LOCAL and number.isdecimal() and int(number):
        return int(number)
    address = urlsplit(setting)
    if address.scheme not in ("tcp", "tls") or not address.hostname:
        raise DaskError(
            f"GRIDCAST_DASK is {setting!r}: local, local:2, off, or the address of a scheduler, "
            "such as tls://host:8786"
        )
    if address.scheme == "tcp" and not is_loopback(address.hostname):
        raise DaskError(
            f"GRIDCAST_DASK={setting} would send jobs unencrypted to a scheduler that takes work "
            "from anybody: give the scheduler certificates, and its address as tls://"
        )
    return None
