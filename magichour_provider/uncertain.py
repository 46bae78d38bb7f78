"""
``python -m magichour_provider uncertain``: lists the paid calls with a lost answer, and settles many at once.

It uses Airflow's public REST API, so it runs on any machine. It writes the reports of a person under the key
``magichour_reported``, which the tasks read. It never changes their journals. It needs Airflow 3.3 or newer.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple, Self
from urllib.parse import quote

import httpx
from airflow.providers.common.compat.sdk import Connection

from magichour_provider.api import wire
from magichour_provider.api.client import MagicHourClient, Settings
from magichour_provider.api.events import mark
from magichour_provider.connection import settings_from_connection
from magichour_provider.exceptions import InvalidInput, JournalUnavailable, NotFound
from magichour_provider.hooks import MagicHourHook
from magichour_provider.task.record import KEY, Intent, Record, Report
from magichour_provider.task.stores import REPORTED_KEY
from magichour_provider.text import clean

# States in which no try of a task is active, and an answer may be lost.
STATES = ("failed", "up_for_retry", "awaiting_input", "removed")
PAGE = 100  # the number of task instances in one answer; Airflow returns no more
PARALLEL_REQUESTS = 8
PAY_AGAIN = "pay again"


def add_command(commands: Any) -> None:
    """
    Add the command ``uncertain``.

    :param commands: the result of ``add_subparsers``.
    """
    command = commands.add_parser(
        "uncertain",
        help="list the paid calls with a lost answer, and settle many at once",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument(
        "file",
        nargs="?",
        help="CSV with short id and job id, or 'pay again' instead of the job id; '-' is standard input. "
        "Free calls check each line. Without a file, the open calls are listed",
    )
    command.add_argument(
        "--apply", action="store_true", help="write the valid lines; without it, nothing is written"
    )
    command.add_argument("--csv", action="store_true", help="list as CSV, so that you can add the job ids")
    command.add_argument(
        "--dag", action="append", metavar="ID", help="only calls of this DAG; may be repeated"
    )
    command.add_argument("--url", default=os.environ.get("AIRFLOW_URL"), help="Airflow's URL ($AIRFLOW_URL)")
    command.add_argument(
        "--token", default=os.environ.get("AIRFLOW_TOKEN"), help="token of its API ($AIRFLOW_TOKEN)"
    )
    command.add_argument(
        "--magichour-url",
        default=wire.BASE_URL,
        help="the API that gets $MAGICHOUR_API_KEY (%(default)s). Without this variable, the Airflow "
        "connection of each paid call is used",
    )
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """
    Run the command, and return the exit code.

    :raises MagicHourError: says what cannot be used; nothing was written.
    """
    answers = read(options.file) if options.file else []
    with AirflowClient(options.url, options.token) as airflow:
        lost = list(airflow.lost_answers(options.dag))
        if options.file:
            with ClientCache(options.magichour_url) as clients:
                return settle(airflow, lost, answers, clients, apply=options.apply)
    if options.csv:
        _write_csv(lost)
    else:
        _print_table(lost)
    return 0


class Task(NamedTuple):
    """The address of a task instance in Airflow."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int

    def __str__(self) -> str:
        mapped = f"[{self.map_index}]" if self.map_index >= 0 else ""
        return clean(f"{self.dag_id} / {self.run_id} / {self.task_id}{mapped}")

    @property
    def store(self) -> str:
        """The path of its state store."""
        dag, run, task = (quote(part, safe="") for part in self[:3])
        return f"dags/{dag}/dagRuns/{run}/taskInstances/{task}/state-store"

    def log(self, try_number: int) -> str:
        """The path of a try's log in Airflow's UI."""
        dag, run, task = (quote(part, safe="") for part in self[:3])
        mapped = f"/mapped/{self.map_index}" if self.map_index >= 0 else ""
        return f"dags/{dag}/runs/{run}/tasks/{task}{mapped}?try_number={try_number}"


@dataclass(frozen=True)
class Lost:
    """
    A paid call with a lost answer.

    :ivar state: the state of the task instance.
    :ivar reports: the earlier reports about the call.
    :ivar log: the URL of the log of the try that made the call.
    """

    task: Task
    intent: Intent
    state: str
    reports: list[Report]
    log: str


