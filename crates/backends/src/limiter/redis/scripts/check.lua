-- Whether a script of this user may read and write, on a server that takes writes.
--
-- KEYS[1]  a key that nothing else uses; it is gone after a second
-- Returns  the server's time: seconds, microseconds
redis.call('SET', KEYS[1], '1', 'PX', 1000)
redis.call('GET', KEYS[1])
return redis.call('TIME')
