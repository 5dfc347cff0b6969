#!/usr/bin/env bash
# Study @NAME@, written by `raystudy slurm`. It is started by sbatch, queues itself again until the study is done, and ends with scancel.
@DIRECTIVES@
set -euo pipefail

cd @FOLDER@
export PATH=@ENVIRONMENT@:"$PATH"
@SETUP@
@STUDY@

# Here, where all nodes see it: the token of this job's Ray, and how many attempts came to nothing.
state=$PWD/.raystudy-slurm/$SLURM_JOB_ID
# On each node: Ray's logs and sockets, whose names must be short.
export scratch=/tmp/raystudy-$SLURM_JOB_ID

ray=()    # the steps that hold Ray on the nodes
driver=   # what is waited for: the nodes, then the sweep
stopped=  # whether Slurm has asked for an end

size() { { du -sb "$ledger" 2>/dev/null || echo 0; } | cut -f1; }
idle=0       # attempts in a row that added nothing to the ledger
held=$(size) # the ledger when the last one ended
if [ -s "$state/idle" ]; then read -r idle held <"$state/idle"; fi

say() { echo "$(date '+%F %T') job $SLURM_JOB_ID: $*"; }

# Slurm's signal ahead of the time limit, or its wish to have the nodes back. The sweep stops cleanly, and its exit code is 130.
stop() {
    stopped=yes
    say "to be stopped"
    if [ -n "$driver" ]; then kill -TERM "$driver" || true; else exit 130; fi
}

# The exit code of what runs; a signal ends bash's waiting, but not that.
ended() {
    while kill -0 "$driver" 2>/dev/null; do wait "$driver" || true; done
    wait "$driver"
}

forget() {
    rm -rf "$state"
    rmdir "${state%/*}" 2>/dev/null # unless another job has something there
}

again() {
    mkdir -p "$state"
    echo "$idle $(size)" >"$state/idle"
    # Of a job that was cancelled Slurm no longer says RUNNING; of one that it only wants to make room for another it does.
    if [ "$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T)" != RUNNING ]; then
        say "cancelled: not queued again"
        forget
    elif scontrol requeue "$SLURM_JOB_ID"; then
        say "queued again"
    else
        say "cannot be queued again here; sbatch goes on"
    fi
}

# However this ends, nothing is left on the nodes. Then: is the study done, or what comes next?
finish() {
    local code=$? i
    set +e
    trap '' USR1 TERM
    forget
    # A Ray that has died is told by the sweep with the same code as a mistake of the user's.
    if [ "$code" = 2 ] && ! kill -0 "${ray[0]:-}" 2>/dev/null; then code=1; fi
    scancel --signal=TERM "$SLURM_JOB_ID" # the steps, not this script
    for ((i = 0; i < 10; i++)); do
        kill -0 "${ray[@]}" 2>/dev/null || break
        sleep 1
    done
    kill -TERM "${ray[@]}" 2>/dev/null # srun kills what is still there, and nobody takes its files away
    wait
    rm -rf "$scratch"
    if [ "$code" = 0 ]; then
        say "the study is done"
    elif [ "$code" = 2 ] && [ -z "$stopped" ]; then
        say "a mistake, told above: not queued again"
    elif [ "$code" = 130 ] && [ -z "$stopped" ]; then
        say "stopped by its own limits: not queued again; sbatch goes on"
    else
        if [ "$(size)" -gt "$held" ]; then idle=0; else idle=$((idle + 1)); fi
        say "ended with code $code; attempts in a row that added nothing to the ledger: $idle of @MOST@"
        if [ "$idle" -lt @MOST@ ]; then again; else say "not queued again"; fi
    fi
    exit "$code"
}
trap finish EXIT
trap stop USR1 TERM

# Ray lets in whoever has the token: a new one, in a file that only this user reads, never on a command line.
(
    umask 077
    mkdir -p "$state"
    head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n' >"$state/token"
)
unset RAY_AUTH_TOKEN RAY_ADDRESS
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$state/token
export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0 # what is left on a node when it is ended needs no time

# Ray on a node until it is ended. All ports are Ray's choice: on a shared node there may be another one.
# shellcheck disable=SC2016 # the variables are the node's own
hold='trap stopped=yes TERM
stopped= code=1
until [ -n "$stopped" ] || [ "$SECONDS" -gt @PATIENCE@ ]; do # where Python is slow to load, Ray gives up its own start
    ray start "$@" --num-cpus="$SLURM_CPUS_ON_NODE" --min-worker-port=0 --max-worker-port=0 \
        --dashboard-agent-listen-port=0 --include-log-monitor=false --disable-usage-stats --block >/dev/null
    code=$?
    sleep 1
done
rm -rf "$scratch"
exit "$code"'

# The head on this node writes its address there.
srun --overlap --nodes=1 --ntasks=1 --nodelist="$SLURMD_NODENAME" bash -c "$hold" head \
    --head --port=0@CLIENT@ --temp-dir="$scratch" --include-dashboard=false --no-monitor &
ray+=($!)
until [ -s "$scratch/ray_current_cluster" ]; do
    kill -0 "${ray[0]}"
    sleep 1
done
RAY_ADDRESS=$(cat "$scratch/ray_current_cluster")

# The search counts the places when it begins: not before all nodes are there.
if [ "$SLURM_JOB_NUM_NODES" -gt 1 ]; then
    others=$((SLURM_JOB_NUM_NODES - 1))
    srun --overlap --nodes="$others" --ntasks="$others" --exclude="$SLURMD_NODENAME" bash -c "$hold" worker \
        --address="$RAY_ADDRESS" &
    ray+=($!)
    timeout @PATIENCE@ python -c '
import os, sys, time, ray
address, wanted, *steps = sys.argv[1:]
ray.init(address, log_to_driver=False, logging_level="ERROR")
while sum(node["Alive"] for node in ray.nodes()) < int(wanted):
    for step in steps:
        os.kill(int(step), 0)
    time.sleep(1)' "$RAY_ADDRESS" "$SLURM_JOB_NUM_NODES" "${ray[@]}" &
    driver=$!
    ended || {
        code=$?
        say "not all nodes have joined"
        exit "$code"
    }
fi

python -m raystudy sweep "${sweep[@]}" --address "$RAY_ADDRESS" &
driver=$!
ended
