-- One row. Every change of jobs locks it first, so that changes of jobs have an order.
CREATE TABLE job_queue (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  revision INTEGER NOT NULL,
  -- Jobs that have not ended, and bytes of all bodies.
  unended INTEGER NOT NULL,
  stored INTEGER NOT NULL
) STRICT;
INSERT INTO job_queue (id, revision, unended, stored) VALUES (1, 0, 0, 0);

-- The same for each caller.
CREATE TABLE job_callers (
  caller TEXT PRIMARY KEY,
  unended INTEGER NOT NULL,
  stored INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The turn of the job that was claimed last.
CREATE TABLE job_pools (
  pool TEXT PRIMARY KEY,
  turn INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The turn of the newest job of a caller.
CREATE TABLE job_flows (
  pool TEXT NOT NULL,
  caller TEXT NOT NULL,
  priority TEXT NOT NULL,
  turn INTEGER NOT NULL,
  PRIMARY KEY (pool, caller, priority)
) STRICT, WITHOUT ROWID;

CREATE TABLE jobs (
  id TEXT PRIMARY KEY,
  -- A call, or a step of a batch.
  kind TEXT NOT NULL,
  -- Number of calls that it makes.
  weight INTEGER NOT NULL,
  -- The batch of which it is a step.
  batch TEXT,
  -- The change that added it, and its place among the jobs of that change: the order of submission.
  created_in INTEGER NOT NULL,
  place INTEGER NOT NULL,
  -- Empty: no virtual key was required.
  caller TEXT NOT NULL,
  pool TEXT NOT NULL,
  priority TEXT NOT NULL,
  turn INTEGER NOT NULL,
  status TEXT NOT NULL,
  -- 1: it can be claimed. 0 while it is queued: not before `retry_at`.
  is_due INTEGER NOT NULL,
  retry_at INTEGER,
  attempts INTEGER NOT NULL,
  -- Number of claims, and the node that has it; with the node, a fencing token.
  claims INTEGER NOT NULL,
  node INTEGER,
  claimed_until INTEGER,
  is_repeatable INTEGER NOT NULL,
  -- The provider may have got the call of this claim.
  was_sent INTEGER NOT NULL,
  request TEXT NOT NULL,
  request_bytes INTEGER NOT NULL,
  response TEXT,
  response_bytes INTEGER NOT NULL,
  -- The claim whose response it is.
  response_claim INTEGER,
  error_code TEXT,
  error_message TEXT,
  webhook TEXT,
  -- Hash of caller, path and the caller's key, and hash of what was asked.
  idempotency_scope TEXT UNIQUE,
  idempotency_content TEXT,
  created_at INTEGER NOT NULL,
  started_at INTEGER,
  ended_at INTEGER,
  deadline_at INTEGER NOT NULL,
  expires_at INTEGER,
  changed_in INTEGER NOT NULL
) STRICT;
CREATE INDEX jobs_queued ON jobs (pool, is_due, turn, created_in, place) WHERE status = 'queued';
CREATE INDEX jobs_to_retry ON jobs (retry_at) WHERE status = 'queued' AND is_due = 0;
CREATE INDEX jobs_by_deadline ON jobs (deadline_at) WHERE status = 'queued';
CREATE INDEX jobs_running ON jobs (node, claimed_until) WHERE status = 'running';
CREATE INDEX jobs_by_expiry ON jobs (expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX jobs_of_batch ON jobs (batch) WHERE batch IS NOT NULL;
CREATE INDEX jobs_by_change ON jobs (changed_in);
CREATE INDEX jobs_by_time ON jobs (created_in, place);
CREATE INDEX jobs_by_caller ON jobs (caller, created_in, place);

-- Bodies in pieces.
CREATE TABLE job_bodies (
  job TEXT NOT NULL,
  -- 0: the request. Otherwise the claim whose response it is.
  claim INTEGER NOT NULL,
  piece INTEGER NOT NULL,
  data BLOB NOT NULL,
  PRIMARY KEY (job, claim, piece)
) STRICT;
