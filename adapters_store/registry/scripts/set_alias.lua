local current = header()
if not current then
  return answer('unknown_adapter')
end
if not has_version(request.number) then
  return answer('unknown_version')
end
if request.compare and (current.aliases[request.alias] or 0) ~= request.expected then
  return answer('alias_moved')
end
if point(current.aliases, request.alias, request.number) then
  announce('alias_set', current)
end
return answer('ok')
