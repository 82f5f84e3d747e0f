-- Feedback joins its adapter's queue, once by its id, while its interaction is there.
local INTERACTION, GIVEN, EVENTS, SCORES, JUDGES = unpack(KEYS)
local text, fingerprint, keep_s, oldest, limit, scored, judge, cap = unpack(ARGV)
local before = redis.call('GET', GIVEN)
if before then
  return before == fingerprint and 'again' or 'other'
end
if redis.call('EXISTS', INTERACTION) == 0 then
  return 'gone'
end
-- What is older than the time that interactions are kept could not be used, and must not be kept either.
redis.call('XTRIM', EVENTS, 'MINID', oldest)
if redis.call('XLEN', EVENTS) >= tonumber(limit) then
  return 'full'
end
redis.call('SET', GIVEN, fingerprint, 'EX', keep_s)
redis.call('XADD', EVENTS, '*', 'feedback', text)
if scored ~= '' then
  local judged = 0
  -- Or one user alone could decide what becomes of a version.
  if judge ~= '' then
    judged = redis.call('HINCRBY', JUDGES, judge, 1) - 1
    redis.call('EXPIRE', JUDGES, keep_s)
  end
  if judged < tonumber(cap) then
    redis.call('HINCRBY', SCORES, scored, 1)
  end
end
return 'new'
