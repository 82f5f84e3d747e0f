local current = header()
if not current then
  return answer('unknown_adapter')
end
if not current.aliases[request.alias] then
  return answer('unknown_alias')
end
current.aliases[request.alias] = nil
announce('alias_deleted', current)
return answer('ok')
