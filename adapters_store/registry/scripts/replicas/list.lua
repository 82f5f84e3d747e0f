-- KEYS: replicas. ARGV: seconds until a silent server is forgotten. Answers record, age, record, age ...
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local found = {}
local entries = redis.call('HGETALL', KEYS[1])
for i = 1, #entries, 2 do
  local seen, record = string.match(entries[i + 1], '^(%S+) (.*)$')
  local age = now - tonumber(seen)
  if age > tonumber(ARGV[1]) then
    redis.call('HDEL', KEYS[1], entries[i])
  else
    found[#found + 1] = record
    found[#found + 1] = string.format('%.3f', age)
  end
end
return found
