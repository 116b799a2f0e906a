-- Notes that a node lives, and counts the nodes that do.
--
-- KEYS[1]  kp:nodes, a sorted set of nodes by the time until which they count, ms
-- ARGV[1]  the node
-- ARGV[2]  how long it counts without another call, ms
--
-- Returns the number of nodes that count.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return redis.call('ZCARD', KEYS[1])
