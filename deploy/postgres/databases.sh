#!/bin/sh
# One database and one role for each service, and one for the log: a service cannot read another's tables.
# The image runs this once, in an empty data directory.
set -eu

make() { # name, and the secret that has its password
	password=$(cat "/run/secrets/$2")
	psql -v ON_ERROR_STOP=1 -v name="$1" -v password="$password" --username postgres --dbname postgres <<-'SQL'
		CREATE ROLE :"name" LOGIN PASSWORD :'password';
		CREATE DATABASE :"name" OWNER :"name";
		REVOKE CONNECT ON DATABASE :"name" FROM PUBLIC;
	SQL
}

make orders orders_password
make customers customers_password
make order_history order_history_password
make ensue_log log_password
