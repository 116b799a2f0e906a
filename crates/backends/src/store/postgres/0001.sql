CREATE TABLE meta (
  id BIGINT PRIMARY KEY CHECK (id = 1),
  revision BIGINT NOT NULL,
  has_held_virtual_key BIGINT NOT NULL,
  key_id TEXT COLLATE "C" NOT NULL,
  salt TEXT COLLATE "C" NOT NULL,
  data_key TEXT COLLATE "C" NOT NULL,
  hash_key TEXT COLLATE "C" NOT NULL
);

CREATE TABLE pools (
  name TEXT COLLATE "C" PRIMARY KEY,
  settings TEXT COLLATE "C" NOT NULL,
  version BIGINT NOT NULL,
  created_at BIGINT NOT NULL,
  updated_at BIGINT NOT NULL
);

-- The pool may be declared in the configuration file, so it need not be in `pools`.
CREATE TABLE keys (
  pool TEXT COLLATE "C" NOT NULL,
  name TEXT COLLATE "C" NOT NULL,
  secret_hash TEXT COLLATE "C" NOT NULL,
  secret TEXT COLLATE "C" NOT NULL,
  bound_to TEXT COLLATE "C" NOT NULL,
  settings TEXT COLLATE "C" NOT NULL,
  version BIGINT NOT NULL,
  created_at BIGINT NOT NULL,
  updated_at BIGINT NOT NULL,
  secret_set_at BIGINT NOT NULL,
  -- The change that added it, and its place among the keys of that change: the order of creation.
  created_in BIGINT NOT NULL,
  place BIGINT NOT NULL,
  PRIMARY KEY (pool, name),
  UNIQUE (pool, secret_hash)
);

CREATE TABLE virtual_keys (
  name TEXT COLLATE "C" PRIMARY KEY,
  hash TEXT COLLATE "C" NOT NULL UNIQUE,
  hint TEXT COLLATE "C" NOT NULL,
  previous_hash TEXT COLLATE "C" UNIQUE,
  previous_until BIGINT,
  settings TEXT COLLATE "C" NOT NULL,
  version BIGINT NOT NULL,
  created_at BIGINT NOT NULL,
  updated_at BIGINT NOT NULL,
  secret_set_at BIGINT NOT NULL
);

CREATE TABLE key_states (
  -- The keyed hash of provider, origin and the secret's digest.
  hash TEXT COLLATE "C" PRIMARY KEY,
  -- Those three, encrypted.
  identity TEXT COLLATE "C" NOT NULL,
  first_seen BIGINT NOT NULL,
  total BIGINT NOT NULL,
  failed BIGINT NOT NULL,
  last_used BIGINT,
  disabled BIGINT NOT NULL,
  invalid BIGINT NOT NULL,
  has_served BIGINT NOT NULL,
  exhausted_until BIGINT,
  cooldowns TEXT COLLATE "C" NOT NULL,
  reset_at BIGINT NOT NULL,
  revision BIGINT NOT NULL,
  quota_remaining DOUBLE PRECISION,
  quota_limit DOUBLE PRECISION,
  quota_unit TEXT COLLATE "C",
  quota_refreshed_at BIGINT,
  quota_error TEXT COLLATE "C",
  -- Times of the newest 20 calls, newest first. Each has 13 digits and a comma.
  quota_calls TEXT COLLATE "C" NOT NULL
);
CREATE INDEX key_states_by_revision ON key_states (revision);

CREATE TABLE objects (
  id TEXT COLLATE "C" NOT NULL,
  key_hash TEXT COLLATE "C" NOT NULL,
  owner TEXT COLLATE "C" NOT NULL,
  quota_group TEXT COLLATE "C",
  deleted BIGINT NOT NULL,
  recorded_at BIGINT NOT NULL,
  PRIMARY KEY (id, key_hash, owner)
);
CREATE INDEX objects_by_time ON objects (recorded_at);
CREATE INDEX objects_deleted ON objects (recorded_at) WHERE deleted = 1;

CREATE TABLE usage (
  -- In seconds: a minute, an hour or a day.
  step BIGINT NOT NULL,
  begins_at BIGINT NOT NULL,
  pool TEXT COLLATE "C" NOT NULL,
  key TEXT COLLATE "C" NOT NULL,
  model TEXT COLLATE "C" NOT NULL,
  virtual_key TEXT COLLATE "C" NOT NULL,
  requests BIGINT NOT NULL,
  attempts BIGINT NOT NULL,
  failures BIGINT NOT NULL,
  input_tokens BIGINT NOT NULL,
  output_tokens BIGINT NOT NULL,
  PRIMARY KEY (step, begins_at, pool, key, model, virtual_key)
);

-- The newest batch of each node.
CREATE TABLE batches (
  node BIGINT PRIMARY KEY,
  number BIGINT NOT NULL,
  stored_at BIGINT NOT NULL
);

CREATE TABLE audit (
  id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  made_at BIGINT NOT NULL,
  actor TEXT COLLATE "C" NOT NULL,
  source TEXT COLLATE "C" NOT NULL,
  action TEXT COLLATE "C" NOT NULL,
  target TEXT COLLATE "C" NOT NULL,
  details TEXT COLLATE "C" NOT NULL
);
CREATE INDEX audit_by_time ON audit (made_at);
