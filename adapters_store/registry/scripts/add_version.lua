local known = header()
if request.if_created and (not known or known.created ~= request.if_created) then
  return answer('unknown_adapter')
end
if composition() then
  return answer('name_taken')
end
local current = known or {
  tenant = request.tenant, name = request.name, created = request.created, aliases = {}, pins = {},
}
local digest = full_name .. '/' .. request.digest
local number = tonumber(redis.call('HGET', DIGESTS, digest))
local created = not number
local version

if created then
  number = redis.call('HINCRBY', NUMBERS, full_name, 1)
  -- Spliced as text: cjson would turn empty lists into objects and round large numbers.
  version = string.format('{"number":%d,', number) .. request.version:sub(2)
  redis.call('HSET', VERSIONS, version_field(number), version)
  redis.call('HSET', DIGESTS, digest, number)
  if not known and not request.quarantined then
    point(current.aliases, 'production', number)
  end
end

local moved = false
for _, alias in ipairs(request.aliases) do
  moved = point(current.aliases, alias, number) or moved
end

if created or moved then
  announce(created and 'version_added' or 'alias_set', current, version)
end
return answer('ok', number, created)
