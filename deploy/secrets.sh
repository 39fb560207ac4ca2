#!/bin/sh
# Makes the secrets of the compose stack, a file each in deploy/secrets: passwords that nobody has to choose, and the URLs
# with them. What is there stays as it is, so that it can be run again.
#   sh deploy/secrets.sh [DIRECTORY]
# The directory is for its owner alone. The files are not: compose mounts each by itself, for users of the containers.
set -eu
directory=${1:-$(dirname "$0")/secrets}
umask 077
mkdir -p "$directory"
cd "$directory"

keep() { # name, and what it says on standard input
	if [ -s "$1" ]; then cat >/dev/null; else cat >"$1"; fi
	chmod 444 "$1"
}

password() { # name
	head -c 24 /dev/urandom | od -An -v -tx1 | tr -d ' \n' | keep "$1"
}

url() { # name, role, password, database
	printf 'postgresql://%s:%s@postgres:5432/%s' "$2" "$(cat "$3")" "$4" | keep "$1"
}

password postgres_password
for service in orders customers order_history; do
	password "${service}_password"
	url "${service}_database" "$service" "${service}_password" "$service"
done
password log_password
url broker ensue_log log_password ensue_log
