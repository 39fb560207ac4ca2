-- The role that the service runs as, with the rights that it needs; the tables belong to another one, which made them:
--   ENSUE_ORDERS_DATABASE=<the owner's URL> ensue db init shop.orders.service:orders
--   psql -v ON_ERROR_STOP=1 -1 -d orders -f deploy/postgres/roles/orders.sql
--   psql -d orders -c '\password orders_service'
CREATE ROLE orders_service LOGIN;
GRANT CONNECT ON DATABASE :"DBNAME" TO orders_service;
GRANT USAGE ON SCHEMA public TO orders_service;
GRANT SELECT ON ensue_meta TO orders_service;
GRANT SELECT, UPDATE ON ensue_counter, ensue_polled, ensue_tail TO orders_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON
	ensue_outbox_head, ensue_checkpoint, ensue_dead_letter, ensue_inbox, ensue_response, ensue_lease, ensue_relay,
	ensue_timer, ensue_recurring, ensue_reply, ensue_saga, ensue_aggregate, ensue_stream, ensue_decision
	TO orders_service;
GRANT SELECT, INSERT, DELETE ON ensue_outbox, ensue_stamp TO orders_service;
GRANT SELECT, INSERT, UPDATE ON orders TO orders_service;
