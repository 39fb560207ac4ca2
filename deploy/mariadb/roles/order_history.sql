-- The user that the service runs as, with the rights that it needs; the tables are made by another one:
--   ENSUE_ORDER_HISTORY_DATABASE=<the owner's URL> ensue db init shop.order_history.service:order_history
--   mariadb order_history < deploy/mariadb/roles/order_history.sql
--   ALTER USER order_history_service IDENTIFIED BY '...' REQUIRE SSL ACCOUNT UNLOCK
CREATE USER order_history_service ACCOUNT LOCK;
-- Which version of the view is asked.
GRANT SELECT ON ensue_meta TO order_history_service;
GRANT SELECT, UPDATE ON ensue_counter TO order_history_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON ensue_outbox_head TO order_history_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON ensue_outbox TO order_history_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON ensue_checkpoint TO order_history_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON ensue_dead_letter TO order_history_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON ensue_inbox TO order_history_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON ensue_response TO order_history_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON ensue_lease TO order_history_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON ensue_relay TO order_history_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON ensue_timer TO order_history_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON ensue_recurring TO order_history_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON ensue_reply TO order_history_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON ensue_saga TO order_history_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON ensue_aggregate TO order_history_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON ensue_stream TO order_history_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON ensue_decision TO order_history_service;
GRANT SELECT, INSERT, UPDATE ON ensue_view TO order_history_service;
-- Version 1; the same again for each further one.
USE order_history_v1;
GRANT SELECT ON ensue_meta TO order_history_service;
GRANT SELECT, UPDATE ON ensue_counter TO order_history_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON ensue_outbox_head TO order_history_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON ensue_outbox TO order_history_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON ensue_checkpoint TO order_history_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON ensue_dead_letter TO order_history_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON ensue_inbox TO order_history_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON ensue_response TO order_history_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON ensue_lease TO order_history_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON ensue_relay TO order_history_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON ensue_timer TO order_history_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON ensue_recurring TO order_history_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON ensue_reply TO order_history_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON ensue_saga TO order_history_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON ensue_aggregate TO order_history_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON ensue_stream TO order_history_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON ensue_decision TO order_history_service;
GRANT SELECT, INSERT, UPDATE ON history_customers TO order_history_service;
GRANT SELECT, INSERT, UPDATE ON history_orders TO order_history_service;
