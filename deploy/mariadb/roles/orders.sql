-- The user that the service runs as, with the rights that it needs; the tables are made by another one:
--   ENSUE_ORDERS_DATABASE=<the owner's URL> ensue db init shop.orders.service:orders
--   mariadb orders < deploy/mariadb/roles/orders.sql
--   ALTER USER orders_service IDENTIFIED BY '...' REQUIRE SSL ACCOUNT UNLOCK
CREATE USER orders_service ACCOUNT LOCK;
GRANT SELECT ON ensue_meta TO orders_service;
GRANT SELECT, UPDATE ON ensue_counter TO orders_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON ensue_outbox_head TO orders_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON ensue_outbox TO orders_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON ensue_checkpoint TO orders_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON ensue_dead_letter TO orders_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON ensue_inbox TO orders_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON ensue_response TO orders_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON ensue_lease TO orders_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON ensue_relay TO orders_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON ensue_timer TO orders_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON ensue_recurring TO orders_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON ensue_reply TO orders_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON ensue_saga TO orders_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON ensue_aggregate TO orders_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON ensue_stream TO orders_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON ensue_decision TO orders_service;
GRANT SELECT, INSERT, UPDATE ON orders TO orders_service;
