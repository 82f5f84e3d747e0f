-- A run begins only where none is open.
local ACTIVE, RUN, RUNS, OPEN = unpack(KEYS)
local id, text, created, adapter = unpack(ARGV)
local open = redis.call('GET', ACTIVE)
if open then
  return open
end
redis.call('SET', ACTIVE, id)
redis.call('SET', RUN, text)
redis.call('ZADD', RUNS, created, id)
redis.call('SADD', OPEN, adapter)
return ''
