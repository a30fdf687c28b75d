# Makes the database users of the services, before grants.sql says what they may touch. Read by the entry point of the
# mysql image, whose function docker_process_sql signs in as root with the schema selected.
docker_process_sql <<SQL
CREATE USER 'identity_svc'@'%' IDENTIFIED BY '${IDENTITY_DB_PASSWORD}';
CREATE USER 'subscription_svc'@'%' IDENTIFIED BY '${SUBSCRIPTION_DB_PASSWORD}';
SQL
