-- KEYS: replicas. ARGV: id, record (empty: the server leaves).
if ARGV[2] == '' then
  redis.call('HDEL', KEYS[1], ARGV[1])
else
  local now = redis.call('TIME')
  redis.call('HSET', KEYS[1], ARGV[1], string.format('%d.%06d %s', now[1], now[2], ARGV[2]))
end
return {}
