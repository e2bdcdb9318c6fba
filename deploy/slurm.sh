#!/usr/bin/env bash
# A study on SLURM nodes: Ray starts on all of them, the study runs on the first, and Ray ends with it.
#
#     sbatch deploy/slurm.sh search_spaces/captions.py [options of `sweep launch`]
#
# Sent again, or requeued after a preemption, it goes on where its records stop. Fill in what is marked FILL IN.
#SBATCH --job-name=lora-sweep
#SBATCH --nodes=2                 # FILL IN
#SBATCH --ntasks-per-node=1       # one Ray per node, which sees all of its GPUs
#SBATCH --gpus-per-node=4         # FILL IN
#SBATCH --cpus-per-task=16        # FILL IN
#SBATCH --exclusive               # at its end `ray symmetric-run` stops every Ray of yours on the node
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

study=${1:?"usage: sbatch deploy/slurm.sh STUDY.py [options of sweep launch]"}
shift

storage=${SWEEP_STORAGE:-$HOME/sweeps}   # FILL IN: a folder that all nodes see
port=${SWEEP_RAY_PORT:-6379}
source "${SWEEP_VENV:-.venv}/bin/activate"

# Models lie where all nodes see them; compute nodes often have no network.
export HF_HOME=${HF_HOME:-$storage/.cache/huggingface} TORCH_HOME=${TORCH_HOME:-$storage/.cache/torch}

# Others have jobs on this network, too. The token lies in ~/.ray/auth_token, in no command line.
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
(umask 077 && ray get-auth-token --generate > /dev/null)

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" \
    ray symmetric-run --address "$head:$port" --min-nodes "$SLURM_JOB_NUM_NODES" \
    --num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="$SLURM_GPUS_ON_NODE" --include-dashboard=false -- \
    python -u -m sweep launch "$study" --address auto --storage "$storage" --device cuda "$@"
