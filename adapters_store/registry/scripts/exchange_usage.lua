-- Usage is text that only servers read; what was not renewed in time is of a server that is gone.
local now = tonumber(redis.call('TIME')[1])
redis.call('HSET', USAGE, request.server, string.format('%d %s', now, request.usage))
local stored = redis.call('HGETALL', USAGE)
local others = {}
for index = 1, #stored, 2 do
  local at, usage = stored[index + 1]:match('^(%d+) (.*)$')
  if now - tonumber(at) > request.forget_s then
    redis.call('HDEL', USAGE, stored[index])
  elseif stored[index] ~= request.server then
    table.insert(others, usage)
  end
end
return others
