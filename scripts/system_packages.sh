#!/usr/bin/env bash
# Programs that the tests talk to. Missing ones are installed when that is possible, else named:
# their tests skip, and nothing else needs them.
set -euo pipefail

declare -A package=(
  [ab]=apache2-utils [curl]=curl [haproxy]=haproxy [hey]=hey [nginx]=nginx-light
  [h2load]=nghttp2-client [ip]=iproute2 [nghttp]=nghttp2-client [node]=nodejs [openssl]=openssl
  [redis-server]=redis-server [ss]=iproute2 [wrk]=wrk
)
PATH="$PATH:/usr/sbin:/sbin"
missing=()
for program in "${!package[@]}"; do
  command -v "$program" >/dev/null || missing+=("${package[$program]}")
done
if [ ${#missing[@]} -eq 0 ]; then
  exit 0
fi
if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
  echo "installing ${missing[*]}"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
else
  echo "not installed, tests that need them will skip: ${missing[*]}"
fi
