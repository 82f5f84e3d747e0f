-- One holder at a time; each gets a token that is greater than every one before.
local LEASE, FENCE = unpack(KEYS)
if redis.call('EXISTS', LEASE) == 1 then
  return 0
end
local token = redis.call('INCR', FENCE)
redis.call('SET', LEASE, token, 'PX', ARGV[1])
return token
