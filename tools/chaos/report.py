"""The emulator's ledger against Airflow's task instances: who has paid how often, and what came of it."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from magichour_provider.task.record import KEY, Record
from tools.stack import ROOT, Stack

from .killer import Killer

STUB = ROOT / "magichour_provider/emulator/stub.mp4"
UNCERTAIN = re.compile(r'"exc_type": ?"SubmissionUncertain", ?"exc_value": ?"(.+?)(?:\\n|")')
ERROR = re.compile(r'"exc_value": ?"(.+?)(?:\\n|")')
DELIVERED = "delivered"
SAID, UNSAID = "uncertain, and says so", "uncertain by the journal, tries used up"
UNPAID, ON_ITS_WAY = "tries used up, nothing paid", "tries used up, the job is in the journal"
LOST, GIVEN_UP, STUCK = "LOST", "GIVEN UP WITH TRIES LEFT", "NOT ENDED"
NOT_HEALED = "UNCERTAIN, THOUGH ITS JOB SENT EVENTS"
WRONG = (LOST, GIVEN_UP, STUCK, NOT_HEALED)


@dataclass
class Instance:
    """One mapped task instance, from all three sides."""

    name: str
    state: str
    tries: int
    tries_left: bool
    record: Record
    webhooks: bool
    video: bytes | None
    logs: list[Path]
    jobs: list[dict[str, Any]] = field(default_factory=list)
    charges: int = 0
    refunds: int = 0

    @property
    def paid(self) -> int:
        return self.charges - self.refunds

    @property
    def is_delivered(self) -> bool:
        return self.video == STUB.read_bytes()

    def said(self, words: re.Pattern[str]) -> str | None:
        """The last of these words in its logs."""
        found = [match for log in self.logs for match in words.findall(log.read_text(errors="replace"))]
        return found[-1] if found else None

    @property
    def outcome(self) -> str:
        if self.state == "success":
            return DELIVERED if self.is_delivered else LOST
        if self.state != "failed":
            return STUCK
        if self.record.lost and self.said(UNCERTAIN):
            has_job = any(job["name"].endswith(self.record.lost.mark) for job in self.jobs)
            return NOT_HEALED if has_job and self.webhooks else SAID
        known = {job.job_id for job in self.record.jobs}
        alive = {job["id"] for job in self.jobs if job["status"] not in ("error", "canceled")}
        if not self.record.lost and not alive <= known:
            return LOST
        if self.tries_left:  # nothing here is an error for good
            return GIVEN_UP
        return UNSAID if self.record.lost else ON_ITS_WAY if self.paid else UNPAID


def instances(stack: Stack, *, webhooks: bool = False) -> list[Instance]:
    journals = {
        row[:3]: row[3]
        for row in stack.database.rows(
            f"select run_id, task_id, map_index, value from task_state_store where key = '{KEY}'"  # noqa: S608
        )
    }
    found = {}
    for run, task, index, state, tries, most in stack.database.rows(
        "select run_id, task_id, map_index, state, try_number, max_tries from task_instance"
    ):
        name = f"{run}/{task}/{index}"
        logs = f"dag_id=chaos/run_id={run}/task_id={task}/map_index={index}/*.log"
        of_hosts = (folder.glob(logs) for folder in (stack.home / "logs", *stack.home.glob("hosts/*/logs")))
        found[name] = Instance(
            name=name,
            state=state,
            tries=tries,
            tries_left=tries <= most,
            record=Record.of(journals.get((run, task, index))),
            webhooks=webhooks,
            video=_video(stack, f"{name}.mp4"),
            logs=sorted(chain.from_iterable(of_hosts), key=lambda log: log.stat().st_mtime),
        )
    for entry in stack.emulator.ledger():
        instance = found[_instance_name(entry)]  # a charge that belongs to nobody ends the report here
        instance.charges += entry["entry_type"] == "charge"
        instance.refunds += entry["entry_type"] == "refund"
    for job in stack.emulator.jobs():
        found[_instance_name(job)].jobs.append(job)
    return [found[name] for name in sorted(found)]


def tell(stack: Stack, killer: Killer, *, webhooks: bool = False) -> bool:
    """
    Print the report; True when nothing was paid twice and nothing is lost.

    :param webhooks: a job whose answer was lost should have found its task by itself.
    """
    found = instances(stack, webhooks=webhooks)
    _table("SIGKILL of", killer.kills)
    _table("When a task or its worker was killed", killer.moments)
    _table("Cut", killer.cuts)
    _table("Instance", Counter(one.outcome for one in found))
    _table("Charges of an instance, less refunds", Counter(str(one.paid) for one in found))
    adopted = sum(intent.outcome == "adopted" for one in found for intent in one.record.intents)
    asking = [one for one in found if one.outcome in (SAID, NOT_HEALED)]
    print(
        f"{adopted} lost answers found their job by an event; {len(asking)} instances need a person, and "
        f"{sum(one.paid > 0 for one in asking)} of them have a paid job"
    )
    refunded = sum(one.refunds for one in found)
    tries = sum(one.tries for one in found)
    charges = sum(one.charges for one in found)
    print(f"{len(found)} instances, {tries} tries, {charges} charges, {refunded} refunds")
    parts = len(list(stack.videos.rglob("*.part")))
    print(f"{parts} temporary files left over from downloads that were killed")
    for one in found:
        if one.outcome == SAID:
            print(f"  {one.name}: {one.paid} charge(s); {one.said(UNCERTAIN)}")
        elif one.outcome != DELIVERED:
            print(f"  {one.name}: {one.outcome}; {one.paid} charge(s), {one.tries} tries; {one.said(ERROR)}")
    wrong = [one for one in found if one.paid > 1 or one.outcome in WRONG]
    for one in wrong:
        print(f"WRONG {one.name}: {one.outcome}, {one.charges} charges, {one.refunds} refunds; {one.record}")
    print("\nNothing paid twice, nothing lost." if not wrong else f"\n{len(wrong)} WRONG.")
    return not wrong


def _video(stack: Stack, name: str) -> bytes | None:
    if "S3" in stack.services:
        found: bytes | None = stack.services["S3"].read(name)
        return found
    path = stack.videos / name
    return path.read_bytes() if path.is_file() else None


def _instance_name(entry: dict[str, Any]) -> str:
    return str(entry["name"]).partition(" [mh-")[0]


def _table(title: str, counts: Counter[str]) -> None:
    width = max(map(len, (title, "total", *counts)))
    print(f"\n| {title:{width}} | number |\n|{'-' * (width + 2)}|-------:|")
    for what, number in (*sorted(counts.items(), key=lambda count: -count[1]), ("total", counts.total())):
        print(f"| {what:{width}} | {number:6} |")
    print()
