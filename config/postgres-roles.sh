# Makes the two roles of the service, once, when the image makes the database (docker-compose.yml);
# safe to repeat. The owner of the tables migrates, prunes and erases; the application's role may only
# add to the compliance log. Neither is a superuser.

psql --set ON_ERROR_STOP=1 --quiet --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" \
  --set owner="$(cat "${SECRETS:-/run/secrets}/postgres_owner_password")" \
  --set app="$(cat "${SECRETS:-/run/secrets}/postgres_app_password")" <<'SQL'
SELECT format('CREATE ROLE %I LOGIN', name) FROM unnest(ARRAY['delivery_owner', 'delivery_app']) AS name
  WHERE NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = name) \gexec
ALTER ROLE delivery_owner PASSWORD :'owner';
ALTER ROLE delivery_app PASSWORD :'app';
SELECT format('ALTER DATABASE %I OWNER TO delivery_owner', current_database()) \gexec
-- A database of before has its tables already.
SELECT format('ALTER TABLE %I OWNER TO delivery_owner', tablename) FROM pg_tables
  WHERE schemaname = 'public' AND tableowner <> 'delivery_owner' \gexec
SELECT format('ALTER SEQUENCE %I OWNER TO delivery_owner', sequencename) FROM pg_sequences
  WHERE schemaname = 'public' AND sequenceowner <> 'delivery_owner' \gexec
SQL
