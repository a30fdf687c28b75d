#!/bin/bash
# Makes the secrets of the platform in docker compose, each once: what is there stays as it is. Each process sees those
# in its own volume, and no other.
set -euo pipefail
cd /secrets

# A secret of 256 bits, at the first of the places, and the same at the others.
secret() {
  if [ ! -s "$1" ]; then
    od -An -v -tx1 -N32 /dev/urandom | tr -d ' \n' >"$1.new"
    mv "$1.new" "$1"
  fi
  for other in "${@:2}"; do cp "$1" "$other"; done
}

# Processes read them as other users than root; whoever is not in a container with the volume cannot.
umask 022
secret identity/jwt_secret_key edge/jwt_secret_key
secret identity/internal_grpc_token edge/internal_grpc_token subscription/internal_grpc_token
secret mysql/root_password
secret identity/db_password mysql/identity_db_password
secret subscription/db_password mysql/subscription_db_password
secret identity/admin_password
