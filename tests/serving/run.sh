#!/usr/bin/env bash
# OpenAI's own clients against `hearth-worker serve`: SmolLM2-135M, on loopback.
# $HEARTH_BIN holds the worker (make build). Takes a minute, most of it for the model's sentences.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
source tests/setup/env.sh
[ -n "${LIBTORCH:-}" ] || eval "$(tests/setup/libtorch.sh)"
clients=$(tests/serving/setup.sh)
smollm2=$(tests/setup/smollm2.sh)
hearth_work serving-test
server=
leave() {
  [ -z "$server" ] || kill -KILL "$server" 2>/dev/null || true
  rm -rf "$work"
}
trap leave EXIT

"$HEARTH_BIN/hearth-worker" import --gguf "$smollm2/model.gguf" --output "$work/model" --dtype bf16 2>"$work/import.log"
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
cat >"$work/serve.json" <<JSON
{"version": "hearth.dev/worker/v1", "job": {"namespace": "local", "name": "smollm2", "uid": ""},
 "revision": "r1", "model": "$work/model", "accelerator": "CPU", "maxBatchSize": 4,
 "maxBatchDelayMilliseconds": 0, "maxQueueDepth": 8, "maxBodyBytes": 1048576, "port": $port}
JSON
setpriv --pdeathsig KILL "$HEARTH_BIN/hearth-worker" serve --config "$work/serve.json" 2>"$work/serve.log" &
server=$!
for _ in $(seq 120); do
  curl --silent --fail --output /dev/null "http://127.0.0.1:$port/readyz" && break
  kill -0 "$server" 2>/dev/null || { cat "$work/serve.log"; exit 1; }
  sleep 0.5
done
export OPENAI_BASE_URL=http://127.0.0.1:$port/v1 OPENAI_API_KEY=none
"$clients/venv/bin/python" tests/serving/suite.py
# Modules are looked for beside the file.
ln -s "$clients/node_modules" "$work/node_modules"
cp tests/serving/suite.mjs "$work/"
node "$work/suite.mjs"
kill -TERM "$server"
wait "$server" || { tail "$work/serve.log"; exit 1; }
server=
echo "serving: ok"
