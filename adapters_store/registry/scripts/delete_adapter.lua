if not header() then
  return answer('unknown_adapter')
end
-- The counter of numbers stays: a number that was once given away is never given again.
for number = 1, tonumber(redis.call('HGET', NUMBERS, full_name)) do
  local field = version_field(number)
  local stored = redis.call('HGET', VERSIONS, field)
  if stored then
    redis.call('HDEL', VERSIONS, field)
    redis.call('HDEL', DIGESTS, full_name .. '/' .. cjson.decode(stored).digest)
  end
end
announce('adapter_deleted')
return answer('ok')
