-- One row. Every change of jobs locks it first, so that changes of jobs have an order.
CREATE TABLE job_queue (
  id BIGINT PRIMARY KEY CHECK (id = 1),
  revision BIGINT NOT NULL,
  -- Jobs that have not ended, and bytes of all bodies.
  unended BIGINT NOT NULL,
  stored BIGINT NOT NULL
);
INSERT INTO job_queue (id, revision, unended, stored) VALUES (1, 0, 0, 0);

-- The same for each caller.
CREATE TABLE job_callers (
  caller TEXT COLLATE "C" PRIMARY KEY,
  unended BIGINT NOT NULL,
  stored BIGINT NOT NULL
);

-- The turn of the job that was claimed last.
CREATE TABLE job_pools (
  pool TEXT COLLATE "C" PRIMARY KEY,
  turn BIGINT NOT NULL
);

-- The turn of the newest job of a caller.
CREATE TABLE job_flows (
  pool TEXT COLLATE "C" NOT NULL,
  caller TEXT COLLATE "C" NOT NULL,
  priority TEXT COLLATE "C" NOT NULL,
  turn BIGINT NOT NULL,
  PRIMARY KEY (pool, caller, priority)
);

CREATE TABLE jobs (
  id TEXT COLLATE "C" PRIMARY KEY,
  -- A call, or a step of a batch.
  kind TEXT COLLATE "C" NOT NULL,
  -- Number of calls that it makes.
  weight BIGINT NOT NULL,
  -- The batch of which it is a step.
  batch TEXT COLLATE "C",
  -- The change that added it, and its place among the jobs of that change: the order of submission.
  created_in BIGINT NOT NULL,
  place BIGINT NOT NULL,
  -- Empty: no virtual key was required.
  caller TEXT COLLATE "C" NOT NULL,
  pool TEXT COLLATE "C" NOT NULL,
  priority TEXT COLLATE "C" NOT NULL,
  turn BIGINT NOT NULL,
  status TEXT COLLATE "C" NOT NULL,
  -- 1: it can be claimed. 0 while it is queued: not before `retry_at`.
  is_due BIGINT NOT NULL,
  retry_at BIGINT,
  attempts BIGINT NOT NULL,
  -- Number of claims, and the node that has it; with the node, a fencing token.
  claims BIGINT NOT NULL,
  node BIGINT,
  claimed_until BIGINT,
  is_repeatable BIGINT NOT NULL,
  -- The provider may have got the call of this claim.
  was_sent BIGINT NOT NULL,
  request TEXT COLLATE "C" NOT NULL,
  request_bytes BIGINT NOT NULL,
  response TEXT COLLATE "C",
  response_bytes BIGINT NOT NULL,
  -- The claim whose response it is.
  response_claim BIGINT,
  error_code TEXT COLLATE "C",
  error_message TEXT COLLATE "C",
  webhook TEXT COLLATE "C",
  -- Hash of caller, path and the caller's key, and hash of what was asked.
  idempotency_scope TEXT COLLATE "C" UNIQUE,
  idempotency_content TEXT COLLATE "C",
  created_at BIGINT NOT NULL,
  started_at BIGINT,
  ended_at BIGINT,
  deadline_at BIGINT NOT NULL,
  expires_at BIGINT,
  changed_in BIGINT NOT NULL
);
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
  job TEXT COLLATE "C" NOT NULL,
  -- 0: the request. Otherwise the claim whose response it is.
  claim BIGINT NOT NULL,
  piece BIGINT NOT NULL,
  data BYTEA NOT NULL,
  PRIMARY KEY (job, claim, piece)
);
