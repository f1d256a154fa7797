#!/usr/bin/env bash
# Trains on two nodes with eight GPUs each under Slurm: one `accelerate launch` per node.
#
# Launch:    sbatch scripts/slurm_2x8.sh CONFIG.yaml [--set section.key=value ...]
# Other shapes: sbatch --nodes=4 --gpus-per-node=4 scripts/slurm_2x8.sh CONFIG.yaml
# The same command goes on from the last checkpoint (checkpoint.every).
#SBATCH --job-name=memsieve
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --output=slurm-%j.out
#SBATCH --signal=TERM@300 # before the time limit: the run saves, and the same command goes on
set -euo pipefail
if [[ $# -lt 1 ]]; then
    echo "usage: sbatch scripts/slurm_2x8.sh CONFIG.yaml [--set section.key=value ...]" >&2
    exit 2
fi
cd "${SLURM_SUBMIT_DIR:-.}"

# The launcher kills its ranks so many seconds after a SIGTERM; a window and a checkpoint must fit.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=290

export MEMSIEVE_HEAD MEMSIEVE_PORT MEMSIEVE_PROCESSES
MEMSIEVE_HEAD="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"
MEMSIEVE_PORT=$((20000 + SLURM_JOB_ID % 10000))
MEMSIEVE_PROCESSES=$((SLURM_NNODES * ${SLURM_GPUS_ON_NODE:-8}))

# shellcheck disable=SC2016 # expanded on each node, where SLURM_NODEID is its rank
exec srun --kill-on-bad-exit=1 bash -c 'exec accelerate launch \
    --config_file configs/accelerate/zero2_2x8gpu.yaml \
    --num_machines "$SLURM_NNODES" --num_processes "$MEMSIEVE_PROCESSES" --machine_rank "$SLURM_NODEID" \
    --main_process_ip "$MEMSIEVE_HEAD" --main_process_port "$MEMSIEVE_PORT" -m memsieve.train "$@"' train "$@"