class AirflowClient:
    """A client of Airflow's public REST API."""

    def __init__(self, url: str | None, token: str | None) -> None:
        """
        :raises InvalidInput: the address or the token is missing or wrong, or Airflow is too old.
        """
        if not url or not token:
            name, what = ("AIRFLOW_TOKEN", "a token of its API") if url else ("AIRFLOW_URL", "its address")
            raise InvalidInput(f"{name} is not set: put {what} there, or use --url and --token")
        self.url = url.rstrip("/")
        self._client = httpx.Client(
            base_url=f"{self.url}/api/v2/", headers={"Authorization": f"Bearer {token.strip()}"}, timeout=30
        )
        about = self._ask("GET", "version")
        version = str(about.get("version")) if isinstance(about, dict) else "not Airflow"
        if [int(part) for part in version.split(".")[:2] if part.isdigit()] < [3, 3]:
            raise InvalidInput.of(
                "AIRFLOW_URL",
                self.url,
                f"its version is {version}, and this needs Airflow 3.3 or newer; use the commands in each "
                "task's log",
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def lost_answers(self, dag_ids: list[str] | None = None) -> Iterator[Lost]:
        """
        All open calls that the user of the token may see, sorted by DAG, run and task.

        Airflow's API cannot search the state store, so this reads the store of each stopped task instance.
        """
        stopped = sorted(self._stopped(dag_ids).items())
        with ThreadPoolExecutor(PARALLEL_REQUESTS) as pool:
            stores = pool.map(self._read, [task for task, _ in stopped])
            for (task, state), store in zip(stopped, stores, strict=True):
                try:
                    intents = Record.of(store.get(KEY)).intents
                except JournalUnavailable as error:
                    print(f"warning: {task}: {error}", file=sys.stderr)
                    continue
                for intent in intents:
                    if intent.outcome == "open":
                        reports = Report.all_of(store.get(REPORTED_KEY), intent.short_id)
                        yield Lost(task, intent, state, reports, f"{self.url}/{task.log(intent.try_number)}")

    def report(self, task: Task, short_id: str, report: Report) -> None:
        """Add a report after the others, unless one of them says the same."""
        written = self._read(task).get(REPORTED_KEY)
        if any(report.says_the_same_as(other) for other in Report.all_of(written, short_id)):
            return
        reported = written if isinstance(written, dict) else {}
        known = reported.get(short_id, [])
        new = report.model_dump(mode="json", exclude_none=True)
        value = {**reported, short_id: [*(known if isinstance(known, list) else [known]), new]}
        self._ask(
            "PUT",
            f"{task.store}/{REPORTED_KEY}",
            params={"map_index": task.map_index},
            json={"value": value, "expires_at": None},
        )

    def _stopped(self, dag_ids: list[str] | None) -> dict[Task, str]:
        """The task instances without an active try, with their states."""
        found: dict[Task, str] = {}
        body: dict[str, Any] = {"state": STATES, "dag_ids": dag_ids, "page_limit": PAGE, "order_by": "id"}
        offset, total = 0, 1
        while offset < total:
            page = self._ask(
                "POST", "dags/~/dagRuns/~/taskInstances/list", json=body | {"page_offset": offset}
            )
            for one in page["task_instances"]:
                task = Task(one["dag_id"], one["dag_run_id"], one["task_id"], one["map_index"])
                found[task] = one["state"]
            total = page["total_entries"]
            offset += len(page["task_instances"]) or total
        return found

    def _read(self, task: Task) -> dict[str, Any]:
        """The state store of a task."""
        store = self._ask("GET", task.store, params={"map_index": task.map_index, "limit": PAGE})
        return {entry["key"]: entry["value"] for entry in store["task_state_store"]}

    def _ask(self, method: str, path: str, **options: Any) -> Any:
        try:
            answer = self._client.request(method, path, **options)
            if answer.is_success:
                return answer.json() if answer.content else {}
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            raise InvalidInput.of(
                "AIRFLOW_URL",
                self.url,
                f"Airflow's API does not answer there ({clean(str(error))}); check the address",
            ) from error
        if answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            raise InvalidInput(
                f"AIRFLOW_TOKEN: it is not valid, or its user may not {method} {path}; make a new token, "
                "of a user who may"
            )
        raise InvalidInput.of(
            "AIRFLOW_URL",
            self.url,
            f"it answered {answer.status_code} to {method} {path}: {clean(answer.text)}",
        )


class Answer(NamedTuple):
    """One line of the file: what a person says about one paid call."""

    line: int
    short_id: str
    report: Report


def read(path: str) -> list[Answer]:
    """
    Read the lines of a CSV file. If the first line has names, ``short_id`` and ``job_id`` may be any columns,
    and lines without a job id are skipped. Otherwise they are the first two columns.

    :raises InvalidInput: names the line, the field, the value and the remedy; nothing was sent.
    """
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text("utf-8-sig")
        reader = csv.reader(text.splitlines())
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except (OSError, UnicodeError, csv.Error) as error:
        raise InvalidInput.of("file", path, f"cannot be read as CSV in UTF-8 ({error})") from error
    rows = [(line, cells) for line, cells in rows if any(cells) and not cells[0].startswith("#")]
    names = [name.lower() for name in rows[0][1]] if rows else []
    has_names = "short_id" in names and "job_id" in names
    columns = [names.index("short_id"), names.index("job_id")] if has_names else [0, 1]
    found: list[Answer] = []
    for line, cells in rows[has_names:]:
        short_id, job_id = (cells[column] if column < len(cells) else "" for column in columns)
        # A row of the --csv list without a job id was not filled in.
        if job_id or not has_names:
            found.append(_answer(line, short_id, job_id, found))
    return found


def _answer(line: int, short_id: str, job_id: str, before: Iterable[Answer]) -> Answer:
    def bad(field: str, value: str, problem: str) -> InvalidInput:
        return InvalidInput(f"line {line}, {InvalidInput.of(field, value, problem)}")

    short_id = short_id.lower().removeprefix("[").removesuffix("]").removeprefix("mh-")
    if len(short_id) != 8 or not set(short_id) <= set("0123456789abcdef"):
        raise bad("short_id", short_id, "is not the 8 digits and letters of a short id, such as 1a2b3c4d")
    if not job_id:
        raise bad("job_id", job_id, f"is empty; write the id of the job, or '{PAY_AGAIN}'")
    now = datetime.now(UTC)
    pay_again = " ".join(job_id.lower().replace("_", " ").split()) == PAY_AGAIN
    report = Report(at=now, pay_again=True) if pay_again else Report(at=now, job_id=job_id)
    for other in before:
        if other.short_id == short_id:
            raise bad("short_id", short_id, f"is in line {other.line} too; keep one of the two lines")
        if report.job_id is not None and other.report.job_id == report.job_id:
            raise bad("job_id", job_id, f"is in line {other.line} too; a job belongs to one paid call")
    return Answer(line, short_id, report)


class ClientCache:
    """
    The clients of Magic Hour, one for each connection that paid a call.

    :param url: the API that gets MAGICHOUR_API_KEY. An address from a journal never gets the key.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._key = os.environ.get("MAGICHOUR_API_KEY")
        self._clients: dict[str, tuple[str, MagicHourClient]] = {}
        self._lock = Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for client in self._clients.values():
            client[1].close()

    def of(self, intent: Intent) -> MagicHourClient:
        """
        The client for the account that paid a call.

        :raises InvalidInput: the call was paid on another host, or the connection cannot be used.
        """
        conn_id = intent.conn_id or MagicHourHook.default_conn_name
        with self._lock:
            if conn_id not in self._clients:
                settings = self._settings(conn_id)
                self._clients[conn_id] = settings.base_url, MagicHourClient(settings)
        known, client = self._clients[conn_id]
        if intent.host in (None, known):
            return client
        why = "MAGICHOUR_API_KEY is for {}; give --magichour-url"
        if not self._key:
            why = f"the connection {conn_id!r} now names {{}}; point it back"
        raise InvalidInput(f"it was paid on {intent.host}, and {why.format(known)}")

    def _settings(self, conn_id: str) -> Settings:
        if not self._key:
            return MagicHourHook(conn_id).settings
        return settings_from_connection(
            Connection(conn_id="MAGICHOUR_API_KEY", conn_type="magichour", password=self._key, host=self._url)
        )


def settle(
    airflow: AirflowClient,
    lost: Iterable[Lost],
    answers: list[Answer],
    clients: ClientCache,
    *,
    apply: bool,
) -> int:
    """
    Check each answer with free calls. With ``apply``, write the valid answers.

    :returns: the exit code: 1 if an answer is not valid.
    :raises MagicHourError: Magic Hour or Airflow could not be reached.
    """
    by_short_id = {one.intent.short_id: one for one in lost}

    def check(answer: Answer) -> str | None:
        known = by_short_id.get(answer.short_id)
        if known is None:
            return (
                "no stopped task has an open call with this short id; the call may be settled already, or "
                "its task may be running"
            )
        return why_not(answer.report, known, clients)

    valid: list[tuple[Lost, Report]] = []
    with ThreadPoolExecutor(PARALLEL_REQUESTS) as pool:
        for answer, problem in zip(answers, pool.map(check, answers), strict=True):
            what = PAY_AGAIN if answer.report.pay_again else f"adopt {answer.report.job_id}"
            result = f"not valid, {problem}"
            if not problem:
                found = by_short_id[answer.short_id]
                valid.append((found, answer.report.model_copy(update={"conn_id": found.intent.conn_id})))
                result = f"valid, for {found.task}"
            print(f"line {answer.line}: {answer.short_id}, {what}: {result}")
    if apply:
        for known, report in valid:
            airflow.report(known.task, known.intent.short_id, report)
    again = [known.intent for known, report in valid if report.pay_again]
    print(f"{len(valid)} of {len(answers)} are valid; {len(again)} pay again, {_at_stake(again)}.")
    print(
        "The reports are written. Now clear the failed tasks: they read the reports and continue. A task "
        "that waits for a person reads them within one hour."
        if apply
        else "Nothing is written yet. --apply writes the valid lines."
    )
    return 0 if len(valid) == len(answers) else 1


def why_not(report: Report, lost: Lost, clients: ClientCache) -> str | None:
    """
    Why a task would not accept or not read this report, as the end of a sentence; or None.

    :raises MagicHourError: Magic Hour could not be reached.
    """
    for known in lost.reports:  # a task accepts the first valid report
        if known.pay_again and not report.pay_again:
            return f"'{PAY_AGAIN}' is reported already and counts; delete the task's key {REPORTED_KEY} first"
        if report.pay_again and known.job_id and _why_not_its_job(known, lost.intent, clients) is None:
            return (
                f"job {known.job_id} is reported already, and is the job of this call; clear the task, which "
                "adopts it"
            )
    return None if report.pay_again else _why_not_its_job(report, lost.intent, clients)


def _why_not_its_job(report: Report, intent: Intent, clients: ClientCache) -> str | None:
    try:
        job = clients.of(intent).get(str(report.job_id), intent.job_type)
    except NotFound:
        return f"the account has no {intent.job_type} job {report.job_id}; check the id and the key"
    except InvalidInput as error:
        return str(error)
    wrong = report.why_not(intent, job)
    return f"job {report.job_id} is not the job of this call: {wrong}" if wrong else None


def _print_table(lost: list[Lost]) -> None:
    line = "{:8}  {:19}  {:>3}  {:>7}  {:14}  {:12}  {}"
    print(line.format("short id", "sent (UTC)", "try", "credits", "state", "reported", "task"))
    for one in lost:
        intent = one.intent
        estimate = "?" if intent.estimated_credits is None else f"{intent.estimated_credits:g}"
        print(
            line.format(
                intent.short_id,
                f"{intent.at.astimezone(UTC):%Y-%m-%d %H:%M:%S}",
                intent.try_number,
                estimate,
                one.state,
                clean(_shown(one.reports)) or "-",
                one.task,
            )
        )
    print(
        f"{len(lost)} open, {_at_stake([one.intent for one in lost])}. The log of the try may have the "
        f"id. The name of the job ends in {mark('<short id>')}: {wire.LIBRARY_URL}"
    )


def _write_csv(lost: list[Lost]) -> None:
    names = "short_id,job_id,sent_at,try_number,credits,state,reported,dag_id,run_id,task_id,map_index,log"
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(names.split(","))
    for one in lost:
        intent = one.intent
        table.writerow(
            [
                intent.short_id,
                "",
                f"{intent.at:%Y-%m-%dT%H:%M:%SZ}",
                intent.try_number,
                intent.estimated_credits,
                one.state,
                _shown(one.reports),
                *one.task,
                one.log,
            ]
        )


def _shown(reports: Iterable[Report]) -> str:
    return " ".join(PAY_AGAIN if one.pay_again else str(one.job_id) for one in reports)


def _at_stake(intents: list[Intent]) -> str:
    known = sum(intent.estimated_credits or 0 for intent in intents)
    return f"about {known:g} credits at stake"
