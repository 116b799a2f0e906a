ALTER TABLE batches RENAME TO flushes;

-- Files that callers have uploaded for batches, and the results of batches.
CREATE TABLE files (
  id TEXT COLLATE "C" PRIMARY KEY,
  -- The change that added it: the order of creation.
  created_in BIGINT NOT NULL,
  caller TEXT COLLATE "C" NOT NULL,
  filename TEXT COLLATE "C" NOT NULL,
  purpose TEXT COLLATE "C" NOT NULL,
  bytes BIGINT NOT NULL,
  -- 0 while it is uploaded.
  is_complete BIGINT NOT NULL,
  -- Of results: the batch, and 1 for its errors.
  batch TEXT COLLATE "C",
  of_errors BIGINT NOT NULL,
  created_at BIGINT NOT NULL,
  -- When the last piece came.
  touched_at BIGINT NOT NULL,
  expires_at BIGINT
);
CREATE INDEX files_by_caller ON files (caller, created_in);
CREATE INDEX files_by_expiry ON files (expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX files_in_upload ON files (touched_at) WHERE is_complete = 0;

CREATE TABLE file_pieces (
  file TEXT COLLATE "C" NOT NULL,
  piece BIGINT NOT NULL,
  data BYTEA NOT NULL,
  PRIMARY KEY (file, piece)
);

CREATE TABLE file_batches (
  id TEXT COLLATE "C" PRIMARY KEY,
  -- The change that added it: the order of creation.
  created_in BIGINT NOT NULL,
  caller TEXT COLLATE "C" NOT NULL,
  endpoint TEXT COLLATE "C" NOT NULL,
  input_file TEXT COLLATE "C" NOT NULL,
  output_file TEXT COLLATE "C" NOT NULL,
  error_file TEXT COLLATE "C" NOT NULL,
  status TEXT COLLATE "C" NOT NULL,
  -- What is to become of it once nothing runs any more: cancelled or expired.
  ending TEXT COLLATE "C",
  metadata TEXT COLLATE "C",
  model TEXT COLLATE "C",
  errors TEXT COLLATE "C",
  total BIGINT NOT NULL,
  completed BIGINT NOT NULL,
  failed BIGINT NOT NULL,
  output_bytes BIGINT NOT NULL,
  error_bytes BIGINT NOT NULL,
  input_tokens BIGINT NOT NULL,
  cached_tokens BIGINT NOT NULL,
  output_tokens BIGINT NOT NULL,
  reasoning_tokens BIGINT NOT NULL,
  -- How long its results are kept after its end, in milliseconds.
  keep_results BIGINT NOT NULL,
  created_at BIGINT NOT NULL,
  in_progress_at BIGINT,
  expires_at BIGINT NOT NULL,
  finalizing_at BIGINT,
  cancelling_at BIGINT,
  ended_at BIGINT
);
CREATE INDEX file_batches_by_caller ON file_batches (caller, created_in);
CREATE INDEX file_batches_unended ON file_batches (expires_at) WHERE ended_at IS NULL AND ending IS NULL;

CREATE TABLE batch_results (
  batch TEXT COLLATE "C" NOT NULL,
  line BIGINT NOT NULL,
  -- 0: a response with a status below 400; 1: an error; 2: the call was sent, and must not be made twice.
  kind BIGINT NOT NULL,
  data TEXT COLLATE "C" NOT NULL,
  PRIMARY KEY (batch, line)
);
