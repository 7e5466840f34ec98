#!/usr/bin/env bash
# Other people's clients against `hearth-worker serve`, on loopback: Triton's with a tiny classifier
# (in libtorch and in ONNX Runtime), OpenAI's with MiniLM's embeddings and with SmolLM2-135M. $HEARTH_BIN holds the worker (make build). Takes a minute, most of it
# for the language model's sentences.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
bin=${HEARTH_BIN:-}
source tests/setup/env.sh
HEARTH_BIN=${bin:-$HEARTH_BIN}
[ -n "${LIBTORCH:-}" ] || eval "$(tests/setup/libtorch.sh)"
clients=$(tests/serving/setup.sh)
smollm2=$(tests/setup/smollm2.sh)
data=$(tests/setup/data.sh)
hearth_work serving-test
server=
leave() {
  [ -z "$server" ] || kill -KILL "$server" 2>/dev/null || true
  rm -rf "$work"
}
trap leave EXIT

# [runtime=…] serve NAME MODEL DEPTH: waits until a server of the model is ready at $address.
serve() {
  address=127.0.0.1:$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
  cat >"$work/serve.json" <<JSON
{"version": "hearth.dev/worker/v1", "job": {"namespace": "local", "name": "$1", "uid": ""},
 "revision": "r1", "model": "$2", "accelerator": "CPU", "runtime": "${runtime:-Libtorch}", "maxBatchSize": 4,
 "maxBatchDelayMilliseconds": 0, "maxQueueDepth": $3, "maxBodyBytes": 1048576, "port": ${address#*:}}
JSON
  setpriv --pdeathsig KILL "$HEARTH_BIN/hearth-worker" serve --config "$work/serve.json" 2>"$work/serve.log" &
  server=$!
  for _ in $(seq 600); do
    curl --silent --fail --output /dev/null "http://$address/readyz" && return
    kill -0 "$server" 2>/dev/null || break
    sleep 0.1
  done
  cat "$work/serve.log"
  exit 1
}

# Ends the server as a pod's end does.
stop() {
  kill -TERM "$server"
  wait "$server" || { tail "$work/serve.log"; exit 1; }
  server=
}

tiny=$PWD/tests/parity/fixtures/tiny-bert
serve tiny "$tiny" 64
"$clients/venv/bin/python" tests/serving/inference.py "$address" "$tiny"
"$HEARTH_BIN/hearth-worker" export --model "$tiny" --onnx "$work/tiny.onnx" 2>"$work/export.log"
"$clients/venv/bin/python" tests/serving/onnx_file.py "$work/tiny.onnx" "$address" "$tiny"
stop

# The same classifier in ONNX Runtime answers the same client.
ORT_DYLIB_PATH=$(tests/setup/onnxruntime.sh)
export ORT_DYLIB_PATH
runtime=OnnxRuntime serve tiny "$tiny" 64
"$clients/venv/bin/python" tests/serving/inference.py "$address" "$tiny"
stop

serve minilm "$data/minilm" 64
export OPENAI_BASE_URL=http://$address/v1 OPENAI_API_KEY=none
"$clients/venv/bin/python" tests/serving/embeddings.py tests/parity/fixtures/minilm-embeddings.json
stop

"$HEARTH_BIN/hearth-worker" import --gguf "$smollm2/model.gguf" --output "$work/model" --dtype bf16 2>"$work/import.log"
serve smollm2 "$work/model" 8
export OPENAI_BASE_URL=http://$address/v1
"$clients/venv/bin/python" tests/serving/suite.py
# Modules are looked for beside the file.
ln -s "$clients/node_modules" "$work/node_modules"
cp tests/serving/suite.mjs "$work/"
node "$work/suite.mjs"
stop
echo "serving: ok"
