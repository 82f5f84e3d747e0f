if redis.call('EXISTS', META) == 0 then
  redis.call('HSET', META, 'schema', request.schema, 'birth', request.new_birth, 'revision', 0)
elseif tonumber(redis.call('HGET', META, 'schema')) < request.schema then
  redis.call('HSETNX', META, 'origin', redis.call('HGET', META, 'birth'))
  redis.call('HSET', META, 'schema', request.schema, 'birth', request.new_birth)
end

local function values(key)
  return '[' .. table.concat(redis.call('HVALS', key), ',') .. ']'
end

local meta = redis.call('HMGET', META, 'schema', 'birth', 'revision', 'origin')
return {meta[1], meta[2], meta[3], meta[4] or meta[2], values(ADAPTERS), values(VERSIONS), values(COMPOSITIONS),
  values(API_KEYS), values(TENANTS)}
