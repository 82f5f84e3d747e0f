-- A run begins only where none is open.
local ACTIVE, RUN, RUNS = unpack(KEYS)
local id, text, created = unpack(ARGV)
local open = redis.call('GET', ACTIVE)
if open then
  return open
end
redis.call('SET', ACTIVE, id)
redis.call('SET', RUN, text)
redis.call('ZADD', RUNS, created, id)
return ''
