#!/bin/sh
# One database and one role for each service, and one for the log: a service cannot read another's tables.
# The image runs this once, in an empty data directory.
set -eu

make() { # name password
	psql -v ON_ERROR_STOP=1 -v name="$1" -v password="$2" --username postgres --dbname postgres <<-'SQL'
		CREATE ROLE :"name" LOGIN PASSWORD :'password';
		CREATE DATABASE :"name" OWNER :"name";
		REVOKE CONNECT ON DATABASE :"name" FROM PUBLIC;
	SQL
}

make orders "$ORDERS_PASSWORD"
make customers "$CUSTOMERS_PASSWORD"
make order_history "$ORDER_HISTORY_PASSWORD"
make ensue_log "$LOG_PASSWORD"
