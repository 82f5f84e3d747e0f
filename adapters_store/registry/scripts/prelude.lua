-- Stands before every script. Keys are all of one hash tag; names hold no slash.
local META, ADAPTERS, VERSIONS, DIGESTS, NUMBERS, EVENTS = unpack(KEYS)
local request = cjson.decode(ARGV[1])
local adapter = (request.tenant or '') .. '/' .. (request.name or '')

local function header()
  local stored = redis.call('HGET', ADAPTERS, adapter)
  return stored and cjson.decode(stored)
end

local function version_field(number)
  return string.format('%s/%d', adapter, number)
end

local function has_version(number)
  return redis.call('HEXISTS', VERSIONS, version_field(number)) == 1
end

-- The previous version stays one step away: that is the rollback.
local function point(aliases, alias, number)
  local current = aliases[alias]
  if current == number then
    return false
  end
  if alias == 'production' and current then
    aliases.previous = current
  end
  aliases[alias] = number
  return true
end

-- The id of an event is the revision, so a gap in the stream cannot go unseen.
local function announce(kind, new_header, version, removed)
  local revision = redis.call('HINCRBY', META, 'revision', 1)
  local encoded = ''
  if new_header then
    new_header.revision = revision
    encoded = cjson.encode(new_header)
    redis.call('HSET', ADAPTERS, adapter, encoded)
  end
  redis.call('XADD', EVENTS, 'MAXLEN', '~', 100000, string.format('%d-0', revision),
    'kind', kind, 'birth', request.birth, 'tenant', request.tenant, 'name', request.name,
    'header', encoded, 'version', version or '', 'removed', removed or '')
end

-- Every answer carries what the caller has not seen yet, its own change included.
local function answer(status, number, created)
  local version = number and redis.call('HGET', VERSIONS, version_field(number)) or ''
  local events = redis.call('XRANGE', EVENTS, string.format('%d-0', request.since + 1), '+')
  return {status, redis.call('HGET', ADAPTERS, adapter) or '', version, created and 1 or 0, events}
end

if request.birth and redis.call('HGET', META, 'birth') ~= request.birth then
  return {'replaced', '', '', 0, {}}
end
