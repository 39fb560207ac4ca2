-- The role that the service runs as, with the rights that it needs; the tables belong to another one, which made them:
--   ENSUE_CUSTOMERS_DATABASE=<the owner's URL> ensue db init shop.customers.service:customers
--   psql -v ON_ERROR_STOP=1 -1 -d customers -f deploy/postgres/roles/customers.sql
--   psql -d customers -c '\password customers_service'
CREATE ROLE customers_service LOGIN;
GRANT CONNECT ON DATABASE :"DBNAME" TO customers_service;
GRANT USAGE ON SCHEMA public TO customers_service;
GRANT SELECT ON ensue_meta TO customers_service;
GRANT SELECT, UPDATE ON ensue_counter, ensue_polled, ensue_tail TO customers_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON
	ensue_outbox_head, ensue_checkpoint, ensue_dead_letter, ensue_inbox, ensue_response, ensue_lease, ensue_relay,
	ensue_timer, ensue_recurring, ensue_reply, ensue_saga, ensue_aggregate, ensue_stream, ensue_decision
	TO customers_service;
GRANT SELECT, INSERT, DELETE ON ensue_outbox, ensue_stamp TO customers_service;
GRANT SELECT, INSERT, UPDATE ON customers TO customers_service;
GRANT SELECT, INSERT, DELETE ON reservations TO customers_service;
