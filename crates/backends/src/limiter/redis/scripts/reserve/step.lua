-- The step itself.

local value = redis.call('GET', KEYS[1])
if value then read(value) end
local time = redis.call('TIME')
-- A clock that goes back frees nothing.
local now = math.max(clock, time[1] * 1000 + math.floor(time[2] / 1000))
local used_at = clock
expire_nodes(clock, now)
clock = now
expire(now)
if now >= rebuilt + length then rebuilt = 0 end

local before = find_own()
if before and seq < before.seq then return redis.error_reply('STALE the node has made a later call') end
if not tells_all and confirmed > (before and before.seq or 0) then return {now, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0} end
local repeated = before ~= nil and seq == before.seq
if tells_all and not repeated and (before or rebuilt == 0) then
  forget()
  rebuilt = now
elseif used_at < lost_at then
  rebuilt = math.min(lost_at, now)
end
local node = own_record(now)
if not repeated then
  node.seq, node.bits, node.at = seq, 0, now
  node.calls, node.mean = tonumber(ARGV[9]), tonumber(ARGV[10])
  node.variance, node.max = tonumber(ARGV[11]), tonumber(ARGV[12])
  end_lease(now, node)
end
node.ends = now + ttl

local position, told = 25, {}
for _ = 1, tonumber(ARGV[24]) do
  -- As in `admit`, it counts from the end of its millisecond.
  local at = now + 1 - tonumber(ARGV[position])
  if at + length > now then
    told[#told + 1] = {at, tonumber(ARGV[position + 1]), tonumber(ARGV[position + 2]), tonumber(ARGV[position + 3])}
  end
  position = position + 4
end
position = position + 1
local corrections, debt = {}, {0, 0, 0}
for n = 1, tonumber(ARGV[position - 1]) do
  local a = {}
  for i = 1, 6 do a[i] = tonumber(ARGV[position + i - 1]) end
  corrections[n] = {a[1], {a[2], a[3], a[4]}}
  debt[2], debt[3] = debt[2] + a[5], debt[3] + a[6]
  position = position + 6
end
if not repeated then
  if #told > 0 or #corrections > FEW_CORRECTIONS then
    rewrite(function(entries)
      add_charges(entries, told)
      for _, of in ipairs(corrections) do correct_in(entries, now, of[1], of[2]) end
    end)
  else
    for _, of in ipairs(corrections) do correct(now, of[1], of[2]) end
  end
  if debt[2] > 0 or debt[3] > 0 then charge(now + 1, debt) end
end

local held = {calls = 0, mean = 0, variance = 0, max = 0}
for _, of in ipairs(nodes) do
  held.calls, held.mean = held.calls + of.calls, held.mean + of.mean
  held.variance, held.max = held.variance + of.variance, held.max + of.max
end

withhold(now)
local lent = sum_leases()
local decisions, is_recalled = {}, false
local bit = 1
while ARGV[position] do
  local call = {input = tonumber(ARGV[position]), mean = tonumber(ARGV[position + 1])}
  call.variance, call.max = tonumber(ARGV[position + 2]), tonumber(ARGV[position + 3])
  position = position + 4
  local dimension, kind, at = 0, 0, node.at
  local was_admitted = math.floor(node.bits / bit) % 2 == 1
  if not was_admitted then
    local recalls
    dimension, kind, at, recalls = decide(now, held, lent, call)
    is_recalled = is_recalled or recalls
    -- A call that was refused, in a reply that was lost, is not admitted by the repetition.
    if dimension == 0 and repeated then dimension, at = 1, now end
    if dimension == 0 then
      at = admit(now, held, node, call)
      node.at, node.bits = at, node.bits + bit
    end
  end
  decisions[#decisions + 1] = dimension
  decisions[#decisions + 1] = kind
  decisions[#decisions + 1] = at
  bit = bit * 2
end

if is_recalled then not_before = now + math.ceil(length * PAUSE) end
if not repeated then lend(now, held, lent, node) end

local ends = count > 0 and (entry(count)) + length or now
for _, of in ipairs(nodes) do
  ends = math.max(ends, of.ends + (of.calls > 0 and length or 0), of.lease and of.lease.ends + length or 0)
end
redis.call('SET', KEYS[1], write(), 'PX', ends - now + 1)

local reply = {now, repeated and 1 or 0}
for d = 1, 3 do reply[#reply + 1] = totals[d] + lent[d] end
reply[#reply + 1] = pooled(held)
reply[#reply + 1] = held.calls
for d = 1, 3 do reply[#reply + 1] = empties(d) end
-- What was admitted counts from the end of the millisecond.
reply[#reply + 1] = node.bits > 0 and node.at - 1 or node.at
reply[#reply + 1] = is_recalled and 1 or 0
local lease = node.lease and node.lease.ends > now and node.lease or {0, 0, 0, ends = now, calls = 0}
for _, number in ipairs({lease.ends - now, lease[1], lease[2], lease[3], lease.calls}) do reply[#reply + 1] = number end
for _, number in ipairs(decisions) do reply[#reply + 1] = number end
return reply
