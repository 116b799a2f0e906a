-- Notes that a node lives, and says what is known of all nodes that do.
--
-- KEYS[1]  kp:nodes, a hash: for each node the time until which it counts and since when it has told all that it uses, ms;
--          `lost`: when data was lost, as far as the nodes know, ms
-- ARGV[1]  the node, a number
-- ARGV[2]  how long it counts without another call, ms
-- ARGV[3]  since when it has told all that it uses, ms; 0 on its first call, when it uses nothing
-- ARGV[4]  when it knows data to have been lost, ms; 0: never
--
-- A node that made a call before and is not known any more shows that data was lost.
--
-- Returns the server's time, ms; when data was lost, ms (0: never); then for each node that counts, since when it has told
-- all that it uses, ms.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local told, lost = tonumber(ARGV[3]), tonumber(ARGV[4])
lost = math.max(lost, tonumber(redis.call('HGET', KEYS[1], 'lost') or 0))
if told > 0 and redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then lost = now end
if told == 0 then told = now end
redis.call('HSET', KEYS[1], ARGV[1], (now + ARGV[2]) .. ' ' .. told, 'lost', lost)
redis.call('PEXPIRE', KEYS[1], ARGV[2])

local reply = {now, lost}
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local ends, since = string.match(all[i + 1], '^(%d+) (%d+)$')
  if ends and tonumber(ends) <= now then
    redis.call('HDEL', KEYS[1], all[i])
  elseif ends then
    reply[#reply + 1] = tonumber(since)
  end
end
return reply
