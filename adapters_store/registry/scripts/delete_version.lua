local current = header()
if not current then
  return answer('unknown_adapter')
end
local field = version_field(request.number)
local stored = redis.call('HGET', VERSIONS, field)
if not stored then
  return answer('unknown_version')
end
if current.pins[string.format('%d', request.number)] then
  return answer('version_in_use')
end
for _, number in pairs(current.aliases) do
  if number == request.number then
    return answer('version_in_use')
  end
end
redis.call('HDEL', VERSIONS, field)
redis.call('HDEL', DIGESTS, full_name .. '/' .. cjson.decode(stored).digest)
announce('version_deleted', current, nil, request.number)
return answer('ok')
