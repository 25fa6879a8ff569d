#!/bin/bash
# Runs once, when PostgreSQL creates its data: the database and its roles. $SECRETS names another directory when it is tried.
set -euo pipefail
secrets=${SECRETS:-/run/secrets}
psql -v ON_ERROR_STOP=1 --username="${POSTGRES_USER:-postgres}" --dbname=postgres \
    -v receiptd="$(cat "$secrets/receiptd_password")" -v reader="$(cat "$secrets/reader_password")" <<'SQL'
CREATE ROLE receiptd LOGIN PASSWORD :'receiptd';
CREATE DATABASE receiptd OWNER receiptd;
-- For analysts and applications, see docs/operators.md.
CREATE ROLE receiptd_reader NOLOGIN;
CREATE ROLE receiptd_writer NOLOGIN;
CREATE ROLE grafana LOGIN PASSWORD :'reader' IN ROLE receiptd_reader;
SQL
