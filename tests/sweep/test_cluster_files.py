"""cluster.yaml and deploy/: as valid as can be told without a cloud. Ray's own check, pinned versions, commands that our command line has."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from sweep.cli import app
from sweep.cluster_commands import SHARED_STORAGE
from sweep.job_folder import ENVIRONMENT

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
CLUSTERS = [ROOT / "cluster.yaml", DEPLOY / "cluster-local.yaml"]
IMAGE = re.compile(r"rayproject/ray:(\d+\.\d+\.\d+)-py(\d)(\d+)-gpu")


def read(path: Path) -> dict:
    return yaml.safe_load(path.read_text())


def pinned() -> dict[str, str]:
    lines = [line for line in (DEPLOY / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("==") for line in lines)


def parsed(command: str) -> dict:
    """The options of a `python -m sweep ...` in a shell command, as our command line reads them. Raises where it would refuse them."""
    import typer

    words = shlex.split(command)
    name, *arguments = words[words.index("sweep") + 1 :]
    return typer.main.get_command(app).commands[name].make_context(name, arguments, resilient_parsing=False).params


@pytest.mark.parametrize("path", CLUSTERS, ids=lambda path: path.name)
def test_ray_accepts_the_cluster_file(path):
    from ray.autoscaler._private.util import fillout_defaults, validate_config

    config = fillout_defaults(read(path))
    validate_config(config)
    with pytest.raises(Exception, match="nonsense"):  # the check is one
        validate_config({**config, "nonsense": 1})


@pytest.mark.parametrize("path", CLUSTERS, ids=lambda path: path.name)
def test_the_head_runs_no_trial_and_gpu_nodes_come_only_when_wanted(path):
    config = read(path)
    nodes = config["available_node_types"]
    head = nodes.pop(config["head_node_type"])
    assert head["resources"] == {"CPU": 0} and "spot" not in str(head)
    assert all(node["min_workers"] == 0 and 0 < node["max_workers"] <= config["max_workers"] and node["resources"]["GPU"] for node in nodes.values())
    start = " ".join(config["head_start_ray_commands"])
    assert "--num-cpus=0" in start and "--autoscaling-config=" in start


def test_spot_nodes_are_taken_before_on_demand_ones():
    nodes = read(ROOT / "cluster.yaml")["available_node_types"]
    spot = {name for name, node in nodes.items() if node["node_config"].get("InstanceMarketOptions", {}).get("MarketType") == "spot"}
    on_demand = {name for name, node in nodes.items() if "GPU" in node["resources"]} - spot
    assert min(nodes[name]["priority"] for name in spot) > max(nodes[name]["priority"] for name in on_demand)
    assert "--env RAY_enable_autoscaler_v2=1" in read(ROOT / "cluster.yaml")["docker"]["run_options"]  # v1 knows of no priorities


@pytest.mark.parametrize("path", CLUSTERS, ids=lambda path: path.name)
def test_the_job_server_listens_on_loopback_and_asks_for_a_token(path):
    config = read(path)
    assert "0.0.0.0" not in " ".join(config["head_start_ray_commands"])
    assert "--dashboard-host=127.0.0.1" in " ".join(config["head_start_ray_commands"])
    assert "--env RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    token = next(place for place, ours in config["file_mounts"].items() if ours == "~/.ray/auth_token")
    assert f"--env RAY_AUTH_TOKEN_PATH={token}" in config["docker"]["run_options"]


@pytest.mark.parametrize("path", CLUSTERS, ids=lambda path: path.name)
def test_nodes_share_the_storage_that_submit_uses_and_the_models(path):
    config = read(path)
    options = config["docker"]["run_options"]
    assert f"--volume {SHARED_STORAGE}:{SHARED_STORAGE}" in options
    assert sum(option.startswith(("--env HF_HOME=", "--env TORCH_HOME=")) and f"={SHARED_STORAGE}/" in option for option in options) == 2
    assert any(f"mountpoint -q {SHARED_STORAGE}" in command for command in config["initialization_commands"])
    assert all((ROOT / ours).exists() for ours in config["file_mounts"].values() if not ours.startswith("~"))


def test_every_file_names_the_same_ray_and_python_and_installs_what_the_project_needs():
    texts = {path.name: path.read_text() for path in (*CLUSTERS, DEPLOY / "Dockerfile", DEPLOY / "kuberay.yaml")}
    images = {match.groups() for text in texts.values() for match in IMAGE.finditer(text)}
    assert images == {(pinned()["ray"], "3", "11")}
    assert read_kuberay()[0]["spec"]["rayClusterSpec"]["rayVersion"] == pinned()["ray"]
    project = re.search(r"\ndependencies = \[(.*?)\n\]", (ROOT / "pyproject.toml").read_text(), re.DOTALL)[1]
    needed = [Requirement(text) for text in re.findall(r'^ +"([^"]+)"', project, re.MULTILINE)]
    assert {one.name for one in needed} == set(pinned())
    assert all(one.specifier.contains(pinned()[one.name]) for one in needed)
    for name in ("cluster.yaml", "cluster-local.yaml", "Dockerfile"):
        assert all(re.search(rf'[\s"]{re.escape(one.name)}[\s"\[]', texts[name]) for one in needed), name


def read_kuberay() -> list[dict]:
    return list(yaml.safe_load_all((DEPLOY / "kuberay.yaml").read_text()))


def test_the_rayjob_runs_a_launch_that_a_retry_goes_on_with():
    job, claim = read_kuberay()
    spec = job["spec"]
    launch = parsed(spec["entrypoint"])
    assert launch["address"] == "auto" and str(launch["storage"]) == SHARED_STORAGE and launch["name"] and launch["device"] == "cuda"
    assert spec["backoffLimit"] > 0 and spec["shutdownAfterJobFinishes"]
    assert yaml.safe_load(spec["runtimeEnvYAML"])["env_vars"] == ENVIRONMENT
    cluster = spec["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"} and cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert "dashboard-host" not in str(cluster)
    for template in (cluster["headGroupSpec"]["template"], *(group["template"] for group in cluster["workerGroupSpecs"])):
        (container,) = template["spec"]["containers"]
        places = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
        assert places["sweeps"] == SHARED_STORAGE and set(places) == set(volumes)
        assert volumes["sweeps"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        assert str(launch["study_file"]).startswith(places["study"])
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]


def test_the_slurm_script_is_bash_and_runs_a_launch_through_ray():
    script = DEPLOY / "slurm.sh"
    subprocess.run(["bash", "-n", script], check=True)
    text = script.read_text().replace("\\\n", " ")
    (line,) = [line for line in text.splitlines() if "symmetric-run" in line and "srun" in line]
    for_ray, ours = line.split(" -- ")
    launch = parsed(ours.replace('"$study"', "study.py").replace('"$storage"', "/shared").replace('"$@"', "--samples 3"))
    assert launch["address"] == "auto" and str(launch["storage"]) == "/shared" and launch["samples"] == 3
    assert "export RAY_AUTH_MODE=token" in text and "0.0.0.0" not in text
    assert ray_takes(shlex.split(re.sub(r'"\$[^"]*"', "1", for_ray.split("symmetric-run")[1])))


def ray_takes(arguments: list[str]) -> bool:
    """Whether `ray symmetric-run` and the `ray start` that it calls know every option."""
    from ray.scripts.scripts import start
    from ray.scripts.symmetric_run import curate_and_validate_ray_start_args

    left = curate_and_validate_ray_start_args(["--address=h:1", *arguments[2:]])
    known = {name for parameter in start.params for name in (*parameter.opts, *parameter.secondary_opts)}
    return bool(left) and all(option.split("=")[0] in known for option in left)


def test_the_slurm_script_says_how_it_is_called_where_no_study_is_named():
    finished = subprocess.run(["bash", DEPLOY / "slurm.sh"], capture_output=True, text=True)
    assert finished.returncode != 0 and "usage: sbatch" in finished.stderr
