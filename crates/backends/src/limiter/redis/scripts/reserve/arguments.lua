-- Settles calls of one node, decides about others, and lends the node a part of what is left, for one caller or key, in one
-- step.
--
-- The rules are those of the in-process limiter: a window of charges as an adaptive run-length log, and beside it what the
-- calls in flight hold, per node. Each node states what it holds absolutely, and numbers its calls, so that a call that
-- arrives twice counts once. What a node held that is silent for too long counts as used when its time ends.
--
-- A lease lets a node admit calls by itself until the lease ends. What is lent counts as used. Each step of the node ends its
-- lease: the step says what was admitted on it, and the rest is free again. A lease that ends without a step counts as used
-- up when it ends. If the step comes later, what it says takes the place of that.
--
-- Redis may lose all of it, or the last moments. A node whose newest call is not known any more then says so, and makes its
-- call again with all that it has used; the value is built anew from what the nodes say. Until each has made a call, nothing is
-- admitted, at first; later what the others may have used is withheld, until it would have left the window.
--
-- KEYS[1]      kp:{id}
-- ARGV[1]      length of the window, ms, at most an hour
-- ARGV[2..5]   limits: requests, input tokens, output tokens, calls in flight; -1: no limit
-- ARGV[6]      the node, a number below 2^32 that no other process uses
-- ARGV[7]      the number of this call among the node's calls for this key, rising, from 1, below 2^32
-- ARGV[8]      how long the node's record holds without another call, ms, at most four hours
-- ARGV[9..12]  what the node's calls in flight hold, without those that are decided here: number of calls; output tokens:
--              sum of means, of variances, of maxima
-- ARGV[13]     the number of the node's newest call that was confirmed, if anything of the node may still count, else 0
-- ARGV[14..15] what is known of all nodes: how many there are; since when (ms) each has told all that it uses
-- ARGV[16]     when data was lost, ms, if not all nodes have told what they use since; else 0. A key that has not been used
--              since then may have been lost, or what it last held
-- ARGV[17]     how long the nodes have to say what they use, ms
-- ARGV[18]     1: the node says all that it has used, for a value that was lost; 0: it adds what it admitted without Redis
-- ARGV[19..23] what the node wants to be lent: the number of requests that it expects in a window (0: no lease), and for each
--              of them the input tokens, and the mean, variance and maximum of the output tokens
-- ARGV[24]     number of charges that it says; then four for each, the oldest first: age, ms; requests, input tokens,
--              output tokens
-- then         number of settlements; then six for each:
--              when the call was admitted (as returned), ms; what to add to the charges of that time (negative: give
--              back): requests, input tokens, output tokens; what to charge now: input tokens, output tokens
-- then         four for each call to decide, at most 32: input tokens; output tokens: mean, variance, maximum
--
-- Returns integers: the server's time, ms; 1 if this call had been received before, 2 if earlier ones were lost, so that
-- nothing was done, else 0; used in the window or lent to other nodes: requests, input tokens, output tokens; held: output
-- tokens, calls; when all of each dimension will have left the window, ms (0: nothing used); when this step was received
-- first, ms; 1 if a call was refused while other nodes have leases, which they must return, else 0; of the new lease: its
-- length, ms (0: there is none), requests, input tokens, output tokens, calls in flight; then three for each call to
-- decide:
--   0, 0, when it counts (ms)          admitted
--   dimension, 0, T                    refused; admitted at T (ms) if nobody else takes the room
--   dimension, 1, T                    refused until calls in flight end; then at the latest at T (-1: nothing tells)
--   dimension, 2, 0                    refused; it needs more than the whole limit
-- with dimension 1 requests, 2 input tokens, 3 output tokens, 4 calls in flight. An admitted call is in the node's holds
-- until a later call of the node states them without it.
-- Error STALE: the node has made a later call.
--
-- The value: version, time of the newest decision, what is used (three sums), a base time (ms before the end of the newest
-- decision's millisecond), ms from the first charge of the newest entry to its last, numbers of entries and nodes, when it
-- was built anew after a loss (as the base; 0: it was not), how long nothing is lent (ms from the newest decision); then
-- entries, oldest first: last charge (ms since the base) and three amounts, in 2 bytes each (version 1), in 2, 3 and 3
-- (version 2), or in 4 each, like the time (version 3); then nodes: flags (1: calls in flight, 2: a lease), id, number of
-- the newest call, end of its record (ms from the newest decision), its admissions (bits) and their time (as the base); of
-- the calls in flight, their number and the three sums; of the lease, its end (ms from the newest decision, plus 2^31), and
-- what is lent.
-- Entries are read only where they are needed: mostly the oldest and the newest.

-- While there are fewer entries than FEW, one spans at most 1/SHORT of the window, then 1/LONG, by version. That bounds the
-- value to about 890 bytes, whatever its version.
local FEW, SHORT, LONG = 32, 6000, {60, 44, 44}
-- Standard deviations of the sum that are held beside its mean.
local DEVIATIONS = 4
local HEADER, NODE = '>BI6I5I5I5I3I2I2I2I3I2', '>BI4I4I3I4I3'
local HELD, LEASE, MIDDLE = '>I4ddI6', '>I4I4I4I4I2', 2 ^ 31
local FORMATS, SIZES = {'>I2I2I2I2', '>I2I2I3I3', '>I4I4I4I4'}, {8, 10, 16}
-- What an entry can hold of requests and of tokens.
local MOST_REQUESTS, MOST_TOKENS = {65535, 65535, 2 ^ 32 - 1}, {65535, 2 ^ 24 - 1, 2 ^ 32 - 1}
local MOST = 2 ^ 32 - 1
-- The longest time from the base to an entry.
local LATEST = {65535, 65535, 2 ^ 23}
-- What is lent is to last for a part of the window: the less of the limits is used, the longer. Above the last bound, Redis
-- decides about each call.
local BOUNDS, LASTING = {0.85, 0.93, 0.98}, {1 / 6, 1 / 12, 1 / 30}
-- The time that a node has to return a lease after that, as a part of the window.
local TO_RETURN = 1 / 30
-- With more corrections than this, all entries are read.
local FEW_CORRECTIONS = 3
-- The most calls in flight on a lease.
local MOST_CALLS = 65535
-- After a call was refused while others had leases, nothing is lent for this part of the window.
local PAUSE = 1 / 60
-- How long nodes have to return what they were lent, ms.
local RECALL = 240

local length = tonumber(ARGV[1])
local limits = {tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])}
local max_calls = tonumber(ARGV[5])
local node_id, seq, ttl = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local confirmed, known_nodes, told_since = tonumber(ARGV[13]), tonumber(ARGV[14]), tonumber(ARGV[15])
local lost_at, patience, tells_all = tonumber(ARGV[16]), tonumber(ARGV[17]), ARGV[18] == '1'

local wants = {requests = tonumber(ARGV[19]), input = tonumber(ARGV[20]), mean = tonumber(ARGV[21])}
wants.variance, wants.max = tonumber(ARGV[22]), tonumber(ARGV[23])

local version, clock, base, span, count, body, rebuilt, not_before = 1, 0, 0, 0, 0, '', 0, 0
local totals, nodes = {0, 0, 0}, {}
