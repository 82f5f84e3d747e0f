-- An interaction, findable by its end user, and a mark that outlives it and says when it ended.
local INTERACTION, EXPIRY, USER = unpack(KEYS)
local text, keep_s, mark_s, expires, id = unpack(ARGV)
redis.call('SET', INTERACTION, text, 'EX', keep_s)
redis.call('SET', EXPIRY, expires, 'EX', mark_s)
if USER then
  redis.call('ZREMRANGEBYSCORE', USER, '-inf', tonumber(expires) - tonumber(keep_s))
  redis.call('ZADD', USER, expires, id)
  if redis.call('TTL', USER) < tonumber(keep_s) then
    redis.call('EXPIRE', USER, keep_s)
  end
end
return 1
