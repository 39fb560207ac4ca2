-- The user that the service runs as, with the rights that it needs; the tables are made by another one:
--   ENSUE_CUSTOMERS_DATABASE=<the owner's URL> ensue db init shop.customers.service:customers
--   mariadb customers < deploy/mariadb/roles/customers.sql
--   ALTER USER customers_service IDENTIFIED BY '...' REQUIRE SSL ACCOUNT UNLOCK
CREATE USER customers_service ACCOUNT LOCK;
GRANT SELECT ON ensue_meta TO customers_service;
GRANT SELECT, UPDATE ON ensue_counter TO customers_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON ensue_outbox_head TO customers_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON ensue_outbox TO customers_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON ensue_checkpoint TO customers_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON ensue_dead_letter TO customers_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON ensue_inbox TO customers_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON ensue_response TO customers_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON ensue_lease TO customers_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON ensue_relay TO customers_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON ensue_timer TO customers_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON ensue_recurring TO customers_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON ensue_reply TO customers_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON ensue_saga TO customers_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON ensue_aggregate TO customers_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON ensue_stream TO customers_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON ensue_decision TO customers_service;
GRANT SELECT, INSERT, UPDATE ON customers TO customers_service;
GRANT SELECT, INSERT, DELETE ON reservations TO customers_service;
