"""The emulator's ledger against Airflow's task instances: who has paid how often, and what came of it."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .killer import Killer
from .stack import ROOT, Stack

STUB = ROOT / "magichour_provider/emulator/stub.mp4"
UNCERTAIN = re.compile(r"SubmissionUncertain: (.+?)(?:\\n|\")")
DELIVERED, ON_ITS_WAY = "delivered", "paid, not delivered, in the journal"
SAID, UNSAID = "uncertain, and says so", "uncertain by the journal, tries used up"
UNPAID, LOST, STUCK = "failed, nothing paid", "LOST", "NOT ENDED"


@dataclass
class Instance:
    """One mapped task instance, from all three sides."""

    name: str
    state: str
    tries: int
    journal: dict[str, Any]
    video: Path
    logs: list[Path]
    jobs: list[dict[str, Any]] = field(default_factory=list)
    charges: int = 0
    refunds: int = 0

    @property
    def paid(self) -> int:
        return self.charges - self.refunds

    @property
    def is_delivered(self) -> bool:
        return self.video.is_file() and self.video.read_bytes() == STUB.read_bytes()

    @property
    def error(self) -> str | None:
        """What its log says of an uncertain submission."""
        found = [UNCERTAIN.search(log.read_text(errors="replace")) for log in self.logs]
        return next((match.group(1) for match in found if match), None)

    @property
    def outcome(self) -> str:
        if self.state == "success":
            return DELIVERED if self.is_delivered else LOST
        if self.state != "failed":
            return STUCK
        if "intent" in self.journal:
            return SAID if self.error else UNSAID
        known = {job["job_id"] for job in self.journal.get("jobs", [])}
        if not self.paid:
            return UNPAID
        alive = {job["id"] for job in self.jobs if job["status"] not in ("error", "canceled")}
        return ON_ITS_WAY if alive <= known else LOST


def instances(stack: Stack) -> list[Instance]:
    journals = {
        row[:3]: json.loads(row[3])
        for row in stack.database.rows("select run_id, task_id, map_index, value from task_state_store")
    }
    found = {}
    for run, task, index, state, tries in stack.database.rows(
        "select run_id, task_id, map_index, state, try_number from task_instance"
    ):
        name = f"{run}/{task}/{index}"
        logs = stack.home / f"logs/dag_id=chaos/run_id={run}/task_id={task}/map_index={index}"
        found[name] = Instance(
            name=name,
            state=state,
            tries=tries,
            journal=journals.get((run, task, index), {}),
            video=stack.videos / f"{name}.mp4",
            logs=sorted(logs.glob("*.log")),
        )
    for entry in stack.emulator.ledger():
        instance = found[_instance_name(entry)]  # a charge that belongs to nobody ends the report here
        instance.charges += entry["kind"] == "charge"
        instance.refunds += entry["kind"] == "refund"
    for job in stack.emulator.jobs():
        found[_instance_name(job)].jobs.append(job)
    return [found[name] for name in sorted(found)]


def tell(stack: Stack, killer: Killer) -> bool:
    """Print the report; True when nothing was paid twice and nothing is lost."""
    found = instances(stack)
    _table("SIGKILL of", killer.kills)
    _table("When a task or its worker was killed", killer.moments)
    _table("Cut", killer.cuts)
    _table("Instance", Counter(one.outcome for one in found))
    _table("Charges of an instance, less refunds", Counter(str(one.paid) for one in found))
    refunded = sum(one.refunds for one in found)
    tries = sum(one.tries for one in found)
    charges = sum(one.charges for one in found)
    print(f"{len(found)} instances, {tries} tries, {charges} charges, {refunded} refunds")
    parts = len(list(stack.videos.rglob("*.part")))
    print(f"{parts} temporary files left over from downloads that were killed")
    for one in found:
        if one.outcome == SAID:
            print(f"  {one.name}: {one.paid} charge(s); {one.error}")
        elif one.outcome != DELIVERED:
            print(f"  {one.name}: {one.outcome}; {one.paid} charge(s), {one.tries} tries; {one.journal}")
    wrong = [one for one in found if one.paid > 1 or one.outcome in (LOST, STUCK)]
    for one in wrong:
        print(f"WRONG {one.name}: {one.outcome}, {one.charges} charges, {one.refunds} refunds, {one.jobs}")
    print("\nNothing paid twice, nothing lost." if not wrong else f"\n{len(wrong)} WRONG.")
    return not wrong


def _instance_name(entry: dict[str, Any]) -> str:
    return str(entry["name"]).partition(" [mh-")[0]


def _table(title: str, counts: Counter[str]) -> None:
    width = max(map(len, (title, "total", *counts)))
    print(f"\n| {title:{width}} | number |\n|{'-' * (width + 2)}|-------:|")
    for what, number in (*sorted(counts.items(), key=lambda count: -count[1]), ("total", counts.total())):
        print(f"| {what:{width}} | {number:6} |")
    print()
