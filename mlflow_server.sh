#!/usr/bin/env bash
# MLflow on a cluster's head: on loopback only (reached by port forwarding), started after Ray and ended with it.
# Run again after a restart of Ray, it waits for the old server to go. Its database is a projection of the ledger: `raystudy sync` rebuilds it.
set -u
PORT=5000
listening() { (: <"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

for _ in $(seq 30); do listening $PORT && sleep 1; done
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_DISABLE_TELEMETRY=true
export -f listening
export PORT ARTIFACTS="${RAYSTUDY_MLFLOW_ARTIFACTS:-$HOME/mlartifacts}"
setsid nohup bash -c '
    mlflow server --backend-store-uri "sqlite:///$HOME/mlflow.db" --artifacts-destination "$ARTIFACTS" --host 127.0.0.1 --port $PORT --workers 1 &
    while listening 6379; do sleep 2; done
    kill 0' >"$HOME/mlflow.log" 2>&1 </dev/null &

for _ in $(seq 120); do listening $PORT && exit 0; sleep 1; done
echo "MLflow did not start; see $HOME/mlflow.log" >&2
exit 1
