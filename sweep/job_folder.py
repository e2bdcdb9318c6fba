"""What a job takes along to a cluster, and the command it runs there: our code and the study's source, in a folder made for it. Neither
photographs nor models nor records.

Ray copies the folder to every node and works in it. Data lies on the storage that the nodes share, so a study may name no folder of this
machine: that is checked before anything is sent."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from sweep.errors import ClusterError
from sweep.parameters import MODEL_PARAMETERS
from sweep.study import Study

PACKAGES = ("sweep", "trainables")
STUDIES = "study"
"""The folder of the study file in the job's: a name that begins with a dash is then no option."""
STOP_PATIENCE_S = 600
"""How long a job that is asked to stop may take to end its trials and write their records, until Ray kills it. Ray's own 3 s lose some."""
ENVIRONMENT = {"RAY_JOB_STOP_SIGNAL": "SIGTERM", "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_PATIENCE_S)}
"""Everybody who may see a job sees these: nothing secret belongs here."""
FOLDER_PARAMETERS = (*MODEL_PARAMETERS, "prior_images")


def fill_job_folder(folder: Path, study: Study) -> str:
    """Put our packages, with the embedded models, and the study file into `folder`; the study file's place in it."""
    home = Path(__file__).resolve().parents[1]
    for package in PACKAGES:
        shutil.copytree(home / package, folder / package, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    study_file = folder / STUDIES / Path(study.file).name
    study_file.parent.mkdir()
    study_file.write_text(study.source, encoding="utf-8")
    return study_file.relative_to(folder).as_posix()


def entrypoint(study_file: str, name: str, storage: str, options: Sequence[str] = ()) -> str:
    """The command line of a job, quoted for the shell that runs it there. `options`: further ones of `sweep launch`."""
    return shlex.join(["python", "-m", "sweep", "launch", study_file, "--address=auto", f"--name={name}", f"--storage={storage}", *options])


def require_reachable(study: Study, storage: str) -> None:
    """Raises: ClusterError where the storage, or a folder that the study names, could only be this machine's."""
    if "://" not in storage and (not PurePosixPath(storage).is_absolute() or ".." in PurePosixPath(storage).parts):
        raise ClusterError(
            f"`--storage` must be a place that all nodes share, as a whole path, but it is {storage!r}. Use e.g. --storage /mnt/sweeps."
        )
    for name, value in _folders(study):
        if not Path(value).is_absolute() and Path(value).exists():
            raise ClusterError(
                f"What a study reads must lie where all nodes see it, but {name} {value!r} is a folder of this machine. "
                f"Copy it to the shared storage and use its whole path, e.g. {name}={storage.rstrip('/')}/{Path(value).name}."
            )


def _folders(study: Study) -> Iterable[tuple[str, str]]:
    """Every value that may be a folder, with the name that sets it."""
    yield "subject", study.subject
    yield from ((metric.partition("=")[0], metric.partition("=")[2]) for metric in study.metrics if "=" in metric)
    for name in FOLDER_PARAMETERS:
        values = {study.values_of(configuration).get(name) for configuration in study.telling_configurations(name)}
        values |= set(study.fan_out.get(name, ()))
        yield from ((name, value) for value in sorted(str(value) for value in values if value))
