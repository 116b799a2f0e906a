CREATE TABLE meta (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  revision INTEGER NOT NULL,
  has_held_virtual_key INTEGER NOT NULL,
  key_id TEXT NOT NULL,
  salt TEXT NOT NULL,
  data_key TEXT NOT NULL,
  hash_key TEXT NOT NULL
) STRICT;

CREATE TABLE pools (
  name TEXT PRIMARY KEY,
  settings TEXT NOT NULL,
  version INTEGER NOT NULL,
  created_at INTEGER NOT NULL,
  updated_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The pool may be declared in the configuration file, so it need not be in `pools`.
CREATE TABLE keys (
  pool TEXT NOT NULL,
  name TEXT NOT NULL,
  secret_hash TEXT NOT NULL,
  secret TEXT NOT NULL,
  bound_to TEXT NOT NULL,
  settings TEXT NOT NULL,
  version INTEGER NOT NULL,
  created_at INTEGER NOT NULL,
  updated_at INTEGER NOT NULL,
  secret_set_at INTEGER NOT NULL,
  -- The change that added it, and its place among the keys of that change: the order of creation.
  created_in INTEGER NOT NULL,
  place INTEGER NOT NULL,
  PRIMARY KEY (pool, name),
  UNIQUE (pool, secret_hash)
) STRICT, WITHOUT ROWID;

CREATE TABLE virtual_keys (
  name TEXT PRIMARY KEY,
  hash TEXT NOT NULL UNIQUE,
  hint TEXT NOT NULL,
  previous_hash TEXT UNIQUE,
  previous_until INTEGER,
  settings TEXT NOT NULL,
  version INTEGER NOT NULL,
  created_at INTEGER NOT NULL,
  updated_at INTEGER NOT NULL,
  secret_set_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE key_states (
  -- The keyed hash of provider, origin and the secret's digest.
  hash TEXT PRIMARY KEY,
  -- Those three, encrypted.
  identity TEXT NOT NULL,
  first_seen INTEGER NOT NULL,
  total INTEGER NOT NULL,
  failed INTEGER NOT NULL,
  last_used INTEGER,
  disabled INTEGER NOT NULL,
  invalid INTEGER NOT NULL,
  has_served INTEGER NOT NULL,
  exhausted_until INTEGER,
  cooldowns TEXT NOT NULL,
  reset_at INTEGER NOT NULL,
  revision INTEGER NOT NULL,
  quota_remaining REAL,
  quota_limit REAL,
  quota_unit TEXT,
  quota_refreshed_at INTEGER,
  quota_error TEXT,
  -- Times of the newest 20 calls, newest first. Each has 13 digits and a comma.
  quota_calls TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX key_states_by_revision ON key_states (revision);

CREATE TABLE objects (
  id TEXT NOT NULL,
  key_hash TEXT NOT NULL,
  owner TEXT NOT NULL,
  quota_group TEXT,
  deleted INTEGER NOT NULL,
  recorded_at INTEGER NOT NULL,
  PRIMARY KEY (id, key_hash, owner)
) STRICT, WITHOUT ROWID;
CREATE INDEX objects_by_time ON objects (recorded_at);
CREATE INDEX objects_deleted ON objects (recorded_at) WHERE deleted = 1;

CREATE TABLE usage (
  -- In seconds: a minute, an hour or a day.
  step INTEGER NOT NULL,
  begins_at INTEGER NOT NULL,
  pool TEXT NOT NULL,
  key TEXT NOT NULL,
  model TEXT NOT NULL,
  virtual_key TEXT NOT NULL,
  requests INTEGER NOT NULL,
  attempts INTEGER NOT NULL,
  failures INTEGER NOT NULL,
  input_tokens INTEGER NOT NULL,
  output_tokens INTEGER NOT NULL,
  PRIMARY KEY (step, begins_at, pool, key, model, virtual_key)
) STRICT, WITHOUT ROWID;

-- The newest batch of each node.
CREATE TABLE batches (
  node INTEGER PRIMARY KEY,
  number INTEGER NOT NULL,
  stored_at INTEGER NOT NULL
) STRICT;

CREATE TABLE audit (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  made_at INTEGER NOT NULL,
  actor TEXT NOT NULL,
  source TEXT NOT NULL,
  action TEXT NOT NULL,
  target TEXT NOT NULL,
  details TEXT NOT NULL
) STRICT;
CREATE INDEX audit_by_time ON audit (made_at);
