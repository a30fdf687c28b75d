#!/bin/bash
# Makes the database users of the services and gives them what deploy/database/grants.sql says, at each `up`: a newer
# version may have more tables.
set -euo pipefail

signed_in() {
  mysql --defaults-extra-file=<(printf '[client]\npassword="%s"\n' "$(cat /secrets/root_password)") \
    --host=mysql --user=root auth_db
}

{
  for service in identity subscription; do
    password=$(cat "/secrets/${service}_db_password")
    echo "CREATE USER IF NOT EXISTS '${service}_svc'@'%' IDENTIFIED BY '$password';"
    echo "ALTER USER '${service}_svc'@'%' IDENTIFIED BY '$password';"
  done
  cat /grants.sql
} | signed_in
