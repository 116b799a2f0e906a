ALTER TABLE batches RENAME TO flushes;

-- Files that callers have uploaded for batches, and the results of batches.
CREATE TABLE files (
  id TEXT PRIMARY KEY,
  -- The change that added it: the order of creation.
  created_in INTEGER NOT NULL,
  caller TEXT NOT NULL,
  filename TEXT NOT NULL,
  purpose TEXT NOT NULL,
  bytes INTEGER NOT NULL,
  -- 0 while it is uploaded.
  is_complete INTEGER NOT NULL,
  -- Of results: the batch, and 1 for its errors.
  batch TEXT,
  of_errors INTEGER NOT NULL,
  created_at INTEGER NOT NULL,
  -- When the last piece came.
  touched_at INTEGER NOT NULL,
  expires_at INTEGER
) STRICT;
CREATE INDEX files_by_caller ON files (caller, created_in);
CREATE INDEX files_by_expiry ON files (expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX files_in_upload ON files (touched_at) WHERE is_complete = 0;

CREATE TABLE file_pieces (
  file TEXT NOT NULL,
  piece INTEGER NOT NULL,
  data BLOB NOT NULL,
  PRIMARY KEY (file, piece)
) STRICT;

CREATE TABLE file_batches (
  id TEXT PRIMARY KEY,
  -- The change that added it: the order of creation.
  created_in INTEGER NOT NULL,
  caller TEXT NOT NULL,
  endpoint TEXT NOT NULL,
  input_file TEXT NOT NULL,
  output_file TEXT NOT NULL,
  error_file TEXT NOT NULL,
  status TEXT NOT NULL,
  -- What is to become of it once nothing runs any more: cancelled or expired.
  ending TEXT,
  metadata TEXT,
  model TEXT,
  errors TEXT,
  total INTEGER NOT NULL,
  completed INTEGER NOT NULL,
  failed INTEGER NOT NULL,
  output_bytes INTEGER NOT NULL,
  error_bytes INTEGER NOT NULL,
  input_tokens INTEGER NOT NULL,
  cached_tokens INTEGER NOT NULL,
  output_tokens INTEGER NOT NULL,
  reasoning_tokens INTEGER NOT NULL,
  -- How long its results are kept after its end, in milliseconds.
  keep_results INTEGER NOT NULL,
  created_at INTEGER NOT NULL,
  in_progress_at INTEGER,
  expires_at INTEGER NOT NULL,
  finalizing_at INTEGER,
  cancelling_at INTEGER,
  ended_at INTEGER
) STRICT;
CREATE INDEX file_batches_by_caller ON file_batches (caller, created_in);
CREATE INDEX file_batches_unended ON file_batches (expires_at) WHERE ended_at IS NULL AND ending IS NULL;

CREATE TABLE batch_results (
  batch TEXT NOT NULL,
  line INTEGER NOT NULL,
  -- 0: a response with a status below 400; 1: an error; 2: the call was sent, and must not be made twice.
  kind INTEGER NOT NULL,
  data TEXT NOT NULL,
  PRIMARY KEY (batch, line)
) STRICT;
