#!/usr/bin/env bash
# Programs that the tests talk to. Missing ones are installed when that is possible, else named:
# their tests skip, and nothing else needs them. Nothing is removed for them, no service is started.
set -euo pipefail

declare -A package=(
  [ab]=apache2-utils [busybox]=busybox-static [chromium]=chromium [curl]=curl [dig]=bind9-dnsutils [dnsmasq]=dnsmasq-base
  [exim4]=exim4-daemon-light [h2load]=nghttp2-client [haproxy]=haproxy [hey]=hey [iperf3]=iperf3
  [debootstrap]=debootstrap [docker-compose]=docker-compose [ip]=iproute2 [kubectl]=kubernetes-client [logrotate]=logrotate
  [nghttp]=nghttp2-client [nghttpd]=nghttp2-server
  [nginx]="nginx-light libnginx-mod-stream" [node]=nodejs [openssl]=openssl [prometheus]=prometheus
  [pgbench]=postgresql [postgres]=postgresql [psql]=postgresql-client
  [redis-benchmark]=redis-tools [redis-cli]=redis-tools [redis-server]=redis-server
  [sipp]=sip-tester [systemd-analyze]=systemd [ss]=iproute2 [swaks]="swaks libnet-ssleay-perl"
  [testssl]=testssl.sh [wrk]=wrk
)
# Debian keeps servers out of the way of users.
PATH="$PATH:/usr/sbin:/sbin$(printf ':%s' /usr/lib/postgresql/*/bin)"
declare -A wanted=()
for program in "${!package[@]}"; do
  command -v "$program" >/dev/null && continue
  for name in ${package[$program]}; do wanted[$name]=1; done
done
missing=("${!wanted[@]}")
if [ ${#missing[@]} -eq 0 ]; then
  exit 0
fi
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
  echo "not installed, tests that need them will skip: ${missing[*]}"
  exit 0
fi

# A package of a server starts it on its usual port, or fails where no init runs; this forbids it.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
  trap 'rm -f $policy' EXIT
  printf '#!/bin/sh\nexit 101\n' >$policy
  chmod 755 $policy
fi
# Nor shall PostgreSQL's make a data directory: the tests make their own.
clusters=/etc/postgresql-common/createcluster.d
if [ -n "${wanted[postgresql]:-}" ] && [ ! -e /etc/postgresql-common/createcluster.conf ]; then
  mkdir -p $clusters
  echo "create_main_cluster = false" >$clusters/no-cluster-for-tests.conf
fi

install() {
  DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends --no-remove "$@" </dev/null
}
echo "installing ${missing[*]}"
apt-get update -qq || echo "no fresh lists of packages; going on with those that are here"
if ! install "${missing[@]}"; then
  # One of them cannot be had, or would take the place of something: the others need not suffer.
  for one in "${missing[@]}"; do
    install "$one" || echo "not installed, tests that need it will skip: $one"
  done
fi
