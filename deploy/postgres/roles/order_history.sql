-- The role that the service runs as, with the rights that it needs; the tables belong to another one, which made them:
--   ENSUE_ORDER_HISTORY_DATABASE=<the owner's URL> ensue db init shop.order_history.service:order_history
--   psql -v ON_ERROR_STOP=1 -1 -d order_history -f deploy/postgres/roles/order_history.sql
--   psql -d order_history -c '\password order_history_service'
CREATE ROLE order_history_service LOGIN;
GRANT CONNECT ON DATABASE :"DBNAME" TO order_history_service;
GRANT USAGE ON SCHEMA public, order_history_v1 TO order_history_service;
-- Which version of the view is asked.
SET search_path = public;
GRANT SELECT ON ensue_meta TO order_history_service;
GRANT SELECT, UPDATE ON ensue_counter, ensue_polled, ensue_tail TO order_history_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON
	ensue_outbox_head, ensue_checkpoint, ensue_dead_letter, ensue_inbox, ensue_response, ensue_lease, ensue_relay,
	ensue_timer, ensue_recurring, ensue_reply, ensue_saga, ensue_aggregate, ensue_stream, ensue_decision
	TO order_history_service;
GRANT SELECT, INSERT, DELETE ON ensue_outbox, ensue_stamp TO order_history_service;
GRANT SELECT, INSERT, UPDATE ON ensue_view TO order_history_service;
-- Version 1; the same again for each further one.
SET search_path = order_history_v1;
GRANT SELECT ON ensue_meta TO order_history_service;
GRANT SELECT, UPDATE ON ensue_counter, ensue_polled, ensue_tail TO order_history_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON
	ensue_outbox_head, ensue_checkpoint, ensue_dead_letter, ensue_inbox, ensue_response, ensue_lease, ensue_relay,
	ensue_timer, ensue_recurring, ensue_reply, ensue_saga, ensue_aggregate, ensue_stream, ensue_decision
	TO order_history_service;
GRANT SELECT, INSERT, DELETE ON ensue_outbox, ensue_stamp TO order_history_service;
GRANT SELECT, INSERT, UPDATE ON history_customers, history_orders TO order_history_service;
