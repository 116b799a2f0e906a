-- Notes that a node lives, says what is known of all nodes that do, and passes on which leases are missing elsewhere.
--
-- KEYS[1]   kp:{nodes}, a hash: for each node the time until which it counts, since when it has told all that it uses, both
--           in ms, and the number of its calls; `lost`: when data was lost, as far as the nodes know, ms
-- KEYS[2]   kp:{nodes}:recalls, a sorted set: callers and keys whose leases are missing, by the time of the call that said so, ms
-- ARGV[1]   the node, a number
-- ARGV[2]   how long it counts without another call, ms
-- ARGV[3]   since when it has told all that it uses, ms; 0 on its first call, when it uses nothing
-- ARGV[4]   when it knows data to have been lost, ms; 0: never
-- ARGV[5]   how long a node is remembered after it has ceased to count, ms: as long as something that it used may count
-- ARGV[6]   the time of its last call, ms: later recalls are passed on
-- ARGV[7]   the number of its last call that was confirmed; 0: none was
-- then      callers and keys whose leases are missing
--
-- A node that made more calls than are known here shows that data was lost.
--
-- Returns the server's time, ms; when data was lost, ms (0: never); the number of this call; an array: for each node that counts, since when it has
-- told all that it uses, ms; an array of callers and keys.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local told, lost, remembered = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
lost = math.max(lost, tonumber(redis.call('HGET', KEYS[1], 'lost') or 0))
local confirmed = tonumber(ARGV[7])
local known = tonumber(string.match(redis.call('HGET', KEYS[1], ARGV[1]) or '', '%d+$') or 0)
if known < confirmed then lost = now end
if told == 0 then told = now end
local number = math.max(known, confirmed) + 1
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f %.0f %.0f', now + ARGV[2], told, number), 'lost', lost)
redis.call('PEXPIRE', KEYS[1], ARGV[2] + remembered)

local nodes = {}
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local ends, since = string.match(all[i + 1], '^(%d+) (%d+) ')
  if ends and tonumber(ends) + remembered <= now then
    redis.call('HDEL', KEYS[1], all[i])
  elseif ends and tonumber(ends) > now then
    nodes[#nodes + 1] = tonumber(since)
  end
end

for i = 8, #ARGV do redis.call('ZADD', KEYS[2], now, ARGV[i]) end
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now - ARGV[2])
redis.call('PEXPIRE', KEYS[2], ARGV[2])
return {now, lost, number, nodes, redis.call('ZRANGEBYSCORE', KEYS[2], ARGV[6], '+inf')}
