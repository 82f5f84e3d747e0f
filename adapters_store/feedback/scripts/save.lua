-- The state of an open run, written only by who holds the lease. At the end, in the same step: the events that it used
-- leave the queue, poison goes to the dead letters, the rest is free for the next run, and the oldest ended runs go.
local LEASE, RUN, ACTIVE, EVENTS, DEAD, TRIES, ORDER, MEMORY, REST, ENDED, OPEN, RUNS = unpack(KEYS)
local request = cjson.decode(ARGV[2])
if redis.call('GET', LEASE) ~= ARGV[1] then
  return 'fenced'
end
if redis.call('GET', ACTIVE) ~= request.id then
  return 'fenced'
end
redis.call('SET', RUN, ARGV[3])
if not request.over then
  return 'ok'
end

local function leave(entry)
  redis.call('XACK', EVENTS, request.group, entry)
  redis.call('XDEL', EVENTS, entry)
  redis.call('HDEL', TRIES, entry)
end

local function bury(entry, reason)
  redis.call('RPUSH', DEAD, cjson.encode({entry = entry, reason = reason, run = request.id}))
  redis.call('LTRIM', DEAD, -1000, -1)
  leave(entry)
end

for _, entry in ipairs(request.used) do
  leave(entry)
end
for _, pair in ipairs(request.poison) do
  bury(pair[1], pair[2])
end
for _, entry in ipairs(request.failed) do
  -- Meanwhile its user may have been forgotten, or the adapter deleted.
  if #redis.call('XRANGE', EVENTS, entry, entry) == 0 then
    redis.call('HDEL', TRIES, entry)
  elseif redis.call('HINCRBY', TRIES, entry, 1) >= request.max_tries then
    bury(entry, request.reason)
  end
end
for _, id in ipairs(request.forget) do
  redis.call('HDEL', MEMORY, id)
end
for _, pair in ipairs(request.remember) do
  redis.call('HSET', MEMORY, pair[1], pair[2])
end
if request.rest_ms > 0 then
  redis.call('SET', REST, request.id, 'PX', request.rest_ms)
end
redis.call('RPUSH', ENDED, request.id)
while redis.call('LLEN', ENDED) > request.kept do
  local oldest = redis.call('LPOP', ENDED)
  redis.call('DEL', request.run_prefix .. oldest, request.decisions_prefix .. oldest)
  redis.call('ZREM', RUNS, oldest)
end
redis.call('DEL', ACTIVE, ORDER)
redis.call('SREM', OPEN, request.adapter)
return 'ok'
