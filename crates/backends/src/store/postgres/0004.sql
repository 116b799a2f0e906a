-- What announcements of jobs' ends are signed with, encrypted; NULL: none was made yet.
ALTER TABLE virtual_keys ADD COLUMN webhook_secret TEXT COLLATE "C";

-- The host of `webhook`.
ALTER TABLE jobs ADD COLUMN webhook_host TEXT COLLATE "C";
-- When the announcement is due, from the job's end until it is delivered or given up. While a node delivers it, when that
-- node's claim runs out.
ALTER TABLE jobs ADD COLUMN webhook_at BIGINT;
-- Number of claims: a fencing token.
ALTER TABLE jobs ADD COLUMN webhook_attempts BIGINT NOT NULL DEFAULT 0;
-- `delivered` or `given_up`; NULL before that.
ALTER TABLE jobs ADD COLUMN webhook_state TEXT COLLATE "C";
-- Why the last attempt failed.
ALTER TABLE jobs ADD COLUMN webhook_error TEXT COLLATE "C";
CREATE INDEX jobs_webhooks ON jobs (webhook_host, webhook_at) WHERE webhook_at IS NOT NULL;
