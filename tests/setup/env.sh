#!/usr/bin/env bash
# Sourced by every script and by the Makefile: where things are, and small helpers.
# Installs nothing.

# A failure inside $(…) ends a script that runs under `set -e`, too.
shopt -s inherit_errexit

export HEARTH_CACHE=${HEARTH_CACHE:-$HOME/.cache/hearth}
# What tests/cluster keeps while it is up; removed by tests/cluster/down.sh.
export HEARTH_CLUSTER_DIR=${HEARTH_CLUSTER_DIR:-/var/lib/hearth-cluster}
# Build outputs, shared by checkouts: a fresh clone compiles this project, not its dependencies.
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$HEARTH_CACHE/target}
# kubectl's notes on what a server offers; not in the home of whoever tests.
export KUBECACHEDIR=$HEARTH_CACHE/kubectl
case ":$PATH:" in
  *":$HEARTH_CACHE/bin:"*) ;;
  *) export PATH=$HEARTH_CACHE/bin:$PATH ;;
esac

# A line of progress on standard error, where results on standard output are left alone.
hearth_say() { printf '%s: %s\n' "$(basename "${BASH_SOURCE[1]}" .sh)" "$*" >&2; }

# hearth_key FILE…: 12 characters that change when a file's content does.
hearth_key() { cat "$@" | sha256sum | cut -c1-12; }
