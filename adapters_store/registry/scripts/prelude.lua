-- Stands before every script. Keys are all of one hash tag; names hold no slash.
local META, ADAPTERS, VERSIONS, DIGESTS, NUMBERS, COMPOSITIONS, API_KEYS, TENANTS, USAGE, EVENTS = unpack(KEYS)
local request = cjson.decode(ARGV[1])
local full_name = (request.tenant or '') .. '/' .. (request.name or '')

local function lookup(key)
  local found = redis.call('HGET', key, full_name)
  return found and cjson.decode(found)
end

local function header()
  return lookup(ADAPTERS)
end

local function composition()
  return lookup(COMPOSITIONS)
end

local function version_field(number)
  return string.format('%s/%d', full_name, number)
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

-- Stores a record by its name, or removes it, and tells of it in the stream.
-- The id of an event is the revision, so a gap in the stream cannot go unseen.
local function publish(kind, key, noun, record, ...)
  local revision = redis.call('HINCRBY', META, 'revision', 1)
  local encoded = ''
  if record then
    record.revision = revision
    encoded = cjson.encode(record)
    redis.call('HSET', key, full_name, encoded)
  else
    redis.call('HDEL', key, full_name)
  end
  redis.call('XADD', EVENTS, 'MAXLEN', '~', 100000, string.format('%d-0', revision),
    'kind', kind, 'birth', request.birth, 'tenant', request.tenant, 'name', request.name,
    'noun', noun, 'record', encoded, ...)
end

local function announce(kind, new_header, version, removed)
  publish(kind, ADAPTERS, 'adapter', new_header, 'version', version or '', 'removed', removed or '')
end

local function announce_composition(kind, new_composition)
  publish(kind, COMPOSITIONS, 'composition', new_composition)
end

local function announce_key(kind, new_key)
  publish(kind, API_KEYS, 'key', new_key)
end

-- Every answer carries what the caller has not seen yet, its own change included.
local function answer(status, number, created)
  local version = number and redis.call('HGET', VERSIONS, version_field(number)) or ''
  local events = redis.call('XRANGE', EVENTS, string.format('%d-0', request.since + 1), '+')
  return {status, redis.call('HGET', ADAPTERS, full_name) or '', version, created and 1 or 0, events}
end

if request.birth and redis.call('HGET', META, 'birth') ~= request.birth then
  return {'replaced', '', '', 0, {}}
end
