# Everything a person types. Each target installs what it needs; caches live in
# $HEARTH_CACHE (default ~/.cache/hearth), outside the checkout.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

.PHONY: help build test demo lint unit e2e crds docs images bundle cluster-up cluster-down parity bench-train bench-serve bench-data bench-tables bench-operator bench-gateway faults scan clean

help: ## What there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

demo: ## Train, compress and serve a spam filter on a real cluster
	@tests/demo.sh

test: ## Everything: lints, unit tests, end-to-end tests on a real cluster
	@tests/check.sh all

lint: ## Formatting, clippy, licences, spelling
	@tests/check.sh lint

unit: ## Tests that need no cluster
	@tests/check.sh unit

e2e: ## Tests on a real cluster (KUBECONFIG, or one made for the purpose)
	@tests/check.sh e2e

build: ## All binaries, in target/release of the cache
	@tests/setup/build.sh

crds: build ## Write manifests/crds and the chart's CRDs anew
	@source tests/setup/env.sh; "$$HEARTH_BIN/hearth-operator" crds --write .

docs: build ## Write docs/training-arguments.md anew
	@source tests/setup/env.sh; "$$HEARTH_BIN/hearth" convert --fields > docs/training-arguments.md

images: build ## Both images, in the cache and (when it is up) in the cluster
	@tests/setup/in-copy.sh tests/setup/images.sh

bundle: build ## One tar to install from without the internet (docs/offline.md)
	@tests/setup/in-copy.sh bundle/build.sh

cluster-up: ## A real control plane and two real kubelets on this machine
	@tests/cluster/up.sh

cluster-down: ## Remove it, with all that it left
	@tests/cluster/down.sh

parity: ## Compare with transformers (Python, in a venv of its own)
	@tests/parity/run.sh

bench-train: ## Speed and memory against transformers' Trainer and TRL
	@tests/bench/train.sh

bench-serve: ## Speed and memory of servers, against llama.cpp, ONNX Runtime and transformers
	@tests/bench/serve.sh

bench-data: ## Speed and memory of preparing texts, against datasets.map
	@tests/bench/data.sh

faults: ## The operator killed at every write, and every fault of docs/faults.md
	@HEARTH_FAULTS_ALL=1 tests/faults/run.sh

scan: ## The checks of tests/security with trivy among the scanners, which takes seven minutes to build
	@tests/security/run.sh --trivy

bench-tables: ## Models of tables, against LightGBM for Python and a logistic regression
	@tests/bench/tables.sh

bench-operator: ## Many jobs at once, against Kubeflow Trainer with JobSet
	@tests/bench/operator.sh

bench-gateway: ## What the gateway adds to the time of an answer
	@tests/bench/gateway.sh

clean: ## Build outputs of this checkout
	rm -rf target
