"""A Ray cluster as a person sees it from outside: send a study there, follow its log, ask how it stands, stop it. Over Ray Jobs.

A job runs `sweep launch` on the cluster's head; what happens in it is the launch's business, and its records are the truth. Nothing
here starts a node: `ray up cluster.yaml` does. What a job takes along and runs is in job_folder.py, whom to talk to in job_server.py."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp
import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobType

from sweep.errors import ClusterError
from sweep.job_folder import ENVIRONMENT, entrypoint, fill_job_folder, require_reachable
from sweep.job_server import JobServer
from sweep.study import Study

INTERRUPTED_CODE = 130
ASK_EVERY_S = 1.0
LOG_LINES = 8
"""How much of its log the state of a job shows."""


@dataclass(frozen=True)
class Job:
    """A launch of a study on the cluster, as its job server knows it."""

    id: str
    study: str
    storage: str
    state: str  # "pending", "running", "succeeded", "failed", "stopped"
    started_at: float | None  # Unix time
    ended_at: float | None
    exit_code: int | None  # of the launch; None while it runs, and where it never started
    message: str

    @property
    def has_ended(self) -> bool:
        return self.state not in ("pending", "running")

    @property
    def code(self) -> int:
        """The exit code that stands for it here: its own, 130 where it was stopped."""
        if self.state == "succeeded":
            return 0
        return INTERRUPTED_CODE if self.state == "stopped" else self.exit_code or 1


class Cluster:
    """Guarantees: a token is sent to the job server only, in a header, and only where that asks for one; it is in no message, no job and
    no record. Every method raises ClusterError where the job server does not answer, or refuses."""

    def __init__(self, server: JobServer) -> None:
        self.server = server
        with self._errors():
            self._client = server.client()

    def submit(self, study: Study, storage: str, options: Sequence[str] = ()) -> Job:
        """The job that launches the study with its records in `storage`. `options`: further ones of `sweep launch`.

        Raises:
            ClusterError: the study runs there already, or names a folder that only this machine has."""
        require_reachable(study, storage)
        for job in self.jobs():
            if (job.study, job.storage) == (study.name, storage) and not job.has_ended:
                raise ClusterError(
                    f"A study is launched once at a time, but {study.name} is {job.state} as {job.id}. Follow it with `sweep attach {study.name}`, "
                    f"end it with `sweep stop {study.name} --address {self.server.address}`, or use --name."
                )
        job_id = f"{study.name}-{uuid.uuid4().hex[:8]}"  # Ray wants one that it never had
        with TemporaryDirectory(prefix="sweep-job-") as folder, self._errors():
            study_file = fill_job_folder(Path(folder), study)
            self._client.submit_job(
                entrypoint=entrypoint(study_file, study.name, storage, options),
                submission_id=job_id,
                runtime_env={"working_dir": folder, "env_vars": dict(ENVIRONMENT)},
                metadata={"study": study.name, "storage": storage},
            )
        return self.job(job_id)

    def jobs(self) -> list[Job]:
        """Every launch that the cluster remembers, the latest one first."""
        with self._errors():
            details = [one for one in self._client.list_jobs() if one.type is JobType.SUBMISSION and "study" in (one.metadata or {})]
        return sorted((_job(one) for one in details), key=lambda job: job.started_at or 0, reverse=True)

    def find(self, name: str) -> Job:
        """The job of that id, or the latest one of the study of that name."""
        jobs = self.jobs()
        found = next((job for job in jobs if name in (job.id, job.study)), None)
        if found is None:
            there = ", ".join(dict.fromkeys(job.study for job in jobs)) or "none"
            raise ClusterError(f"A study must have been submitted to {self.server.address}, but {name!r} was not. It knows of: {there}.")
        return found

    def job(self, job_id: str) -> Job:
        with self._errors():
            return _job(self._client.get_job_info(job_id))

    def follow(self, job: Job, write: Callable[[str], Any]) -> Job:
        """Write the job's log as it grows, and return when the job has ended. Ctrl+C ends only the following."""
        n_written = 0

        async def tail() -> None:
            nonlocal n_written
            n_seen = 0  # a log that is asked for again begins at its beginning
            async for text in self._client.tail_job_logs(job.id):
                fresh = text[max(0, n_written - n_seen) :]
                n_seen += len(text)
                if fresh:
                    write(fresh)
                    n_written = n_seen

        while True:
            try:
                asyncio.run(tail())
            except (RuntimeError, aiohttp.ClientError):
                pass  # a tunnel that broke; if it does not come back, the next line says so
            latest = self.job(job.id)
            if latest.has_ended:
                write(self._log(job)[n_written:])
                return latest
            time.sleep(ASK_EVERY_S)

    def stop(self, job: Job) -> Job:
        """End the job as `sweep stop --now` would where it runs, and return when it has ended."""
        with self._errors():
            self._client.stop_job(job.id)
        while not (latest := self.job(job.id)).has_ended:
            time.sleep(ASK_EVERY_S)
        return latest

    def last_lines(self, job: Job) -> list[str]:
        """The end of the job's log."""
        return [line for line in self._log(job).splitlines() if line.strip()][-LOG_LINES:]

    def _log(self, job: Job) -> str:
        with self._errors():
            return self._client.get_job_logs(job.id)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except AuthenticationError as error:
            raise ClusterError(
                f"The job server at {self.server.address} must accept the token, but it refuses it. Copy the cluster's into ~/.ray/auth_token, "
                "or to the file that RAY_AUTH_TOKEN_PATH names; `ray get-auth-token` on the head prints it."
            ) from error
        except (requests.RequestException, ConnectionError) as error:
            raise ClusterError(
                f"The job server must answer at {self.server.address}, but it does not any more ({type(error).__name__}). What runs there goes on: "
                "mend the tunnel to it, e.g. with `ray dashboard cluster.yaml`."
            ) from error
        except (RuntimeError, ValueError) as error:
            said = (str(error).strip().splitlines() or [type(error).__name__])[-1][:300]
            raise ClusterError(f"The job server at {self.server.address} must carry the request out, but it says: {said}") from error


def _job(details: JobDetails) -> Job:
    metadata = details.metadata or {}
    message = "" if details.status in (JobStatus.PENDING, JobStatus.RUNNING) else details.message or ""
    return Job(
        id=details.submission_id or "",
        study=metadata.get("study", ""),
        storage=metadata.get("storage", ""),
        state=details.status.value.lower(),
        started_at=None if details.start_time is None else details.start_time / 1000,
        ended_at=None if details.end_time is None else details.end_time / 1000,
        exit_code=details.driver_exit_code,
        message=message.splitlines()[0] if message else "",
    )
