#!/bin/sh
# What the official image's entrypoint does with POSTGRES_USER, POSTGRES_PASSWORD and POSTGRES_DB, for its stand-in.
set -eu
data=${PGDATA:-/var/lib/postgresql/data}
as_postgres() { setpriv --reuid=postgres --regid=postgres --init-groups -- "$@"; }
PATH=$(echo /usr/lib/postgresql/*/bin):$PATH
install --directory --owner=postgres --group=postgres --mode=700 "$data"
install --directory --owner=postgres --group=postgres /var/run/postgresql
if ! [ -e "$data/PG_VERSION" ]; then
    secret=$(mktemp)
    echo "$POSTGRES_PASSWORD" > "$secret"
    chown postgres "$secret"
    as_postgres initdb --pgdata="$data" --username="$POSTGRES_USER" --pwfile="$secret" --auth-host=scram-sha-256 \
        --encoding=UTF8 --locale=C.UTF-8
    rm "$secret"
    echo "host all all all scram-sha-256" >> "$data/pg_hba.conf"
    echo "CREATE DATABASE $POSTGRES_DB" | as_postgres postgres --single -D "$data" postgres
fi
exec setpriv --reuid=postgres --regid=postgres --init-groups -- postgres -D "$data" -c "listen_addresses=*"
