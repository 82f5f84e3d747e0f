local current = header()
if not current then
  return answer('unknown_adapter')
end
if not has_version(request.number) then
  return answer('unknown_version')
end
local pin = string.format('%d', request.number)
local wanted = request.pinned or nil
if current.pins[pin] ~= wanted then
  current.pins[pin] = wanted
  announce(wanted and 'version_pinned' or 'version_unpinned', current)
end
return answer('ok')
